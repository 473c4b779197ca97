//! What the reader hands on: places of the log, gathered into batches.

use crate::log::RawMessage;
use crate::log::leaf::Statement;
use crate::log::merkle::Hash;

/// Entries handed on together at most: what arrives together is applied together.
pub const MAX_BATCH: usize = 512;

/// With so many bytes in their bodies, fewer of them are enough.
pub(super) const ENOUGH_BYTES: usize = 1 << 20;

/// What stands at a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastEntry {
    /// A message with this [`RawMessage::leaf`].
    Message(Hash),
    /// Nothing: the log has lost that message.
    Hole,
}

/// One place of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// A message.
    Message(RawMessage),
    /// The log has no message here any more (a damaged block). Skipped in the same way on every replica.
    Hole(u64),
}

impl LogEntry {
    /// Its place.
    pub const fn sequence(&self) -> u64 {
        match self {
            Self::Message(message) => message.sequence,
            Self::Hole(sequence) => *sequence,
        }
    }

    /// What the Merkle tree says of it.
    pub fn leaf(&self) -> Hash {
        match self {
            Self::Message(message) => message.leaf(),
            Self::Hole(sequence) => Statement::hole(*sequence).leaf(),
        }
    }

    /// What a cursor behind it remembers.
    pub fn as_last(&self) -> LastEntry {
        match self {
            Self::Message(message) => LastEntry::Message(message.leaf()),
            Self::Hole(_) => LastEntry::Hole,
        }
    }
}

/// What is gathered to be handed on: to fold a batch costs something beside what is in it, so while the log is known to go on,
/// it waits until it is full.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<LogEntry>,
    /// In their bodies.
    bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, entry: LogEntry) {
        self.bytes += match &entry {
            LogEntry::Message(message) => message.body.len(),
            LogEntry::Hole(_) => 0,
        };
        self.entries.push(entry);
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_BATCH || self.bytes >= ENOUGH_BYTES
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.entries.last().map(LogEntry::sequence)
    }
}
