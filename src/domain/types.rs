//! The values of the domain as types: each is validated once, where it enters.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::hash::first_half_of_sha256;
use super::parsed::Parsed;
pub use super::timestamp::Timestamp;

/// The most bytes a user id may have.
pub const MAX_USER_BYTES: usize = 128;

/// The maximum number of Unicode scalar values in a message, after trimming.
///
/// The seed counted with Python's `len`, which counts code points too.
pub const MAX_MESSAGE_CHARS: usize = 280;

/// The most bytes a channel's name may have.
pub const MAX_CHANNEL_BYTES: usize = 32;

/// A namespace of broadcasts, the first path segment after `/api/`: `[a-z0-9][a-z0-9_-]{0,31}`.
///
/// At most one broadcast is active in a channel at any time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Channel(Arc<str>);

impl Channel {
    /// The name, as in URLs and subjects.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is not a channel's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{}` is not a channel name: 1 to {MAX_CHANNEL_BYTES} of a-z, 0-9, _ and -, starting with a letter or digit",
    .0.escape_debug()
)]
pub struct InvalidChannel(String);

impl FromStr for Channel {
    type Err = InvalidChannel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let tail_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        let head_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let fits = (1..=MAX_CHANNEL_BYTES).contains(&bytes.len());
        if fits && head_ok(bytes[0]) && bytes.iter().all(|b| tail_ok(*b)) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidChannel(name.to_owned()))
        }
    }
}

impl TryFrom<String> for Channel {
    type Error = InvalidChannel;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<Channel> for String {
    fn from(channel: Channel) -> Self {
        channel.0.as_ref().to_owned()
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user id: any string of 1 to 128 bytes, as the identity provider issues it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct UserId(Arc<str>);

impl UserId {
    /// The id as the identity provider gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of this user in sets of acknowledgements.
    pub fn fingerprint(&self) -> Fingerprint {
        Self::fingerprint_of(&self.0)
    }

    /// The fingerprint of an id that is not a [`UserId`] value.
    pub fn fingerprint_of(id: &str) -> Fingerprint {
        let [high, low] = first_half_of_sha256(&[id.as_bytes()]);
        Fingerprint { high, low }
    }
}

/// A user id of this many bytes is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a user id has 1 to {MAX_USER_BYTES} bytes; this one has {0}")]
pub struct InvalidUserId(usize);

impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        if (1..=MAX_USER_BYTES).contains(&id.len()) {
            Ok(Self(id.into()))
        } else {
            Err(InvalidUserId(id.len()))
        }
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidUserId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        id.parse()
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(PhantomData))
    }
}

impl From<UserId> for String {
    fn from(user: UserId) -> Self {
        user.0.as_ref().to_owned()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user id hashed to 128 bits: the first half of its SHA-256.
///
/// Two users collide with probability 2⁻⁶⁴ only once there are some 4 billion of them. It is two numbers of 64 bits, since one of
/// 128 would have to begin at a multiple of 16 bytes: with a sequence beside it that is a third more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    /// The first 64 bits.
    pub high: u64,
    /// The last 64 bits.
    pub low: u64,
}

impl Fingerprint {
    /// The bits in their order.
    pub fn bytes(self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_be_bytes()
    }
}

/// A map by [`Fingerprint`], which is a hash already: it only has to be mixed with a random key, so that no client can provoke
/// collisions.
pub type ByUser<T> = HashMap<Fingerprint, T, foldhash::fast::RandomState>;

/// The id of a broadcast, which is that of the event that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct BroadcastId(pub Uuid);

/// A string is not a UUID in its one spelling: lower case, hyphenated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a UUID with hyphens, such as 0198c5a0-1111-7222-8333-444455556666")]
pub struct InvalidBroadcastId;

impl From<uuid::Error> for InvalidBroadcastId {
    fn from(_: uuid::Error) -> Self {
        Self
    }
}

impl BroadcastId {
    /// Reads an id as a client writes it: hyphenated, in either case (RFC 9562, section 4). In the log, in subjects and in
    /// keys an id has one spelling.
    pub fn from_client(text: &str) -> Result<Self, InvalidBroadcastId> {
        Ok(Self(uuid::fmt::Hyphenated::from_str(text)?.into_uuid()))
    }
}

impl TryFrom<String> for BroadcastId {
    type Error = InvalidBroadcastId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        id.parse()
    }
}

impl From<BroadcastId> for String {
    fn from(id: BroadcastId) -> Self {
        id.to_string()
    }
}

impl FromStr for BroadcastId {
    type Err = InvalidBroadcastId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        // The hyphenated form in lower case alone, so that an id has one spelling in URLs, subjects and keys.
        let uuid = uuid::fmt::Hyphenated::from_str(id)?.into_uuid();
        let spelled = &mut Uuid::encode_buffer();
        if uuid.hyphenated().encode_lower(spelled) == id { Ok(Self(uuid)) } else { Err(InvalidBroadcastId) }
    }
}

impl<'de> Deserialize<'de> for BroadcastId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(PhantomData))
    }
}

impl fmt::Display for BroadcastId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a client should present a broadcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information.
    #[default]
    Info,
    /// Needs attention.
    Warning,
    /// Needs attention at once.
    Alert,
}

impl Severity {
    /// All of them, in the order in which documents list them.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Alert];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Alert => "alert",
        }
    }

    /// The severity with this word on the wire, if it is one of the three.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn channel_names_follow_the_token_rule() {
        for good in ["creator", "0", "a-b_c", &"x".repeat(32)] {
            assert!(good.parse::<Channel>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a.b", "a b", "é", "a*", ">", &"x".repeat(33)] {
            assert!(bad.parse::<Channel>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_broadcast_id_has_one_spelling(id: u128, at in 0..36_usize) {
            let id = BroadcastId(Uuid::from_u128(id));
            let text = id.to_string();
            prop_assert_eq!((text.parse(), text.parse().map(|id: BroadcastId| id.to_string())), (Ok(id), Ok(text.clone())));
            let (before, rest) = text.split_at(at);
            let other = format!("{before}{}{}", rest[..1].to_uppercase(), &rest[1..]);
            prop_assert_eq!(other.parse::<BroadcastId>().is_ok(), other == text);
            prop_assert_eq!(BroadcastId::from_client(&other), Ok(id));
            for other in [text.replace('-', ""), format!("{{{text}}}"), format!("urn:uuid:{text}")] {
                prop_assert!(other.parse::<BroadcastId>().is_err() && BroadcastId::from_client(&other).is_err());
            }
        }
    }
}
