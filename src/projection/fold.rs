//! The fold: one task that turns batches of the log into state, records and announcements.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::cursor::CursorRecord;
use super::ledger::{Folded, Ledger, Step, What};
use super::shared::{Shared, Views};
use super::store::Store;
use super::{Announcement, Changed, Position};
use crate::blocking::blocking;
use crate::domain::{Change, Channel, Event, Recorded, View};
use crate::log::envelope::Skipped;
use crate::log::merkle::Hash;
use crate::log::reader::{Delivery, Entry, MAX_BATCH};
use crate::log::{Epoch, TraceParent};
use crate::metrics::Metrics;

/// Places of the log that are folded together at most, and acknowledgements in them: what waits is written as one batch,
/// since a batch costs the store about as much as what is in it.
const TOGETHER: usize = 1_024;
const ACKS_TOGETHER: usize = 1 << 15;

/// So many entries are decoded where they are; more of them off the threads of the runtime.
const FEW: usize = 4;

/// What the reader handed on, decoded.
enum Decoded {
    Epoch(Epoch),
    Head(u64),
    Steps(Vec<Step>),
}

/// Decodes what comes while that before it is folded. Ends with the reader, and when nobody folds any more.
fn decoded(mut deliveries: mpsc::Receiver<Delivery>) -> mpsc::Receiver<anyhow::Result<Decoded>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(delivery) = deliveries.recv().await {
            let decoded = match delivery {
                Delivery::Epoch(epoch) => Ok(Decoded::Epoch(epoch)),
                Delivery::Head(head) => Ok(Decoded::Head(head)),
                Delivery::Batch(entries) if entries.len() <= FEW => Ok(Decoded::Steps(steps(&entries))),
                Delivery::Batch(entries) => {
                    let steps = blocking(move || steps(&entries)).await;
                    steps.map(Decoded::Steps).context("decoding panicked")
                }
            };
            if sender.send(decoded).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn steps(entries: &[Entry]) -> Vec<Step> {
    entries.iter().map(Step::of).collect()
}

fn acknowledgements(steps: &[Step]) -> usize {
    let of_each = steps.iter().map(|step| match &step.what {
        What::Event(Recorded { event: Event::Acknowledged(brought), .. }, _) => {
            brought.acknowledgements.len()
        }
        _ => 0,
    });
    of_each.sum()
}

/// Adds what waits to be folded. Returns what comes after that and is something else.
fn add_waiting(
    steps: &mut Vec<Step>,
    decoded: &mut mpsc::Receiver<anyhow::Result<Decoded>>,
) -> Option<anyhow::Result<Decoded>> {
    let mut acks = acknowledgements(steps);
    while steps.len() + MAX_BATCH <= TOGETHER && acks < ACKS_TOGETHER {
        match decoded.try_recv() {
            Ok(Ok(Decoded::Steps(more))) => {
                acks += acknowledgements(&more);
                steps.extend(more);
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

/// How a fold ended, when nothing was damaged.
pub(super) enum Outcome {
    /// The reader ended: the replica stops.
    Stopped,
    /// The log is another one than the store is of.
    OtherLog,
    /// The tree is not the one of a checkpoint.
    Disagrees((u64, Hash)),
}

/// The state of the fold's task.
pub(super) struct Fold {
    shared: Arc<Shared>,
    ledger: Ledger,
    metrics: Metrics,
    /// The head that the log had when reading began: the projection has caught up when it gets there.
    target: Option<u64>,
    /// Whether something changed that no snapshot and no announcement has told.
    untold: bool,
}

/// A change as it is announced: the mirror is told what the log says, clients what does not contradict what they have
/// been shown already.
struct Told {
    mirror: Arc<Changed>,
    clients: Option<Arc<Changed>>,
}

impl Fold {
    pub(super) fn new(shared: Arc<Shared>, cursor: CursorRecord, metrics: Metrics) -> Self {
        Self { shared, ledger: Ledger::from(cursor), metrics, target: None, untold: true }
    }

    /// Folds until the reader ends. An error means that the store is damaged.
    pub(super) async fn run(mut self, deliveries: mpsc::Receiver<Delivery>) -> anyhow::Result<Outcome> {
        // What is on disk is true of its log, and can be shown while the rest is read; but not over something newer,
        // that a full disk did not take.
        if self.ledger.cursor.epoch.is_some() && !self.shared.position.borrow().serving {
            let shared = self.shared.clone();
            let order = shared.order.lock().await;
            self.announce_snapshot().await;
            drop(order);
            self.publish(|position| position.serving = true);
        }
        let (mut decoded, mut next) = (decoded(deliveries), None);
        loop {
            let taken = match next.take() {
                Some(taken) => taken,
                None => match decoded.recv().await {
                    Some(taken) => taken,
                    None => break,
                },
            };
            let steps = match taken? {
                Decoded::Epoch(_) if self.ledger.cursor.epoch.is_some() => return Ok(Outcome::OtherLog),
                Decoded::Epoch(epoch) => {
                    self.ledger.cursor.epoch = Some(epoch);
                    vec![]
                }
                Decoded::Head(head) => {
                    self.target.get_or_insert(head);
                    vec![]
                }
                Decoded::Steps(mut steps) => {
                    next = add_waiting(&mut steps, &mut decoded);
                    steps
                }
            };
            self = self.apply(steps).await?;
        }
        let shared = self.shared.clone();
        let flushed = blocking(move || shared.locked_store().as_ref().context("the store is gone")?.flush());
        flushed.await.context("the store panicked")??;
        Ok(Outcome::Stopped)
    }

    /// Folds a batch, writes it, and tells of it.
    async fn apply(mut self, steps: Vec<Step>) -> anyhow::Result<Self> {
        let shared = self.shared.clone();
        let _order = shared.order.lock().await;
        let written = blocking(move || {
            let changes = self.write(steps);
            (self, changes)
        });
        let (mut fold, changes) = written.await.context("the fold panicked")?;
        fold.announce(changes?).await;
        Ok(fold)
    }

    fn write(&mut self, steps: Vec<Step>) -> anyhow::Result<Vec<Told>> {
        let places = steps.len() as u64;
        steps.iter().for_each(say_if_passed_over);
        let begun = Instant::now();
        let shared = self.shared.clone();
        let store = shared.locked_store();
        let changes = self.fold(store.as_ref().context("the store is gone")?, steps)?;
        if places > 0 {
            self.metrics.applied.inc_by(places);
            self.metrics.apply_duration.observe(begun.elapsed());
        }
        Ok(changes)
    }

    async fn announce(&mut self, changes: Vec<Told>) {
        let caught_up = self.target.is_some_and(|target| self.ledger.cursor.sequence >= target);
        let newly = caught_up && !self.shared.position.borrow().caught_up;
        if newly {
            info!(log.sequence = self.ledger.cursor.sequence, "the projection has caught up with the log");
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

    fn fold(&mut self, store: &Store, steps: Vec<Step>) -> anyhow::Result<Vec<Told>> {
        let shared = self.shared.clone();
        let mut views = shared.write();
        let Views { log, tree, pending } = &mut *views;
        let (mut changes, mut untold) = (Vec::new(), false);
        let somebody_is_told = shared.position.borrow().caught_up;
        self.ledger.fold(store, log, tree, steps, |state, Folded { recorded, change, trace }| {
            let Recorded { sequence, channel, .. } = recorded;
            if !somebody_is_told {
                untold |= change != Change::Nothing;
            } else if change != Change::Nothing {
                let view = View::new(state, pending);
                let of = |change| Arc::new(changed(view, channel.clone(), sequence, change, trace));
                let shown = view.has_pending().then(|| pending.shown(&change).map(of));
                let mirror = of(change);
                changes.push(Told { clients: shown.unwrap_or_else(|| Some(mirror.clone())), mirror });
            }
        })?;
        self.untold |= untold;
        Ok(changes)
    }

    fn publish(&self, also: impl FnOnce(&mut Position)) {
        self.shared.position.send_modify(|position| {
            position.epoch = self.ledger.cursor.epoch;
            position.sequence = self.ledger.cursor.sequence;
            position.digest = self.ledger.cursor.digest;
            position.milestone = self.ledger.cursor.milestone;
            position.skipped = (self.ledger.cursor.skipped_future, self.ledger.cursor.skipped_foreign);
            position.holes = self.ledger.cursor.holes;
            position.rebuilt_for = self.ledger.cursor.rebuilt_for;
            also(position);
        });
        self.shared.moved.notify_waiters();
    }

    async fn announce_snapshot(&mut self) {
        let Some(epoch) = self.ledger.cursor.epoch else { return };
        let active = Arc::new(Shared::active(&self.shared.read()));
        self.untold = false;
        let snapshot = Announcement::Snapshot { epoch, sequence: self.ledger.cursor.sequence, active };
        self.tell(snapshot.clone(), Some(snapshot)).await;
    }

    async fn tell(&self, mirror: Announcement, clients: Option<Announcement>) {
        // Nobody mirrors at the moment: fine.
        let _ = self.shared.changes.send(mirror);
        if let Some(clients) = clients {
            self.shared.tell(&clients).await;
        }
    }
}

fn say_if_passed_over(step: &Step) {
    match &step.what {
        What::Skipped(Skipped::Future { what }, _) => {
            warn!(log.sequence = step.sequence, "skipped an event that a newer Tidings may know: {what}");
        }
        What::Skipped(Skipped::Foreign { why }, _) => {
            warn!(log.sequence = step.sequence, "skipped a message that is not an event of Tidings: {why}");
        }
        What::Event(..) | What::Hole => {}
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
