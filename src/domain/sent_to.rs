//! How many users and connections an event was sent to, as counted by the replica that accepted it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How many users and connections a broadcast, or a clear, was sent to.
///
/// As text a dictionary of RFC 9651, in one spelling: `users=12, connections=15`, with `, approximate` behind it where that
/// holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentTo {
    /// Distinct users.
    pub users: u64,
    /// Connections.
    pub connections: u64,
    /// Whether `users` is an estimate, is not settled, or leaves out other replicas.
    pub approximate: bool,
}

/// The end of the text of approximate numbers.
const APPROXIMATE: &str = ", approximate";

impl fmt::Display for SentTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.approximate { APPROXIMATE } else { "" };
        write!(f, "users={}, connections={}{end}", self.users, self.connections)
    }
}

/// A text is not in the form of [`SentTo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not in the form `users=12, connections=15`")]
pub struct InvalidSentTo;

impl FromStr for SentTo {
    type Err = InvalidSentTo;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let exact = text.strip_suffix(APPROXIMATE);
        let numbers = exact.unwrap_or(text).strip_prefix("users=").ok_or(InvalidSentTo)?;
        let (users, connections) = numbers.split_once(", connections=").ok_or(InvalidSentTo)?;
        let number = |digits: &str| digits.parse().map_err(|_| InvalidSentTo);
        let read =
            Self { users: number(users)?, connections: number(connections)?, approximate: exact.is_some() };
        // Neither `+1` nor `01`.
        if read.to_string() == text { Ok(read) } else { Err(InvalidSentTo) }
    }
}

/// The counts for an event, by where it is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// If the log has it: the clients of every replica.
    pub of_all: SentTo,
    /// If it waits in the outbox: the clients of this replica.
    pub of_replica: SentTo,
}

impl Audience {
    /// The counts that apply. `local`: the log does not have the event yet.
    pub const fn sent_to(&self, local: bool) -> SentTo {
        if local { self.of_replica } else { self.of_all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_has_one_spelling(
            users in any::<u64>(),
            connections in any::<u64>(),
            approximate in any::<bool>(),
            other in "users=[+0-9]{0,3}, connections=[+0-9]{0,3}(, approximate)?|\\PC{0,20}",
        ) {
            let sent_to = SentTo { users, connections, approximate };
            prop_assert_eq!(sent_to.to_string().parse(), Ok(sent_to));
            if let Ok(read) = other.parse::<SentTo>() {
                prop_assert_eq!(read.to_string(), other);
            }
        }
    }
}
