//! What the reader delivers: entries of the log, in batches.

use crate::log::RawMessage;
use crate::log::leaf::Statement;
use crate::log::merkle::Hash;

/// The maximum number of entries in a batch.
pub const MAX_BATCH: usize = 512;

/// A batch with this many bytes in its bodies is full, too.
pub(super) const ENOUGH_BYTES: usize = 1 << 20;

/// The entry at a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastEntry {
    /// A message with this [`RawMessage::leaf`].
    Message(Hash),
    /// A hole.
    Hole,
}

/// One sequence of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// A message.
    Message(RawMessage),
    /// The log has lost the message with this sequence (a damaged block). Every replica skips it in the same way.
    Hole(u64),
}

impl LogEntry {
    /// Its sequence.
    pub const fn sequence(&self) -> u64 {
        match self {
            Self::Message(message) => message.sequence,
            Self::Hole(sequence) => *sequence,
        }
    }

    /// Its leaf in the Merkle tree.
    pub fn leaf(&self) -> Hash {
        match self {
            Self::Message(message) => message.leaf(),
            Self::Hole(sequence) => Statement::hole(*sequence).leaf(),
        }
    }

    /// The form in which a cursor keeps it.
    pub fn as_last(&self) -> LastEntry {
        match self {
            Self::Message(message) => LastEntry::Message(message.leaf()),
            Self::Hole(_) => LastEntry::Hole,
        }
    }
}

/// Entries that wait to be delivered. Each batch has a fixed cost, so while more messages are known to follow, it is delivered
/// when it is full.
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
