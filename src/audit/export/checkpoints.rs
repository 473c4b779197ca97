//! The checkpoints of an exported file: of each only where it stands is known, and they are read whenever they are wanted.

use super::lines::Begin;
use crate::log::Epoch;
use crate::notary::checkpoint::Checkpoint;
use crate::notary::note::{MAX_NOTE_BYTES, Note};
use crate::notary::stream::StoredCheckpoint;

/// Checkpoints from one mark to the next, which are read at once.
pub(super) const MARK_EVERY: u64 = 256;

/// The last checkpoint that was taken from a file up to somewhere in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CheckpointStand {
    last: u64,
}

impl CheckpointStand {
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
pub(super) struct CheckpointMark {
    pub(super) begin: Begin,
    pub(super) stand: CheckpointStand,
}

/// All checkpoints of a file.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pub(super) stand: CheckpointStand,
    /// How many count.
    count: u64,
    pub(super) marks: Vec<CheckpointMark>,
    /// The log that the newest one is of, as far as it can be read.
    pub(super) epoch: Option<Epoch>,
}

impl Checkpoints {
    pub(super) fn take(&mut self, begin: Begin, stored: &StoredCheckpoint) {
        if self.count.is_multiple_of(MARK_EVERY) {
            self.marks.push(CheckpointMark { begin, stand: self.stand });
        }
        self.count += 1;
        self.stand.take(stored);
        self.epoch = epoch_of(stored).or(self.epoch);
    }
}

fn epoch_of(stored: &StoredCheckpoint) -> Option<Epoch> {
    let note: Note = stored.text.parse().ok()?;
    let checkpoint: Checkpoint = note.text().parse().ok()?;
    Some(checkpoint.epoch)
}
