//! The ledger: folds places of the log into a state, and gathers what came of them into batches of the store.
//!
//! A replica's projection and an auditor's verification share it: there is no second way to read the log.

use std::collections::BTreeMap;

use super::cursor::CursorRecord;
use super::memory::{Bounds, Unloaded, Unloading};
use super::store::{Batch, Pace, Store};
use super::tree::Tree;
use crate::domain::{BroadcastId, Change, Channel, Event, Needs, Recorded, State, evolve};
use crate::log::TraceParent;
use crate::log::envelope::{Decoded, Skipped, decode, trace_of};
use crate::log::merkle::Hash;
use crate::log::names::Subject;
use crate::log::reader::{LastEntry, LogEntry};

/// Two replicas compare digests at multiples of this.
const MILESTONE: u64 = 256;

/// What these steps look up and the state does not have.
pub fn needs_of(state: &State, steps: &[Step]) -> Needs {
    let mut needs = Needs::default();
    for step in steps {
        if let What::Event(recorded, _) = &step.what {
            state.needs_of(recorded, &mut needs);
        }
    }
    needs
}

/// A place of the log, decoded.
pub struct Step {
    /// Where.
    pub sequence: u64,
    /// What the Merkle tree says of it.
    pub leaf: Hash,
    /// What it is to this build.
    pub what: What,
}

/// What a place of the log is to this build.
pub enum What {
    /// An event, and the trace of the request that it comes of.
    Event(Recorded, Option<TraceParent>),
    /// A message that is passed over, and the channel whose lifecycle guard counts it all the same.
    Skipped(Skipped, Option<Channel>),
    /// Nothing any more.
    Hole,
}

impl What {
    /// The channel that it says something of.
    pub(super) const fn channel(&self) -> Option<&Channel> {
        match self {
            Self::Event(recorded, _) => Some(&recorded.channel),
            Self::Skipped(_, channel) => channel.as_ref(),
            Self::Hole => None,
        }
    }

    /// The channel on whose lifecycle subject it stands: the guard there counts it.
    pub fn guarded(&self) -> Option<&Channel> {
        match self {
            Self::Event(Recorded { event: Event::Acknowledged(_), .. } | Recorded { late: true, .. }, _) => {
                None
            }
            Self::Event(recorded, _) => Some(&recorded.channel),
            Self::Skipped(_, channel) => channel.as_ref(),
            Self::Hole => None,
        }
    }
}

impl Step {
    /// Decodes what stands at a place.
    pub fn of(entry: &LogEntry) -> Self {
        let what = match entry {
            LogEntry::Hole(_) => What::Hole,
            LogEntry::Message(message) => match decode(message) {
                Decoded::Event(recorded) => What::Event(recorded, trace_of(message)),
                Decoded::Skipped(skipped) => What::Skipped(
                    skipped,
                    match message.subject.parse() {
                        Ok(Subject::Lifecycle(channel)) => Some(channel),
                        _ => None,
                    },
                ),
            },
        };
        Self { sequence: entry.sequence(), leaf: entry.leaf(), what }
    }
}

/// What an event did.
pub struct Folded {
    /// The event.
    pub recorded: Recorded,
    /// What changed; nothing, when it had no effect.
    pub change: Change,
    /// The trace of the request that it comes of.
    pub trace: Option<TraceParent>,
}

/// Where a fold stands, what of its state is in use, and what of it is not in the store yet.
#[derive(Default)]
pub struct Ledger {
    /// Where it stands.
    pub cursor: CursorRecord,
    /// When each loaded broadcast was last part of an event: sequences order them.
    used: BTreeMap<BroadcastId, u64>,
    /// What was folded since the last batch, if anything was.
    gathered: Batch,
    has_moved: bool,
    pub(super) bounds: Bounds,
}

impl Ledger {
    /// One that goes on from here.
    pub fn from(cursor: CursorRecord) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// The same of a replica, which is asked for what it folded.
    pub(super) fn of_a_replica(cursor: CursorRecord) -> Self {
        Self { bounds: Bounds::of_a_replica(), ..Self::from(cursor) }
    }

    /// Folds steps in the order of the log, and gathers what they change. The state has to hold what [`needs_of`] names for
    /// them, as far as the log has it. `tell` is called after each event, with the state behind it.
    pub fn fold(
        &mut self,
        state: &mut State,
        tree: &mut Tree,
        steps: Vec<Step>,
        mut tell: impl FnMut(&State, Folded),
    ) {
        self.has_moved = true;
        for Step { sequence, leaf, what } in steps {
            self.cursor.move_to(sequence, LastEntry::Message(leaf));
            if let Some((block, root)) = tree.push(leaf) {
                self.gathered.block(block, root);
            }
            match what {
                What::Hole => {
                    self.cursor.holes += 1;
                    self.cursor.move_to(sequence, LastEntry::Hole);
                }
                What::Skipped(skipped, guarded) => {
                    match skipped {
                        Skipped::Future { .. } => self.cursor.skipped_future += 1,
                        Skipped::Foreign { .. } => self.cursor.skipped_foreign += 1,
                    }
                    if let Some(channel) = guarded {
                        state.note_lifecycle_head(&channel, sequence);
                        self.gathered.moved(channel);
                    }
                }
                What::Event(recorded, trace) => {
                    let change = evolve(state, &recorded);
                    self.gathered.change(state, sequence, &change);
                    if !matches!(recorded.event, Event::Acknowledged(_)) {
                        if let Some(written) = state.lifecycle_event(recorded.id) {
                            self.gathered.written(recorded.id, written);
                        }
                        self.gathered.moved(recorded.channel.clone());
                    }
                    // Of one that nobody knows nothing is loaded that could be dropped.
                    let about = recorded.event.broadcast_id();
                    if state.broadcast(about).is_some() {
                        self.used.insert(about, sequence);
                    }
                    tell(state, Folded { recorded, change, trace });
                }
            }
            if sequence % MILESTONE == 0 {
                self.cursor.milestone = (sequence, state.digest);
            }
        }
        self.cursor.digest = state.digest;
    }

    /// Whether something was folded that no batch has taken.
    pub(super) const fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// How many acknowledgements wait to be written.
    pub fn unwritten(&self) -> usize {
        self.gathered.acknowledgements()
    }

    /// Loads what steps need, folds them, writes that with the cursor behind it, and unloads what is beyond the bounds:
    /// all that there is to do where nobody else looks at the state.
    pub fn fold_and_write(
        &mut self,
        store: &Store,
        state: &mut State,
        tree: &mut Tree,
        steps: Vec<Step>,
        tell: impl FnMut(&State, Folded),
    ) -> anyhow::Result<()> {
        state.add_loaded(store.load(&needs_of(state, &steps))?);
        self.fold(state, tree, steps, tell);
        if let Some(batch) = self.take(state, tree)? {
            store.apply(batch)?;
        }
        if !self.is_within_bounds(state) {
            let mut unloading = self.begin_to_unload(state);
            unloading.seal(store, Pace::Full)?;
            drop(self.unload(state, unloading));
        }
        Ok(())
    }

    /// What was folded since the last time, as one batch with the cursor behind it. It has to be written before the next one.
    pub fn take(&mut self, state: &State, tree: &Tree) -> anyhow::Result<Option<Batch>> {
        if !std::mem::take(&mut self.has_moved) {
            return Ok(None);
        }
        self.cursor.tree = tree.now().clone();
        let mut batch = std::mem::take(&mut self.gathered);
        batch.touched(state)?;
        batch.cursor(&self.cursor)?;
        Ok(Some(batch))
    }

    /// Whether no more is in memory than may stay.
    pub(super) fn is_within_bounds(&self, state: &State) -> bool {
        self.bounds.are_kept(state)
    }

    /// Chooses what is to be unloaded. What was folded so far must be written before its sets are sealed: a set that is ahead
    /// of the cursor would hide events that are read again.
    pub(super) fn begin_to_unload(&self, state: &mut State) -> Unloading {
        Unloading::choose(&self.bounds, state, |id| self.used.get(&id).copied().unwrap_or(0))
    }

    /// Unloads what was chosen, and sealed. Everything that was folded must be written, and no fold may run beside it.
    pub(super) fn unload(&mut self, state: &mut State, unloading: Unloading) -> Unloaded {
        for id in unloading.records() {
            self.used.remove(id);
        }
        unloading.unload(state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{Acknowledged, Acknowledgement, Broadcast, Severity, Timestamp};

    /// A broadcast that is created, and somebody's acknowledgement of one that nobody knows.
    fn steps(number: u64) -> [Step; 2] {
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
        events.map(|(more, id, event)| {
            let (sequence, channel) = (2 * number + 1 + more, "creator".parse().unwrap());
            let recorded = Recorded {
                sequence,
                recorded_at: at,
                channel,
                id,
                late: false,
                relayed: false,
                sent_to: None,
                event,
            };
            Step { sequence, leaf: Hash::empty(), what: What::Event(recorded, None) }
        })
    }

    #[test]
    fn only_what_is_loaded_is_kept_in_mind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_scratch(folder.path(), Duration::from_mins(1)).unwrap();
        let (mut state, mut tree) = (State::default(), Tree::default());
        let mut ledger = Ledger::from(CursorRecord::default());
        for first in (0..1_000).step_by(100) {
            let steps = (first..first + 100).flat_map(steps).collect();
            ledger.fold_and_write(&store, &mut state, &mut tree, steps, |_, _| {}).unwrap();
            assert!(ledger.is_within_bounds(&state));
            assert!(ledger.used.keys().all(|id| state.broadcasts.contains_key(id)), "after {first}");
        }
        assert_eq!(state.channels.values().map(|channel| channel.created).sum::<u64>(), 1_000);
    }
}
