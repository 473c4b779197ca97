//! The ledger: folds places of the log into a state, and writes what came of them in one batch of the store.
//!
//! A replica's projection and an auditor's verification share it: there is no second way to read the log.

use std::collections::{BTreeSet, HashMap};

use super::cursor::CursorRecord;
use super::store::{Batch, Store};
use super::tree::Tree;
use crate::crash_point::CrashPoint;
use crate::domain::{BroadcastId, Change, Channel, Event, Recorded, State, evolve};
use crate::log::TraceParent;
use crate::log::envelope::{Decoded, Skipped, decode, trace_of};
use crate::log::merkle::Hash;
use crate::log::names::Subject;
use crate::log::reader::{Entry, Last};

/// Two replicas compare digests at multiples of this.
const MILESTONE: u64 = 256;

/// Broadcasts that are not active but stay loaded, and acknowledgements that they may have together.
const LOADED_BROADCASTS: usize = 256;
const LOADED_ACKS: usize = 1 << 20;

/// Whether more may stay loaded.
pub(super) fn has_room(state: &State) -> bool {
    let acks: usize = state.broadcasts.values().map(|loaded| loaded.acknowledgements.len()).sum();
    state.broadcasts.len() <= LOADED_BROADCASTS && acks <= LOADED_ACKS
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

/// Where a fold stands, and what of its state is in use.
pub struct Ledger {
    /// As it is written with each batch.
    pub cursor: CursorRecord,
    /// When each loaded broadcast was last part of an event: sequences order them.
    used: HashMap<BroadcastId, u64>,
}

impl Ledger {
    /// One that goes on from here.
    pub fn from(cursor: CursorRecord) -> Self {
        Self { cursor, used: HashMap::new() }
    }

    /// Folds steps in the order of the log, and writes them. `tell` is called after each event, with the state behind it.
    pub fn fold(
        &mut self,
        store: &Store,
        state: &mut State,
        tree: &mut Tree,
        steps: Vec<Step>,
        mut tell: impl FnMut(&State, Folded),
    ) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        let mut channels = BTreeSet::new();
        for Step { sequence, leaf, what } in steps {
            self.cursor.move_to(sequence, Last::Message(leaf));
            if let Some((block, root)) = tree.push(leaf) {
                batch.block(block, root);
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
                        channels.insert(channel);
                    }
                }
                What::Event(recorded, trace) => {
                    store.load(state, &State::needs_of(&recorded))?;
                    let change = evolve(state, &recorded);
                    batch.change(state, sequence, &change);
                    if !matches!(recorded.event, Event::Acknowledged(_)) {
                        if let Some(written) = state.written_by(recorded.id) {
                            batch.written(recorded.id, written);
                        }
                        channels.insert(recorded.channel.clone());
                    }
                    self.used.insert(recorded.event.broadcast_id(), sequence);
                    tell(state, Folded { recorded, change, trace });
                }
            }
            if sequence % MILESTONE == 0 {
                self.cursor.milestone = (sequence, state.digest);
            }
        }
        batch.touched(state)?;
        for channel in &channels {
            batch.channel(channel, state.channel(channel))?;
        }
        self.cursor.digest = state.digest;
        self.cursor.tree = tree.now().clone();
        batch.cursor(&self.cursor)?;
        CrashPoint::BeforeApply.reached();
        store.apply(batch)?;
        CrashPoint::AfterApply.reached();
        state.written.clear();
        self.drop_unused(state);
        Ok(())
    }

    /// Drops what is loaded beyond the bounds, longest unused first. Active broadcasts stay.
    fn drop_unused(&mut self, state: &mut State) {
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
