//! The materializer: applies entries of the log to a state and its Merkle tree, and gathers what changed into batches for the
//! store.
//!
//! A replica's projection and an auditor's verification share it: there is no second way to read the log.

use std::collections::BTreeMap;

use super::cursor::CursorRecord;
use super::decoded_entry::{DecodedEntry, EntryKind};
use super::memory::{Bounds, Unloaded, Unloading};
use super::store::{Batch, Pace, Store};
use super::tree::Tree;
use crate::domain::{BroadcastId, Change, Event, Needs, Recorded, State, evolve};
use crate::log::TraceParent;
use crate::log::envelope::Skipped;
use crate::log::reader::LastEntry;

/// Two replicas compare digests at multiples of this.
const MILESTONE: u64 = 256;

/// An event that was applied.
pub struct Applied {
    /// The event.
    pub recorded: Recorded,
    /// What it changed; [`Change::Nothing`] if it had no effect.
    pub change: Change,
    /// The trace of the request that caused it.
    pub trace: Option<TraceParent>,
}

/// The state of the log up to a cursor, its tree, and what of it is not in the store yet.
#[derive(Default)]
pub struct Materializer {
    /// What of the state is in memory. The store has the rest.
    pub state: State,
    /// The Merkle tree over every entry.
    pub tree: Tree,
    /// The last entry that was applied.
    pub cursor: CursorRecord,
    /// The last event about each broadcast in memory, by sequence: the least recently used are unloaded first.
    last_used: BTreeMap<BroadcastId, u64>,
    /// What changed since the last batch was taken.
    batch: Batch,
    has_unwritten: bool,
    pub(super) bounds: Bounds,
}

impl Materializer {
    /// One that goes on from a cursor, with the state up to there as far as it has to be in memory.
    pub fn new(state: State, cursor: CursorRecord) -> Self {
        Self { tree: Tree::from(cursor.tree.clone()), state, cursor, ..Self::default() }
    }

    /// The same for a replica, which keeps more in memory for its clients.
    pub(super) fn of_a_replica(state: State, cursor: CursorRecord) -> Self {
        Self { bounds: Bounds::of_a_replica(), ..Self::new(state, cursor) }
    }

    /// What these entries need of the state and is not in memory.
    pub fn needs_of(&self, entries: &[DecodedEntry]) -> Needs {
        let mut needs = Needs::default();
        for entry in entries {
            if let EntryKind::Event(recorded, _) = &entry.kind {
                self.state.needs_of(recorded, &mut needs);
            }
        }
        needs
    }

    /// Applies entries in the order of the log. Memory must have what [`Self::needs_of`] names for them, as far as the store has
    /// it. `on_applied` is called after each event, with the state behind it.
    pub fn apply(&mut self, entries: Vec<DecodedEntry>, mut on_applied: impl FnMut(&State, Applied)) {
        self.has_unwritten = true;
        for DecodedEntry { sequence, leaf, kind } in entries {
            self.cursor.move_to(sequence, LastEntry::Message(leaf));
            if let Some((block, root)) = self.tree.push(leaf) {
                self.batch.block(block, root);
            }
            match kind {
                EntryKind::Hole => {
                    self.cursor.holes += 1;
                    self.cursor.move_to(sequence, LastEntry::Hole);
                }
                EntryKind::Skipped(skipped, channel) => {
                    match skipped {
                        Skipped::Future { .. } => self.cursor.skipped_future += 1,
                        Skipped::Foreign { .. } => self.cursor.skipped_foreign += 1,
                    }
                    if let Some(channel) = channel {
                        self.state.note_lifecycle_head(&channel, sequence);
                        self.batch.moved(channel);
                    }
                }
                EntryKind::Event(recorded, trace) => {
                    let change = self.apply_event(&recorded);
                    on_applied(&self.state, Applied { recorded, change, trace });
                }
            }
            if sequence % MILESTONE == 0 {
                self.cursor.milestone = (sequence, self.state.digest);
            }
        }
        self.cursor.digest = self.state.digest;
    }

    fn apply_event(&mut self, recorded: &Recorded) -> Change {
        let Self { state, batch, .. } = self;
        let change = evolve(state, recorded);
        batch.change(state, recorded.sequence, &change);
        if !matches!(recorded.event, Event::Acknowledged(_)) {
            if let Some(written) = state.lifecycle_event(recorded.id) {
                batch.lifecycle_event(recorded.id, written);
            }
            batch.moved(recorded.channel.clone());
        }
        // An unknown broadcast was not loaded, so it is never unloaded.
        let about = recorded.event.broadcast_id();
        if state.broadcast(about).is_some() {
            self.last_used.insert(about, recorded.sequence);
        }
        change
    }

    /// Whether something was applied that no batch has.
    pub(super) const fn has_unwritten(&self) -> bool {
        self.has_unwritten
    }

    /// How many acknowledgements the next batch has.
    pub(super) fn unwritten_acknowledgements(&self) -> usize {
        self.batch.acknowledgements()
    }

    /// Loads what entries need, applies them, writes the result with the cursor behind it, and unloads what is beyond the
    /// bounds: all there is to do where nobody else reads the state.
    pub fn apply_and_write(
        &mut self,
        store: &Store,
        entries: Vec<DecodedEntry>,
        on_applied: impl FnMut(&State, Applied),
    ) -> anyhow::Result<()> {
        self.state.add_loaded(store.load(&self.needs_of(&entries))?);
        self.apply(entries, on_applied);
        if let Some(batch) = self.take_batch()? {
            store.apply(batch)?;
        }
        if !self.is_within_bounds() {
            let mut unloading = self.begin_to_unload();
            unloading.seal(store, Pace::Full)?;
            drop(self.unload(unloading));
        }
        Ok(())
    }

    /// What was applied since the last time, as one batch with the cursor behind it. It has to be written before the next one.
    pub(super) fn take_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        if !std::mem::take(&mut self.has_unwritten) {
            return Ok(None);
        }
        self.cursor.tree = self.tree.now().clone();
        let mut batch = std::mem::take(&mut self.batch);
        batch.touched(&self.state)?;
        batch.cursor(&self.cursor)?;
        Ok(Some(batch))
    }

    /// Whether no more is in memory than may stay there.
    pub(super) fn is_within_bounds(&self) -> bool {
        self.bounds.are_kept(&self.state)
    }

    /// Chooses what is to be unloaded. What was applied so far must be written before its sets are sealed: a set that is ahead
    /// of the cursor would hide events that are read again.
    pub(super) fn begin_to_unload(&mut self) -> Unloading {
        let Self { bounds, state, last_used, .. } = self;
        Unloading::choose(bounds, state, |id| last_used.get(&id).copied().unwrap_or(0))
    }

    /// Unloads what was chosen, and sealed. Everything that was applied must be written.
    pub(super) fn unload(&mut self, unloading: Unloading) -> Unloaded {
        for id in unloading.records() {
            self.last_used.remove(id);
        }
        unloading.unload(&mut self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{Acknowledged, Acknowledgement, Broadcast, Severity, Timestamp};

    /// A broadcast that is created, and somebody's acknowledgement of one that nobody knows.
    fn entries(number: u64) -> [DecodedEntry; 2] {
        let at = Timestamp::from_unix_ms(0);
        let known = Broadcast {
            id: BroadcastId(Uuid::from_u128(number.into())),
            message: "hi".to_owned().try_into().unwrap(),
            severity: Severity::Info,
            created_by: "ann".parse().unwrap(),
            created_at: at,
        };
        let unknown = Acknowledged {
            broadcast_id: BroadcastId(Uuid::from_u128(u128::MAX - u128::from(number))),
            acknowledgements: vec![Acknowledgement { user: "bob".parse().unwrap(), at }],
            salt: None,
        };
        let events = [(0, known.id.0, Event::Created(known)), (1, Uuid::nil(), Event::Acknowledged(unknown))];
        events.map(|(more, id, event)| DecodedEntry::of_event(2 * number + 1 + more, id, event))
    }

    #[test]
    fn only_broadcasts_in_memory_have_a_last_use() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_scratch(folder.path(), Duration::from_mins(1)).unwrap();
        let mut materializer = Materializer::default();
        for first in (0..1_000).step_by(100) {
            let entries = (first..first + 100).flat_map(entries).collect();
            materializer.apply_and_write(&store, entries, |_, _| {}).unwrap();
            assert!(materializer.is_within_bounds());
            let Materializer { last_used, state, .. } = &materializer;
            assert!(last_used.keys().all(|id| state.broadcasts.contains_key(id)), "after {first}");
        }
        assert_eq!(materializer.state.channels.values().map(|channel| channel.created).sum::<u64>(), 1_000);
    }
}
