//! The fold: one task that turns batches of the log into state, records and announcements.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::incoming::{ACKS_TOGETHER, Decoded, acknowledgements, add_waiting, decoded, next_of};
use super::ledger::{Folded, Step, What, needs_of};
use super::memory::Unloading;
use super::shared::{Shared, Views};
use super::store::{Pace, Store};
use super::{Announcement, Changed, Position};
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;
use crate::domain::{Change, Channel, Needs, Recorded, View};
use crate::log::envelope::Skipped;
use crate::log::merkle::Hash;
use crate::log::reader::Delivery;
use crate::log::{Epoch, TraceParent};
use crate::metrics::Metrics;

/// So many acknowledgements of what is in memory are folded where they are: a millisecond or two.
const FEW_ACKS: usize = 4_096;

/// How long what was folded may wait to be written: what comes meanwhile is written with it. A batch costs the store
/// about as much as what is in it, so a single event would cost a hundred.
const WRITTEN_AFTER: Duration = Duration::from_millis(10);

/// How long what is beyond the bounds of memory stays there. Mostly it is a broadcast that was superseded a moment ago, and
/// thousands of clients are to see the one that took its place first.
const SEALED_AFTER: Duration = Duration::from_millis(250);

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
    metrics: Metrics,
    /// The head that the log had when reading began: the projection has caught up when it gets there.
    target: Option<u64>,
    /// Whether something changed that no snapshot and no announcement has told.
    untold: bool,
    writing: Job<()>,
    /// What is beyond the bounds of memory is sealed.
    sealing: Job<Unloading>,
}

/// Work on the store beside the fold: planned, then under way.
struct Job<T> {
    at: Option<Instant>,
    begun: Option<JoinHandle<anyhow::Result<T>>>,
}

impl<T> Job<T> {
    const fn idle() -> Self {
        Self { at: None, begun: None }
    }

    const fn is_idle(&self) -> bool {
        self.at.is_none() && self.begun.is_none()
    }

    /// There is something to do, some time from now, unless it is planned already.
    fn plan(&mut self, after: Duration) {
        self.at.get_or_insert_with(|| Instant::now() + after);
    }

    /// Begins when it is time to, and comes back with what became of that; never while nothing is planned. It can be left
    /// and taken up again.
    async fn go_on(&mut self, begin: impl FnOnce() -> JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
        let work = if let Some(work) = &mut self.begun {
            work
        } else {
            let Some(at) = self.at else { return std::future::pending().await };
            sleep_until(at).await;
            self.at = None;
            self.begun.insert(begin())
        };
        let done = work.await;
        self.begun = None;
        done.context("work on the store panicked")?
    }
}

/// A change as it is announced: the mirror is told what the log says, clients what does not contradict what they have
/// been shown already.
struct Told {
    mirror: Arc<Changed>,
    clients: Option<Arc<Changed>>,
}

impl Fold {
    pub(super) fn new(shared: Arc<Shared>, metrics: Metrics) -> Self {
        Self { shared, metrics, target: None, untold: true, writing: Job::idle(), sealing: Job::idle() }
    }

    /// Folds until the reader ends. An error means that the store is damaged.
    pub(super) async fn run(mut self, deliveries: mpsc::Receiver<Delivery>) -> anyhow::Result<Outcome> {
        // What is on disk is true of its log, and can be shown while the rest is read; but not over something newer,
        // that a full disk did not take.
        if self.epoch().is_some() && !self.shared.position.borrow().serving {
            let shared = self.shared.clone();
            let order = shared.order.lock().await;
            self.announce_snapshot().await;
            drop(order);
            self.publish(|position| position.serving = true);
        }
        let (mut decoded, mut next) = (decoded(deliveries), None);
        let shared = self.shared.clone();
        loop {
            let taken = tokio::select! {
                biased;
                written = self.writing.go_on(|| write(&shared)) => {
                    written?;
                    continue;
                }
                sealed = self.sealing.go_on(|| seal(&shared, Pace::Third)) => {
                    let unloading = sealed?;
                    let _order = shared.order.lock().await;
                    self.unload(unloading).await?;
                    continue;
                }
                taken = next_of(&mut next, &mut decoded) => taken,
            };
            let Some(taken) = taken else { break };
            let steps = match taken? {
                Decoded::Epoch(_) if self.epoch().is_some() => return Ok(Outcome::OtherLog),
                Decoded::Epoch(epoch) => {
                    self.shared.write().ledger.cursor.epoch = Some(epoch);
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
            self.apply(steps).await?;
        }
        if let Some(sealing) = self.sealing.begun.take() {
            sealing.await.context("sealing acknowledgements panicked")??;
        }
        let flushed = blocking(move || shared.with_store(Store::flush));
        flushed.await.context("the store panicked")??;
        Ok(Outcome::Stopped)
    }

    fn epoch(&self) -> Option<Epoch> {
        self.shared.read().ledger.cursor.epoch
    }

    /// Folds a batch, tells of it, and sees to it that it is written.
    async fn apply(&mut self, steps: Vec<Step>) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        let _order = shared.order.lock().await;
        let places = steps.len() as u64;
        steps.iter().for_each(say_if_passed_over);
        if places > 0 {
            CrashPoint::BeforeApply.reached();
        }
        let begun = Instant::now();
        let acks = acknowledgements(&steps);
        let (needs, unwritten) = {
            let views = shared.read();
            (needs_of(&views.log, &steps), views.ledger.unwritten())
        };
        let somebody_is_told = shared.position.borrow().caught_up;
        let is_light = needs.is_empty() && acks <= FEW_ACKS && unwritten < ACKS_TOGETHER;
        let (changes, is_untold) = if is_light {
            fold(&mut shared.write(), steps, somebody_is_told)
        } else {
            let shared = shared.clone();
            blocking(move || fold_beside(&shared, &needs, steps)).await.context("the fold panicked")??
        };
        if places > 0 {
            self.metrics.applied.inc_by(places);
            self.metrics.apply_duration.observe(begun.elapsed());
        }
        self.untold |= is_untold;
        self.writing.plan(WRITTEN_AFTER);
        self.announce(changes).await;
        if self.sealing.is_idle() && !shared.is_within_bounds() {
            // While the log is read for the first time, memory must not grow faster than it is unloaded.
            if somebody_is_told {
                self.sealing.plan(SEALED_AFTER);
            } else {
                let sealed = seal(&shared, Pace::Full).await;
                self.unload(sealed.context("sealing acknowledgements panicked")??).await?;
            }
        }
        Ok(())
    }

    /// Unloads what was sealed. The caller holds `order`.
    async fn unload(&self, unloading: Unloading) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        blocking(move || shared.unload(unloading)).await.context("unloading panicked")?
    }

    async fn announce(&mut self, changes: Vec<Told>) {
        let sequence = self.shared.read().ledger.cursor.sequence;
        let caught_up = self.target.is_some_and(|target| sequence >= target);
        let newly = caught_up && !self.shared.position.borrow().caught_up;
        if newly {
            info!(log.sequence = sequence, "the projection has caught up with the log");
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

    fn publish(&self, also: impl FnOnce(&mut Position)) {
        let views = self.shared.read();
        let cursor = &views.ledger.cursor;
        self.shared.position.send_modify(|position| {
            position.epoch = cursor.epoch;
            position.sequence = cursor.sequence;
            position.digest = cursor.digest;
            position.milestone = cursor.milestone;
            position.skipped = (cursor.skipped_future, cursor.skipped_foreign);
            position.holes = cursor.holes;
            position.rebuilt_for = cursor.rebuilt_for;
            also(position);
        });
        drop(views);
        self.shared.moved.notify_waiters();
    }

    async fn announce_snapshot(&mut self) {
        let (cursor, active) = {
            let views = self.shared.read();
            ((views.ledger.cursor.epoch, views.ledger.cursor.sequence), Arc::new(Shared::active(&views)))
        };
        let (Some(epoch), sequence) = cursor else { return };
        self.untold = false;
        let snapshot = Announcement::Snapshot { epoch, sequence, active };
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

/// Writes what was folded.
fn write(shared: &Arc<Shared>) -> JoinHandle<anyhow::Result<()>> {
    let shared = shared.clone();
    blocking(move || shared.with_store(|_| Ok(())))
}

/// Seals what is beyond the bounds of memory.
fn seal(shared: &Arc<Shared>, pace: Pace) -> JoinHandle<anyhow::Result<Unloading>> {
    let shared = shared.clone();
    blocking(move || shared.seal_beyond_bounds(pace))
}

/// Folds what needs the store, or much time. What nobody is told of is written at once, since there is more of it.
fn fold_beside(shared: &Shared, needs: &Needs, steps: Vec<Step>) -> anyhow::Result<(Vec<Told>, bool)> {
    let somebody_is_told = shared.position.borrow().caught_up;
    // With no lock held: nothing is unloaded meanwhile, since only this task does that.
    let store = shared.read().store.clone().context("the projection is being rebuilt")?;
    let loaded = shared.load(&store, needs)?;
    let (folded, unwritten) = {
        let mut views = shared.write();
        views.log.add_loaded(loaded);
        (fold(&mut views, steps, somebody_is_told), views.ledger.unwritten())
    };
    if !somebody_is_told || unwritten >= ACKS_TOGETHER {
        shared.with_store(|_| Ok(()))?;
    }
    Ok(folded)
}

/// Folds into the views. Returns what is to be told; or, when nobody is, whether there was something.
fn fold(views: &mut Views, steps: Vec<Step>, somebody_is_told: bool) -> (Vec<Told>, bool) {
    let Views { log, tree, ledger, pending, .. } = views;
    let (mut changes, mut is_untold) = (Vec::new(), false);
    ledger.fold(log, tree, steps, |state, Folded { recorded, change, trace }| {
        let Recorded { sequence, channel, .. } = recorded;
        if !somebody_is_told {
            is_untold |= change != Change::Nothing;
        } else if change != Change::Nothing {
            let view = View::new(state, pending);
            let of = |change| Arc::new(changed(view, channel.clone(), sequence, change, trace));
            let shown = view.has_pending().then(|| pending.shown(&change).map(of));
            let mirror = of(change);
            changes.push(Told { clients: shown.unwrap_or_else(|| Some(mirror.clone())), mirror });
        }
    });
    (changes, is_untold)
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
