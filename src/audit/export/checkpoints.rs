//! The checkpoints of an exported file: of each only where it stands is known, and they are read whenever they are wanted.

use super::lines::LineStart;
use crate::log::Epoch;
use crate::notary::checkpoint::Checkpoint;
use crate::notary::note::{MAX_NOTE_BYTES, Note};
use crate::notary::stream::StoredCheckpoint;

/// Checkpoints from one mark to the next, which are read at once.
pub(super) const SEEK_POINT_EVERY: u64 = 256;

/// The last checkpoint that was taken from a file up to somewhere in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CheckpointTracker {
    last: u64,
}

impl CheckpointTracker {
    /// Whether a checkpoint counts that stands next in the file; else why not.
    pub(super) fn takes(self, stored: &StoredCheckpoint) -> Result<(), String> {
        if stored.number <= self.last {
            return Err("is there twice, or out of order".to_owned());
        }
        if stored.text.len() > MAX_NOTE_BYTES {
            return Err(format!("is longer than the {MAX_NOTE_BYTES} bytes of one"));
        }
        Ok(())
    }

    pub(super) const fn take(&mut self, stored: &StoredCheckpoint) {
        self.last = stored.number;
    }
}

/// Where a part of the checkpoints begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckpointSeekPoint {
    pub(super) start: LineStart,
    pub(super) tracker: CheckpointTracker,
}

/// All checkpoints of a file.
#[derive(Debug, Default)]
pub(super) struct CheckpointIndex {
    pub(super) tracker: CheckpointTracker,
    /// How many count.
    count: u64,
    pub(super) seek_points: Vec<CheckpointSeekPoint>,
    /// The log that the newest one is of, as far as it can be read.
    pub(super) epoch: Option<Epoch>,
}

impl CheckpointIndex {
    pub(super) fn take(&mut self, start: LineStart, stored: &StoredCheckpoint) {
        if self.count.is_multiple_of(SEEK_POINT_EVERY) {
            self.seek_points.push(CheckpointSeekPoint { start, tracker: self.tracker });
        }
        self.count += 1;
        self.tracker.take(stored);
        self.epoch = epoch_of(stored).or(self.epoch);
    }
}

fn epoch_of(stored: &StoredCheckpoint) -> Option<Epoch> {
    let note: Note = stored.text.parse().ok()?;
    let checkpoint: Checkpoint = note.text().parse().ok()?;
    Some(checkpoint.epoch)
}
