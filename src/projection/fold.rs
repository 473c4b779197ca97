//! The fold: one task that turns batches of the log into state, records and announcements.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::cursor::CursorRecord;
use super::shared::{Shared, Views};
use super::store::{Batch, Store};
use super::{Announcement, Changed, Position};
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;
use crate::domain::{BroadcastId, Change, Channel, Event, Recorded, State, View, evolve};
use crate::log::TraceParent;
use crate::log::envelope::{Decoded, Skipped, decode, trace_of};
use crate::log::names::Subject;
use crate::log::reader::{Delivery, Entry};
use crate::metrics::Metrics;

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

/// How a fold ended, when nothing was damaged.
pub(super) enum Outcome {
    /// The reader ended: the replica stops.
    Stopped,
    /// The log is another one than the store is of.
    OtherLog,
}

/// The state of the fold's task.
pub(super) struct Fold {
    shared: Arc<Shared>,
    cursor: CursorRecord,
    metrics: Metrics,
    /// The head that the log had when reading began: the projection has caught up when it gets there.
    target: Option<u64>,
    /// When each loaded broadcast was last part of an event: sequences order them.
    used: HashMap<BroadcastId, u64>,
    /// Whether something changed that no snapshot and no announcement has told.
    untold: bool,
}

/// A batch, decoded.
enum Step {
    Event(Recorded, Option<TraceParent>),
    /// Skipped, and the channel whose lifecycle guard counts it all the same.
    Skip(u64, Option<Channel>),
}

/// A change as it is announced: the mirror is told what the log says, clients what does not contradict what they have
/// been shown already.
struct Told {
    mirror: Arc<Changed>,
    clients: Option<Arc<Changed>>,
}

impl Fold {
    pub(super) fn new(shared: Arc<Shared>, cursor: CursorRecord, metrics: Metrics) -> Self {
        Self { shared, cursor, metrics, target: None, used: HashMap::new(), untold: true }
    }

    /// Folds until the reader ends. An error means that the store is damaged.
    pub(super) async fn run(mut self, mut deliveries: mpsc::Receiver<Delivery>) -> anyhow::Result<Outcome> {
        // What is on disk is true of its log, and can be shown while the rest is read; but not over something newer,
        // that a full disk did not take.
        if self.cursor.epoch.is_some() && !self.shared.position.borrow().serving {
            let shared = self.shared.clone();
            let order = shared.order.lock().await;
            self.announce_snapshot().await;
            drop(order);
            self.publish(|position| position.serving = true);
        }
        while let Some(delivery) = deliveries.recv().await {
            let entries = match delivery {
                Delivery::Epoch(_) if self.cursor.epoch.is_some() => return Ok(Outcome::OtherLog),
                Delivery::Epoch(epoch) => {
                    self.cursor.epoch = Some(epoch);
                    vec![]
                }
                Delivery::Head(head) => {
                    self.target.get_or_insert(head);
                    vec![]
                }
                Delivery::Batch(entries) => entries,
            };
            self = self.apply(entries).await?;
        }
        let shared = self.shared.clone();
        let flushed = blocking(move || shared.locked_store().as_ref().context("the store is gone")?.flush());
        flushed.await.context("the store panicked")??;
        Ok(Outcome::Stopped)
    }

    /// Folds a batch, writes it, and tells of it.
    async fn apply(mut self, entries: Vec<Entry>) -> anyhow::Result<Self> {
        let shared = self.shared.clone();
        let _order = shared.order.lock().await;
        let written = blocking(move || {
            let changes = self.write(&entries);
            (self, changes)
        });
        let (mut fold, changes) = written.await.context("the fold panicked")?;
        fold.announce(changes?).await;
        Ok(fold)
    }

    fn write(&mut self, entries: &[Entry]) -> anyhow::Result<Vec<Told>> {
        let steps = entries.iter().map(|entry| self.decode(entry)).collect::<Vec<_>>();
        if let Some(last) = entries.last() {
            self.cursor.sequence = last.sequence();
            self.cursor.remember(last.as_last());
        }
        let begun = Instant::now();
        let shared = self.shared.clone();
        let store = shared.locked_store();
        let changes = self.fold(store.as_ref().context("the store is gone")?, steps)?;
        if !entries.is_empty() {
            self.metrics.applied.inc_by(entries.len() as u64);
            self.metrics.apply_duration.observe(begun.elapsed());
        }
        Ok(changes)
    }

    async fn announce(&mut self, changes: Vec<Told>) {
        let caught_up = self.target.is_some_and(|target| self.cursor.sequence >= target);
        let newly = caught_up && !self.shared.position.borrow().caught_up;
        if newly {
            info!(log.sequence = self.cursor.sequence, "the projection has caught up with the log");
        }
        // Before it has caught up nobody is told of single events: they are old. A snapshot stands for them.
        if caught_up && !newly {
            for Told { mirror, clients } in changes {
                self.tell(Announcement::Changed(mirror), clients.map(Announcement::Changed)).await;
            }
        } else {
            self.untold |= !changes.is_empty();
        }
        if newly && self.untold {
            self.announce_snapshot().await;
        }
        // Last, so that who sees the position knows that everything up to it was announced.
        self.publish(|position| {
            position.caught_up |= caught_up;
            position.serving |= caught_up;
        });
    }

    fn decode(&mut self, entry: &Entry) -> Step {
        let message = match entry {
            Entry::Message(message) => message,
            Entry::Hole(sequence) => {
                self.cursor.holes += 1;
                return Step::Skip(*sequence, None);
            }
        };
        let skipped = match decode(message) {
            Decoded::Event(recorded) => return Step::Event(recorded, trace_of(message)),
            Decoded::Skipped(skipped) => skipped,
        };
        match skipped {
            Skipped::Future { what } => {
                self.cursor.skipped_future += 1;
                warn!(
                    log.sequence = message.sequence,
                    "skipped an event that a newer Tidings may know: {what}"
                );
            }
            Skipped::Foreign { why } => {
                self.cursor.skipped_foreign += 1;
                warn!(
                    log.sequence = message.sequence,
                    "skipped a message that is not an event of Tidings: {why}"
                );
            }
        }
        let guarded = match message.subject.parse() {
            Ok(Subject::Lifecycle(channel)) => Some(channel),
            _ => None,
        };
        Step::Skip(message.sequence, guarded)
    }

    /// Folds the steps into the state and writes what came of them, all in one batch of the store.
    fn fold(&mut self, store: &Store, steps: Vec<Step>) -> anyhow::Result<Vec<Told>> {
        let shared = self.shared.clone();
        let mut views = shared.write();
        let Views { log: state, pending } = &mut *views;
        let mut batch = Batch::default();
        let mut channels = BTreeSet::new();
        let mut changes = Vec::new();
        for step in steps {
            let sequence = match step {
                Step::Skip(sequence, guarded) => {
                    if let Some(channel) = guarded {
                        state.note_lifecycle_head(&channel, sequence);
                        channels.insert(channel);
                    }
                    sequence
                }
                Step::Event(recorded, trace) => {
                    store.load(state, &State::needs_of(&recorded))?;
                    let change = evolve(state, &recorded);
                    batch.change(state, recorded.sequence, &change)?;
                    if !matches!(recorded.event, Event::Acknowledged(_)) {
                        if let Some(written) = state.written_by(recorded.id) {
                            batch.written(recorded.id, written);
                        }
                        channels.insert(recorded.channel.clone());
                    }
                    self.used.insert(recorded.event.broadcast_id(), recorded.sequence);
                    let Recorded { sequence, channel, .. } = recorded;
                    if change != Change::Nothing {
                        let view = View::new(state, pending);
                        let of = |change| Arc::new(changed(view, channel.clone(), sequence, change, trace));
                        let shown = view.has_pending().then(|| pending.shown(&change).map(of));
                        let mirror = of(change);
                        changes.push(Told { clients: shown.unwrap_or_else(|| Some(mirror.clone())), mirror });
                    }
                    sequence
                }
            };
            if sequence % MILESTONE == 0 {
                self.cursor.milestone = (sequence, state.digest);
            }
        }
        for channel in &channels {
            batch.channel(channel, state.channel(channel))?;
        }
        self.cursor.digest = state.digest;
        batch.cursor(&self.cursor)?;
        CrashPoint::BeforeApply.reached();
        store.apply(batch)?;
        CrashPoint::AfterApply.reached();
        state.written.clear();
        self.drop_unused(state);
        Ok(changes)
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

    fn publish(&self, also: impl FnOnce(&mut Position)) {
        self.shared.position.send_modify(|position| {
            position.epoch = self.cursor.epoch;
            position.sequence = self.cursor.sequence;
            position.digest = self.cursor.digest;
            position.milestone = self.cursor.milestone;
            position.skipped = (self.cursor.skipped_future, self.cursor.skipped_foreign);
            position.holes = self.cursor.holes;
            also(position);
        });
        self.shared.moved.notify_waiters();
    }

    async fn announce_snapshot(&mut self) {
        let Some(epoch) = self.cursor.epoch else { return };
        let active = Arc::new(Shared::active(&self.shared.read()));
        self.untold = false;
        let snapshot = Announcement::Snapshot { epoch, sequence: self.cursor.sequence, active };
        self.tell(snapshot.clone(), Some(snapshot)).await;
    }

    async fn tell(&self, mirror: Announcement, clients: Option<Announcement>) {
        // Nobody mirrors at the moment: fine. The subscriber is gone: the replica stops.
        let _ = self.shared.changes.send(mirror);
        if let Some(clients) = clients
            && let Some(subscriber) = self.shared.subscriber()
        {
            let _ = subscriber.send(clients).await;
        }
    }
}

pub(super) fn changed(
    view: View<'_>,
    channel: Channel,
    sequence: u64,
    change: Change,
    trace: Option<TraceParent>,
) -> Changed {
    let activated = match &change {
        Change::Activated { id, .. } => view.broadcast(*id).map(|known| known.broadcast.clone()),
        _ => None,
    };
    Changed { sequence, channel, change, activated, trace }
}
