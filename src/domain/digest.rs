//! The digest: one number over all facts of the state, equal on all replicas at the same sequence.
//!
//! It adds up the hashes of logical facts, so that it can be kept up to date one fact at a time and does not depend on
//! how a replica stores them. It finds divergence; it is not a security property (sums can be forged).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::broadcast_state::EndReason;
use super::event::Broadcast;
use super::hash::first_half_of_sha256;
use super::types::{BroadcastId, Channel, Fingerprint};

/// A sum of 128-bit fact hashes, modulo 2¹²⁸; written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(u128);

impl Digest {
    /// Adds a broadcast: all of its fields, its channel and its sequence.
    pub fn add_broadcast(&mut self, channel: &Channel, broadcast: &Broadcast, sequence: u64, late: bool) {
        self.add(&[
            b"broadcast",
            channel.as_str().as_bytes(),
            broadcast.id.0.as_bytes(),
            broadcast.message.as_str().as_bytes(),
            broadcast.severity.as_str().as_bytes(),
            broadcast.created_by.as_str().as_bytes(),
            &broadcast.created_at.as_unix_ms().to_be_bytes(),
            &sequence.to_be_bytes(),
            &[u8::from(late)],
        ]);
    }

    /// Adds the end of a broadcast.
    pub fn add_end(&mut self, id: BroadcastId, sequence: u64, reason: EndReason) {
        self.add(&[b"end", id.0.as_bytes(), &sequence.to_be_bytes(), reason.as_str().as_bytes()]);
    }

    /// Adds the first acknowledgement of a broadcast by a user.
    pub fn add_acknowledgement(&mut self, id: BroadcastId, user: Fingerprint, sequence: u64) {
        self.add(&[b"acknowledgement", id.0.as_bytes(), &user.bytes(), &sequence.to_be_bytes()]);
    }

    fn add(&mut self, fact: &[&[u8]]) {
        let [high, low] = first_half_of_sha256(fact).map(u128::from);
        self.0 = self.0.wrapping_add(high << 64 | low);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = std::num::ParseIntError;

    fn try_from(hex: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&hex, 16).map(Self)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use sha2::{Digest as _, Sha256};

    use super::*;

    proptest! {
        #[test]
        fn parts_of_any_length_hash_as_one_after_the_other(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        ) {
            let mut hasher = Sha256::new();
            for part in &parts {
                hasher.update((part.len() as u64).to_be_bytes());
                hasher.update(part);
            }
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            let half: Vec<_> = hasher.finalize().iter().take(16).copied().collect();
            prop_assert_eq!(first_half_of_sha256(&parts).map(u64::to_be_bytes).concat(), half);
        }
    }
}
