//! How far the projection is, and why it has stopped.

use crate::domain::Digest;
use crate::log::merkle::Hash;
use crate::log::{self, Epoch};

/// How far the projection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The log that the sequence counts in; `None` while no log is known.
    pub epoch: Option<Epoch>,
    /// The last sequence that was applied.
    pub sequence: u64,
    /// The digest at that sequence.
    pub digest: Digest,
    /// The last sequence that is a multiple of 256, and the digest there: two replicas can always compare that one.
    pub milestone: (u64, Digest),
    /// Whether the state may be served: it has caught up once, or came from disk.
    pub serving: bool,
    /// Whether it has reached the head that the log had when reading began.
    pub caught_up: bool,
    /// Messages that were skipped: those that a newer build may know, and those that are not of Tidings.
    pub skipped: (u64, u64),
    /// Sequences whose message the log has lost.
    pub holes: u64,
    /// How many times another log took the place of the one before, in this process.
    pub epochs: u64,
    /// Rebuilds in this process, for whatever reason. A value that was read under another generation is stale.
    pub generation: u64,
    /// Why the projection has stopped, if it has.
    pub halt: Option<Halt>,
    /// The checkpoint, by size and root, that the projection was last rebuilt for.
    pub rebuilt_for: Option<(u64, Hash)>,
    /// Whether it disagreed with a checkpoint again after that rebuild.
    pub diverged: bool,
}

impl Position {
    /// The same as a position in the log; `None` while no log is known.
    pub fn log_position(&self) -> Option<log::Position> {
        self.epoch.map(|epoch| log::Position { epoch, sequence: self.sequence })
    }
}

/// The result of waiting for a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The projection is at that position or beyond it.
    Yes,
    /// It did not get there in time.
    Behind,
    /// The position belongs to another log, or to a part of this one that was lost.
    OtherLog,
}

/// Why a projection has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Its disk is full. It serves what is in memory, and applies nothing until there is room.
    Stalled,
    /// It was damaged again and again, and is not rebuilt any more.
    GaveUp,
}
