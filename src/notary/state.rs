//! What a notary has read of the stream of checkpoints, and what follows from it. Pure: no IO.

use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::note::Note;
use super::stream::StreamExtent;
use crate::log::Epoch;
use crate::projection::Position;

/// The newest checkpoint of a log. Its root covers everything that earlier checkpoints cover, so only this one is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadCheckpoint {
    pub(super) checkpoint: Checkpoint,
    /// The note, as it is in the stream.
    pub(super) note: Note,
    pub(super) time_ns: i64,
    /// The generation of the projection whose tree agreed. In another one the log may be an older copy under the same epoch.
    pub(super) agreed_in: Option<u64>,
}

/// What a notary has read and reported of one log.
#[derive(Debug, Default)]
pub(super) struct CheckpointState {
    /// Which log.
    pub(super) epoch: Option<Epoch>,
    /// How far the stream of checkpoints was read. `None`: not yet for this log.
    pub(super) read: Option<StreamExtent>,
    pub(super) newest: Option<ReadCheckpoint>,
    /// The generation of the projection whose tree was compared with the store's own records.
    pub(super) verified_in: Option<u64>,
    /// The generation of the projection that was asked to rebuild.
    pub(super) rebuild_requested_in: Option<u64>,
    /// The checkpoint for which it was reported that the log is shorter.
    pub(super) reported_short: Option<Checkpoint>,
    /// The checkpoint for which a lasting difference was reported.
    pub(super) reported_diverged: Option<Checkpoint>,
}

impl CheckpointState {
    /// Turns to a log. What was read for another one does not count.
    pub(super) fn switch_to(&mut self, epoch: Epoch) {
        if self.epoch != Some(epoch) {
            *self = Self { epoch: Some(epoch), ..Self::default() };
        }
    }

    /// The place up to which the stream was read, if what stands there shows that it goes on from there: where to look, and
    /// the time that must have been recorded there.
    pub(super) fn known(&self, now: &StreamExtent) -> Option<(u64, i64)> {
        let read = self.read.filter(|read| read.created_ns == now.created_ns && read.last <= now.last);
        read.map(|read| (read.last, read.last_time_ns))
    }

    /// The stream was read up to here, and this is the newest checkpoint in what was not known before. `goes_on` says that it is
    /// the stream of before; else all of it was read.
    pub(super) fn record_read(&mut self, now: StreamExtent, goes_on: bool, found: Option<ReadCheckpoint>) {
        self.read = Some(now);
        match (found, &mut self.newest) {
            // It was placed once more, or in a stream that was made anew.
            (Some(found), Some(seen)) if seen.checkpoint == found.checkpoint => {
                (seen.time_ns, seen.note) = (found.time_ns, found.note);
            }
            (None, _) if goes_on => {}
            (found, newest) => *newest = found,
        }
    }

    /// Whether a tree of this size is worth a checkpoint: it goes on from the newest one, which this generation agrees with, by
    /// enough events, or by some and after long enough.
    pub(super) fn is_due(
        &self,
        generation: u64,
        size: u64,
        every: u64,
        is_old: impl FnOnce(i64) -> bool,
    ) -> bool {
        match &self.newest {
            None => size > 0,
            Some(seen) if seen.agreed_in != Some(generation) => false,
            Some(seen) => {
                let new = size.saturating_sub(seen.checkpoint.size);
                new >= every || (new > 0 && is_old(seen.time_ns))
            }
        }
    }

    /// Whether there is something to compare, or, for a notary that signs, something to sign.
    pub(super) fn has_work(&self, position: &Position, signs_every: Option<u64>) -> bool {
        match &self.newest {
            _ if position.diverged || position.halt.is_some() => false,
            Some(ReadCheckpoint { checkpoint, agreed_in, .. }) if *agreed_in != Some(position.generation) => {
                let of_this_log = position.epoch == Some(checkpoint.epoch);
                of_this_log
                    && position.sequence >= checkpoint.size
                    && self.rebuild_requested_in != Some(position.generation)
            }
            newest => {
                let signed = newest.as_ref().map_or(0, |seen| seen.checkpoint.size);
                let worth = signs_every.map(|every| if newest.is_some() { every } else { 1 });
                let due = worth.is_some_and(|events| position.sequence >= signed.saturating_add(events));
                due && position.caught_up
            }
        }
    }
}

/// Whether a checkpoint is so long past that another is due as soon as there is news.
pub(super) fn is_past(time_ns: i64, now_ms: i64, every: Duration) -> bool {
    u64::try_from(now_ms.saturating_sub(time_ns / 1_000_000))
        .is_ok_and(|age| u128::from(age) >= every.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::merkle::Hash;
    use crate::projection::Halt;

    fn epoch(bits: u64) -> Epoch {
        Epoch::from_bits(bits)
    }

    fn checkpoint(size: u64) -> Checkpoint {
        let root = Hash::leaf(&size.to_be_bytes());
        Checkpoint { log: "example.com/log".parse().unwrap(), epoch: epoch(1), size, root }
    }

    fn seen(size: u64, agreed_in: Option<u64>) -> ReadCheckpoint {
        let checkpoint = checkpoint(size);
        ReadCheckpoint { note: Note::sign(checkpoint.to_string(), &[]), checkpoint, time_ns: 0, agreed_in }
    }

    fn extent(created: i64, last: u64) -> StreamExtent {
        StreamExtent { created_ns: created, first: 1, last, last_time_ns: 1, bytes: 1, max_bytes: 0 }
    }

    fn state() -> CheckpointState {
        let mut state = CheckpointState::default();
        state.switch_to(epoch(1));
        state
    }

    #[test]
    fn the_first_checkpoint_is_due_with_the_first_event_and_the_next_behind_one_that_was_agreed_with() {
        let mut state = state();
        let (never, always) = (|_: i64| false, |_: i64| true);
        assert!(!state.is_due(0, 0, 5, always));
        assert!(state.is_due(0, 1, 5, never));
        state.record_read(extent(9, 1), false, Some(seen(10, None)));
        assert!(!state.is_due(0, 100, 5, always), "it was not compared");
        state.newest.as_mut().unwrap().agreed_in = Some(0);
        assert!(!state.is_due(1, 100, 5, always), "this generation has not compared it");
        let due = |size, old: fn(i64) -> bool| state.is_due(0, size, 5, old);
        assert_eq!([due(10, always), due(9, always), due(11, never), due(14, never)], [false; 4]);
        assert_eq!([due(11, always), due(15, never)], [true; 2]);
    }

    #[test]
    fn there_is_work_when_something_can_be_compared_or_signed() {
        let at =
            |sequence| Position { epoch: Some(epoch(1)), sequence, caught_up: true, ..Position::default() };
        let mut state = state();
        let work = |state: &CheckpointState, position: Position| state.has_work(&position, Some(5));
        assert_eq!([0, 1].map(|sequence| work(&state, at(sequence))), [false, true]);
        assert!(!state.has_work(&at(1), None), "it has no key");
        state.record_read(extent(9, 1), false, Some(seen(10, None)));
        assert_eq!([9, 10].map(|sequence| work(&state, at(sequence))), [false, true]);
        assert!(state.has_work(&at(10), None));
        state.newest.as_mut().unwrap().agreed_in = Some(0);
        assert_eq!([14, 15].map(|sequence| work(&state, at(sequence))), [false, true]);
        assert!(!work(&state, Position { caught_up: false, ..at(15) }));
        assert!(!work(&state, Position { diverged: true, ..at(15) }));
        assert!(!work(&state, Position { halt: Some(Halt::Stalled), ..at(15) }));
        assert!(work(&state, Position { generation: 1, ..at(10) }), "another generation compares again");
        state.rebuild_requested_in = Some(1);
        assert!(!work(&state, Position { generation: 1, ..at(10) }), "it is being rebuilt");
    }

    #[test]
    fn what_was_read_is_not_read_again_unless_the_stream_or_the_log_is_another_one() {
        let mut state = state();
        state.record_read(extent(9, 3), false, Some(seen(10, Some(0))));
        assert_eq!(state.known(&extent(9, 5)), Some((3, 1)));
        assert_eq!(state.known(&extent(10, 5)), None, "another stream");
        assert_eq!(state.known(&extent(9, 2)), None, "an older one of the same creation");
        state.record_read(extent(9, 5), true, None);
        assert_eq!(state.newest, Some(seen(10, Some(0))), "what came was not of this log");
        state.record_read(extent(10, 1), false, Some(seen(10, None)));
        assert_eq!(state.newest, Some(seen(10, Some(0))), "the same one, in a new stream");
        state.record_read(extent(11, 0), false, None);
        assert_eq!(state.newest, None, "a new stream, and nothing in it");
        state.record_read(extent(11, 1), true, Some(seen(7, None)));
        state.switch_to(epoch(1));
        assert_eq!(state.newest, Some(seen(7, None)));
        state.switch_to(epoch(2));
        assert!(state.newest.is_none() && state.known(&extent(11, 1)).is_none());
    }

    #[test]
    fn a_checkpoint_grows_old() {
        let past = |now_ms| is_past(5_000_000_000, now_ms, Duration::from_secs(2));
        assert_eq!([past(0), past(6_999), past(7_000)], [false, false, true]);
    }
}
