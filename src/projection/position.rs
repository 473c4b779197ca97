//! How far the projection is, and what keeps it from going on.

use crate::domain::Digest;
use crate::log::merkle::Hash;
use crate::log::{self, Epoch};

/// How far the projection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The log that the sequence counts in.
    pub epoch: Option<Epoch>,
    /// The last sequence folded.
    pub sequence: u64,
    /// The digest there.
    pub digest: Digest,
    /// The last multiple of 256, and the digest there.
    pub milestone: (u64, Digest),
    /// Whether what it shows may be shown: it has caught up once, or came from disk.
    pub serving: bool,
    /// Whether it has reached the head that the log had when reading began.
    pub caught_up: bool,
    /// Messages skipped because a newer build may know them, and because they are not of Tidings.
    pub skipped: (u64, u64),
    /// Places where the log has lost its message.
    pub holes: u64,
    /// How often another log was met in this process.
    pub epochs: u64,
    /// How often it was begun anew in this process, for whatever reason: what was seen of it in another life counts no more.
    pub life: u64,
    /// Why it does not go on, if it does not.
    pub halt: Option<Halt>,
    /// The checkpoint, by size and root, because of which it was begun anew.
    pub rebuilt_for: Option<(u64, Hash)>,
    /// Whether it differs from a checkpoint after that, too.
    pub diverged: bool,
}

impl Position {
    /// How far it is, as a position in the log; `None` while no log is known.
    pub fn log_position(&self) -> Option<log::Position> {
        self.epoch.map(|epoch| log::Position { epoch, sequence: self.sequence })
    }
}

/// Whether a projection has got to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It has.
    Yes,
    /// Not in time.
    Behind,
    /// The position is of another log, or of what this one has lost.
    OtherLog,
}

/// Why a projection does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Its disk takes nothing. What is resident is served, and nothing is folded until there is room.
    Stalled,
    /// It was damaged again and again, and is not rebuilt any more.
    GaveUp,
}
