//! The names of streams, subjects, buckets and keys. No other file has them as literals.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::domain::{BroadcastId, Channel, UserId};

/// The stream that is the log.
pub const LOG_STREAM: &str = "BROADCASTS";

/// Everything in the log.
pub const LOG_SUBJECTS: &str = "broadcasts.>";

/// The key in the metadata of [`LOG_STREAM`] under which the log's epoch is.
pub const EPOCH_METADATA: &str = "tidings-epoch";

/// The stream of checkpoints, and its one subject.
pub const CHECKPOINT_STREAM: &str = "BROADCAST_CHECKPOINTS";

/// See [`CHECKPOINT_STREAM`].
pub const CHECKPOINT_SUBJECT: &str = "broadcast_checkpoints.log";

/// A subject of the log.
///
/// ```text
/// broadcasts.{channel}.lifecycle              created, cleared: guarded by the last sequence on the subject
/// broadcasts.{channel}.acks.{broadcast id}    acknowledged: no guard, a set
/// broadcasts.{channel}.late                   created or cleared, overtaken before they reached the log
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Starts and ends of broadcasts.
    Lifecycle(Channel),
    /// The acknowledgements of one broadcast.
    Acks(Channel, BroadcastId),
    /// Late events.
    Late(Channel),
}

impl Subject {
    /// The channel in the subject.
    pub const fn channel(&self) -> &Channel {
        match self {
            Self::Lifecycle(channel) | Self::Acks(channel, _) | Self::Late(channel) => channel,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lifecycle(channel) => write!(f, "broadcasts.{channel}.lifecycle"),
            Self::Acks(channel, id) => write!(f, "broadcasts.{channel}.acks.{id}"),
            Self::Late(channel) => write!(f, "broadcasts.{channel}.late"),
        }
    }
}

/// A text is no [`Subject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("its subject is not one of Tidings")]
pub struct InvalidSubject;

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(subject: &str) -> Result<Self, Self::Err> {
        let tokens: Vec<_> = subject.split('.').collect();
        let channel = |name: &str| name.parse::<Channel>().map_err(|_| InvalidSubject);
        match tokens[..] {
            ["broadcasts", name, "lifecycle"] => Ok(Self::Lifecycle(channel(name)?)),
            ["broadcasts", name, "late"] => Ok(Self::Late(channel(name)?)),
            ["broadcasts", name, "acks", id] => {
                Ok(Self::Acks(channel(name)?, id.parse().map_err(|_| InvalidSubject)?))
            }
            _ => Err(InvalidSubject),
        }
    }
}

/// The KV bucket of active broadcasts: key `{channel}`.
pub const ACTIVE_BUCKET: &str = "broadcast_active";

/// The KV bucket of acknowledgements: key `{broadcast id}.{user}`, see [`UserToken`].
pub const ACKS_BUCKET: &str = "broadcast_acks";

/// The KV bucket of replicas' heartbeats: key `{replica}`; also holds the mirror's lease.
pub const REPLICAS_BUCKET: &str = "broadcast_replicas";

/// The key under which each data bucket has the position up to which the mirror has written it.
///
/// No channel's name starts with `_`, and acknowledgement keys contain a dot.
pub const POSITION_KEY: &str = "_position";

/// The key of the mirror's lease among the replicas' heartbeats. No replica may be called so.
pub const MIRROR_LEASE_KEY: &str = "mirror";

/// The stream behind a KV bucket.
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The subject behind a key of a KV bucket.
pub fn bucket_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// The key of one user's acknowledgement of one broadcast.
pub fn ack_key(broadcast: BroadcastId, user: &UserId) -> String {
    format!("{broadcast}.{}", UserToken::of(user))
}

/// A user id as one token of a KV key: as it is when it matches `[A-Za-z0-9_-]+`, else `=` and unpadded base64url.
///
/// `=` is legal in a KV key and not in that alphabet, so the two forms never meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserToken(String);

impl UserToken {
    /// The token of a user.
    pub fn of(user: &UserId) -> Self {
        let id = user.as_str();
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        Self(if plain { id.to_owned() } else { format!("={}", URL_SAFE_NO_PAD.encode(id)) })
    }

    /// The user behind a token; `None` for a string that is no user's token.
    pub fn parse(token: &str) -> Option<UserId> {
        let id = match token.strip_prefix('=') {
            None => token.to_owned(),
            Some(encoded) => String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?,
        };
        let user: UserId = id.parse().ok()?;
        (Self::of(&user).0 == token).then_some(user)
    }
}

impl fmt::Display for UserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Headers that Tidings adds to what it stores.
pub mod header {
    /// On every KV write: the log's sequence that the value reflects.
    pub const SEQUENCE: &str = "Tidings-Sequence";
    /// On every KV write: the epoch of the log that the sequence counts in.
    pub const EPOCH: &str = "Tidings-Epoch";
    /// On every acknowledgement event: the root over its facts, in base64.
    pub const FACTS_ROOT: &str = "tidings-facts-root";
    /// On an event whose request had an idempotency key: how many users and connections it was sent to.
    pub const SENT_TO: &str = "tidings-sent-to";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn subjects_have_one_spelling() {
        let id = "0198c5a0-1111-7222-8333-444455556666";
        for good in
            ["broadcasts.creator.lifecycle", &format!("broadcasts.a.acks.{id}"), "broadcasts.x-1.late"]
        {
            assert_eq!(good.parse::<Subject>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "broadcasts",
            "broadcasts.creator",
            "broadcasts.creator.lifecycle.x",
            "broadcasts.creator.acks",
            "broadcasts.creator.acks.1",
            "broadcasts.Creator.late",
            "other.creator.late",
            &format!("broadcasts.a.acks.{}", id.to_uppercase()).replace('-', ""),
            &format!("broadcasts.a.acks.{id}.x"),
        ] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn user_tokens_round_trip(id in "\\PC{1,32}") {
            let user: UserId = id.parse().unwrap();
            let token = UserToken::of(&user).to_string();
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b)), "{}", token);
            prop_assert_eq!(UserToken::parse(&token), Some(user));
        }

        #[test]
        fn what_parses_is_a_token(text in "=?[A-Za-z0-9_=.-]{0,12}") {
            if let Some(user) = UserToken::parse(&text) {
                prop_assert_eq!(UserToken::of(&user).to_string(), text);
            }
        }
    }
}
