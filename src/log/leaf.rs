//! Leaves of the Merkle tree, one a sequence of the log.
//!
//! A leaf is the hash of a statement: everything that the log has at a sequence, in an unambiguous encoding. A statement contains
//! the subject, the time and the headers, and of the body only the hash.

use sha2::{Digest as _, Sha256};

use super::RawMessage;
use super::merkle::Hash;

/// NATS adds headers with this prefix, or interprets them. They are about the delivery of a message, not part of it.
const NATS_HEADER_PREFIX: &str = "Nats-";

/// What the log has at one sequence.
///
/// ```text
/// message: sequence, time, subject, (name, value) of each header, SHA-256 of the body
/// hole:    sequence
/// ```
///
/// Each part comes after its length in 8 bytes, big-endian; numbers have 8 bytes, big-endian. The time is JetStream's, in
/// nanoseconds since 1970. Headers are sorted by name and value; those that begin with `Nats-` are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The sequence, from 1.
    pub sequence: u64,
    /// The message; `None` for a hole.
    pub message: Option<StatedMessage>,
}

/// The message of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedMessage {
    /// When the log recorded it, in nanoseconds since 1970-01-01.
    pub time_ns: i64,
    /// Its subject.
    pub subject: String,
    /// Its headers, sorted, without those of NATS.
    pub headers: Vec<(String, String)>,
    /// SHA-256 of its body.
    pub body: [u8; 32],
}

impl Statement {
    /// The statement of a message.
    pub fn of(message: &RawMessage) -> Self {
        let headers = message.headers.iter().filter(|(name, _)| !name.starts_with(NATS_HEADER_PREFIX));
        let mut headers: Vec<_> = headers.cloned().collect();
        headers.sort();
        let stated = StatedMessage {
            time_ns: message.time_ns,
            subject: message.subject.clone(),
            headers,
            body: Sha256::digest(&message.body).into(),
        };
        Self { sequence: message.sequence, message: Some(stated) }
    }

    /// The statement of a hole.
    pub const fn hole(sequence: u64) -> Self {
        Self { sequence, message: None }
    }

    /// The bytes that are hashed.
    pub fn to_bytes(&self) -> Vec<u8> {
        if let Some(StatedMessage { time_ns, subject, headers, body }) = &self.message {
            return bytes_of_message(self.sequence, *time_ns, subject, headers, body);
        }
        let mut bytes = Vec::new();
        put(&mut bytes, &self.sequence.to_be_bytes());
        bytes
    }

    /// Reads what [`Statement::to_bytes`] wrote. `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let parts = parts(bytes)?;
        let number = |part: &[u8]| Some(u64::from_be_bytes(part.try_into().ok()?));
        let text = |part: &[u8]| String::from_utf8(part.to_vec()).ok();
        let (sequence, rest) = parts.split_first()?;
        let sequence = number(sequence)?;
        let [time, subject, headers @ .., body] = rest else {
            return rest.is_empty().then_some(Self::hole(sequence));
        };
        let (headers, []) = headers.as_chunks::<2>() else { return None };
        let headers = headers.iter().map(|[name, value]| Some((text(name)?, text(value)?)));
        let stated = StatedMessage {
            time_ns: i64::from_be_bytes((*time).try_into().ok()?),
            subject: text(subject)?,
            headers: headers.collect::<Option<_>>()?,
            body: (*body).try_into().ok()?,
        };
        Some(Self { sequence, message: Some(stated) })
    }

    /// Its leaf.
    pub fn leaf(&self) -> Hash {
        Hash::leaf(&self.to_bytes())
    }
}

impl StatedMessage {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The leaf of a message: of its [`Statement`], without making one, since every event on every replica has one.
pub(super) fn of_message(message: &RawMessage) -> Hash {
    let headers = message.headers.iter().filter(|(name, _)| !name.starts_with(NATS_HEADER_PREFIX));
    let mut headers: Vec<_> = headers.collect();
    headers.sort();
    let body = Sha256::digest(&message.body);
    let RawMessage { sequence, time_ns, subject, .. } = message;
    Hash::leaf(&bytes_of_message(*sequence, *time_ns, subject, headers, &body))
}

fn bytes_of_message<'a>(
    sequence: u64,
    time_ns: i64,
    subject: &str,
    headers: impl IntoIterator<Item = &'a (String, String)>,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1_024);
    put(&mut bytes, &sequence.to_be_bytes());
    put(&mut bytes, &time_ns.to_be_bytes());
    put(&mut bytes, subject.as_bytes());
    for (name, value) in headers {
        put(&mut bytes, name.as_bytes());
        put(&mut bytes, value.as_bytes());
    }
    put(&mut bytes, body);
    bytes
}

/// Appends a part after its length.
pub fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend((part.len() as u64).to_be_bytes());
    bytes.extend(part);
}

fn parts(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        parts.push(part);
        bytes = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> RawMessage {
        RawMessage {
            sequence: 7,
            time_ns: 5,
            subject: "broadcasts.creator.lifecycle".to_owned(),
            headers: vec![
                ("ce-type".to_owned(), "b".to_owned()),
                ("Nats-Msg-Id".to_owned(), "1".to_owned()),
                ("ce-id".to_owned(), "1".to_owned()),
            ],
            body: "{}".into(),
        }
    }

    #[test]
    fn each_part_of_a_message_counts_and_nothing_of_nats() {
        let leaf = message().leaf();
        let changed: [fn(&mut RawMessage); 6] = [
            |m| m.sequence = 8,
            |m| m.time_ns = 6,
            |m| m.subject.push('x'),
            |m| m.headers[0].1.push('x'),
            |m| drop(m.headers.remove(2)),
            |m| m.body = "{ }".into(),
        ];
        for change in changed {
            let mut other = message();
            change(&mut other);
            assert_ne!(other.leaf(), leaf, "{other:?}");
            assert_eq!(other.leaf(), Statement::of(&other).leaf());
        }
        let mut same = message();
        same.headers.reverse();
        same.headers.retain(|(name, _)| name != "Nats-Msg-Id");
        assert_eq!(same.leaf(), leaf, "neither their order, nor what NATS adds");
        assert_ne!(Statement::hole(7).leaf(), leaf);
    }

    proptest! {
        #[test]
        fn a_message_has_the_leaf_of_its_statement(
            headers in prop::collection::vec(("(Nats-|ce-)?[a-c]{0,2}", "[a-c]{0,2}"), 0..6),
        ) {
            let message = RawMessage { headers, ..message() };
            prop_assert_eq!(message.leaf(), Statement::of(&message).leaf());
        }

        #[test]
        fn a_statement_is_read_as_it_was_written(
            sequence in any::<u64>(),
            time_ns in any::<i64>(),
            subject in any::<String>(),
            headers in prop::collection::vec((any::<String>(), any::<String>()), 0..4),
            body in any::<[u8; 32]>(),
            hole in any::<bool>(),
        ) {
            let stated = StatedMessage { time_ns, subject, headers, body };
            let statement = Statement { sequence, message: (!hole).then_some(stated) };
            prop_assert_eq!(Statement::from_bytes(&statement.to_bytes()), Some(statement));
        }

        #[test]
        fn other_bytes_are_no_statement_or_have_one_reading(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(statement) = Statement::from_bytes(&bytes) {
                prop_assert_eq!(statement.to_bytes(), bytes);
            }
        }
    }
}
