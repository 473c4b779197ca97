//! The epoch: the identity of the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::SystemClock;

/// The identity of a log: 64 random bits, drawn once when its stream is provisioned and kept in the stream's metadata, under
/// [`super::names::EPOCH_METADATA`].
///
/// A stream that was deleted and provisioned anew counts its sequences from 1 again, and has another epoch. A stream that
/// was restored from a snapshot keeps its configuration, and so its epoch: unlike its creation time, which the restore
/// changes. Written as 16 lower-case hexadecimal digits, since as a number it would exceed what JSON readers keep.
///
/// Two epochs are the same or not; neither is the newer one. The order is for collections alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(u64);

impl Epoch {
    /// From its bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// A new one, drawn from the operating system.
    pub fn random() -> anyhow::Result<Self> {
        SystemClock::random_bits().map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text is not an [`Epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an epoch has 16 lower-case hexadecimal digits")]
pub struct InvalidEpoch;

impl FromStr for Epoch {
    type Err = InvalidEpoch;

    /// One spelling: neither capitals nor fewer digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        bits.map(Self).ok_or(InvalidEpoch)
    }
}

impl TryFrom<String> for Epoch {
    type Error = InvalidEpoch;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_epoch_has_one_spelling() {
        for bad in ["", "0", "0123456789ABCDEF", "0123456789abcdef0", "+123456789abcdef", "0x23456789abcdef"]
        {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_new_epoch_is_another_one() {
        assert_ne!(Epoch::random().unwrap(), Epoch::random().unwrap());
    }

    proptest! {
        #[test]
        fn epochs_round_trip(bits: u64) {
            let epoch = Epoch::from_bits(bits);
            prop_assert_eq!(epoch.to_string().parse(), Ok(epoch));
            prop_assert_eq!(epoch.to_string().len(), 16);
        }
    }
}
