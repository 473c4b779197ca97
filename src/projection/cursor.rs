//! The cursor: the last entry that was applied, and whether this build can go on from there.

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::domain::event::EventType;
use crate::domain::{Digest, Event};
use crate::log::merkle::{Frontier, Hash};
use crate::log::reader::{Cursor, LastEntry};
use crate::log::{Epoch, Position};

/// Changes with every change of a key or a record: a store of another format is rebuilt.
const FORMAT: u32 = 10;

/// The last entry that was applied, written in one batch with what it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRecord {
    format: u32,
    /// The log that the sequence counts in.
    pub epoch: Option<Epoch>,
    /// The last sequence that was applied.
    pub sequence: u64,
    /// The leaf of that message; `None` for a hole, and before the first one.
    last: Option<Hash>,
    /// The Merkle tree up to there.
    pub tree: Frontier,
    /// Every event type and version that the writer of this record could read, with its fields.
    known: Vec<String>,
    /// Messages skipped because a newer build may know them.
    pub skipped_future: u64,
    /// Messages skipped because they are not of Tidings.
    pub skipped_foreign: u64,
    /// Sequences whose message the log has lost.
    pub holes: u64,
    /// The digest at `sequence`.
    pub digest: Digest,
    /// The last sequence that is a multiple of 256, and the digest there: two replicas can always compare that one.
    pub milestone: (u64, Digest),
    /// The checkpoint, by size and root, that this projection was last rebuilt for: once for each.
    pub rebuilt_for: Option<(u64, Hash)>,
}

impl Default for CursorRecord {
    fn default() -> Self {
        Self {
            format: FORMAT,
            epoch: None,
            sequence: 0,
            last: None,
            tree: Frontier::default(),
            known: known_events(),
            skipped_future: 0,
            skipped_foreign: 0,
            holes: 0,
            digest: Digest::default(),
            milestone: (0, Digest::default()),
            rebuilt_for: None,
        }
    }
}

impl CursorRecord {
    /// The start of a log.
    pub fn of(epoch: Epoch) -> Self {
        Self { epoch: Some(epoch), ..Self::default() }
    }

    /// The same as a position in the log; `None` while no log is known.
    pub fn log_position(&self) -> Option<Position> {
        self.epoch.map(|epoch| Position { epoch, sequence: self.sequence })
    }

    /// Checks that this build can go on from the record: an error if it has another format, or if the build that wrote it
    /// skipped events that this one knows.
    pub(super) fn validate(mut self) -> anyhow::Result<Self> {
        if self.format != FORMAT {
            bail!("it has format {}, and this build writes {FORMAT}", self.format);
        }
        if self.tree.size() != self.sequence {
            bail!("its tree has {} leaves at sequence {}", self.tree.size(), self.sequence);
        }
        let known = known_events();
        if self.skipped_future > 0 && known.iter().any(|event| !self.known.contains(event)) {
            bail!("it skipped events that this build knows");
        }
        self.known = known;
        Ok(self)
    }

    /// Moves to a sequence, and to what the log has there.
    pub fn move_to(&mut self, sequence: u64, last: LastEntry) {
        self.sequence = sequence;
        self.last = match last {
            LastEntry::Message(leaf) => Some(leaf),
            LastEntry::Hole => None,
        };
    }

    /// The position from which a reader goes on.
    pub fn cursor(&self) -> Cursor {
        let last = (self.sequence > 0).then(|| self.last.map_or(LastEntry::Hole, LastEntry::Message));
        Cursor { epoch: self.epoch, sequence: self.sequence, last }
    }
}

fn known_events() -> Vec<String> {
    let known = |kind: &EventType| format!("{}:{} {}", kind.name, kind.version, kind.fields.join(","));
    Event::TYPES.iter().map(known).collect()
}
