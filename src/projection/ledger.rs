//! The ledger: folds places of the log into a state, and gathers what came of them into batches of the store.
//!
//! A replica's projection and an auditor's verification share it: there is no second way to read the log.

use std::collections::{BTreeSet, HashMap};

use super::cursor::CursorRecord;
use super::store::{Batch, Store};
use super::tree::Tree;
use crate::domain::{BroadcastId, Change, Channel, Event, Needs, Recorded, State, evolve};
use crate::log::TraceParent;
use crate::log::envelope::{Decoded, Skipped, decode, trace_of};
use crate::log::merkle::Hash;
use crate::log::names::Subject;
use crate::log::reader::{Entry, Last};

/// Two replicas compare digests at multiples of this.
const MILESTONE: u64 = 256;

/// Broadcasts that are not active but stay loaded, and acknowledgements that they may have together: some 30 MB.
const LOADED_BROADCASTS: usize = 256;
const LOADED_ACKS: usize = 1 << 19;

/// Whether more may stay loaded.
pub(super) fn has_room(state: &State) -> bool {
    let acks: usize = state.broadcasts.values().map(|loaded| loaded.acknowledgements.len()).sum();
    state.broadcasts.len() <= LOADED_BROADCASTS && acks <= LOADED_ACKS
}

/// Whether all of these are acknowledgements of what is loaded, and how many.
pub(super) fn known_acks(state: &State, steps: &[Step]) -> Option<usize> {
    let of_each = steps.iter().map(|step| match &step.what {
        What::Event(Recorded { event: Event::Acknowledged(brought), .. }, _) => {
            let is_loaded = state.broadcasts.contains_key(&brought.broadcast_id);
            is_loaded.then_some(brought.acknowledgements.len())
        }
        _ => None,
    });
    of_each.sum()
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
    pub fn of(entry: &Entry) -> Self {
        let what = match entry {
            Entry::Hole(_) => What::Hole,
            Entry::Message(message) => match decode(message) {
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
    used: HashMap<BroadcastId, u64>,
    /// What was folded since the last batch, if anything was.
    gathered: Batch,
    has_moved: bool,
}

impl Ledger {
    /// One that goes on from here.
    pub fn from(cursor: CursorRecord) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// Folds steps in the order of the log, and gathers what they change. Events may need what is not loaded. `tell` is
    /// called after each event, with the state behind it.
    pub fn fold(
        &mut self,
        load: impl Fn(&mut State, &Needs) -> anyhow::Result<()>,
        state: &mut State,
        tree: &mut Tree,
        steps: Vec<Step>,
        mut tell: impl FnMut(&State, Folded),
    ) -> anyhow::Result<()> {
        self.has_moved = true;
        for Step { sequence, leaf, what } in steps {
            self.cursor.move_to(sequence, Last::Message(leaf));
            if let Some((block, root)) = tree.push(leaf) {
                self.gathered.block(block, root);
            }
            match what {
                What::Hole => {
                    self.cursor.holes += 1;
                    self.cursor.move_to(sequence, Last::Hole);
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
                    load(state, &State::needs_of(&recorded))?;
                    let change = evolve(state, &recorded);
                    self.gathered.change(state, sequence, &change);
                    if !matches!(recorded.event, Event::Acknowledged(_)) {
                        if let Some(written) = state.written_by(recorded.id) {
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
        Ok(())
    }

    /// How many acknowledgements wait to be written.
    pub fn unwritten(&self) -> usize {
        self.gathered.acknowledgements()
    }

    /// Writes what was folded since the last time, with the cursor behind it, and drops what is loaded beyond the bounds.
    pub fn write(&mut self, store: &Store, state: &mut State, tree: &Tree) -> anyhow::Result<()> {
        if let Some(batch) = self.take(state, tree)? {
            store.apply(batch)?;
        }
        self.drop_unused(state);
        Ok(())
    }

    /// What was folded since the last time, as one batch with the cursor behind it. It has to be written before the next one.
    pub fn take(&mut self, state: &mut State, tree: &Tree) -> anyhow::Result<Option<Batch>> {
        if !std::mem::take(&mut self.has_moved) {
            return Ok(None);
        }
        self.cursor.tree = tree.now().clone();
        let mut batch = std::mem::take(&mut self.gathered);
        batch.touched(state)?;
        batch.cursor(&self.cursor)?;
        state.written.clear();
        Ok(Some(batch))
    }

    /// Drops what is loaded beyond the bounds, longest unused first. Active broadcasts stay. Nothing of it may be unwritten.
    pub(super) fn drop_unused(&mut self, state: &mut State) {
        let active: BTreeSet<_> = state.channels.values().filter_map(|channel| channel.active).collect();
        let mut loaded: Vec<_> =
            state.broadcasts.keys().filter(|id| !active.contains(*id)).copied().collect();
        let mut acks: usize =
            loaded.iter().filter_map(|id| state.broadcast(*id)).map(|b| b.acknowledgements.len()).sum();
        if loaded.len() <= LOADED_BROADCASTS && acks <= LOADED_ACKS {
            return;
        }
        loaded.sort_by_key(|id| std::cmp::Reverse(self.used.get(id).copied().unwrap_or(0)));
        while loaded.len() > LOADED_BROADCASTS / 2 || acks > LOADED_ACKS / 2 {
            let Some(id) = loaded.pop() else { break };
            self.used.remove(&id);
            acks -= state.broadcasts.remove(&id).map_or(0, |b| b.acknowledgements.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{Acknowledged, Acknowledgement, Broadcast, Kind, Timestamp};

    /// A broadcast that is created, and somebody's acknowledgement of one that nobody knows.
    fn steps(number: u64) -> [Step; 2] {
        let at = Timestamp::from_unix_ms(0);
        let known = Broadcast {
            id: BroadcastId(Uuid::from_u128(number.into())),
            message: "hi".to_owned().try_into().unwrap(),
            kind: Kind::Info,
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
            let recorded = Recorded { sequence, recorded_at: at, channel, id, late: false, event };
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
            let load = |state: &mut State, needs: &Needs| store.load(state, needs);
            ledger.fold(load, &mut state, &mut tree, steps, |_, _| {}).unwrap();
            ledger.write(&store, &mut state, &tree).unwrap();
            assert!(state.broadcasts.len() <= LOADED_BROADCASTS + 100);
            assert!(ledger.used.keys().all(|id| state.broadcasts.contains_key(id)), "after {first}");
        }
        assert_eq!(state.channels.values().map(|channel| channel.created).sum::<u64>(), 1_000);
    }
}
