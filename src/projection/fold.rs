//! The fold: batches of the log become state, records and announcements.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::announcement::{Announcement, Changed};
use super::core::Core;
use super::incoming::{ACKS_TOGETHER, Decoded, acknowledgements, add_waiting, decoded, next_of};
use super::job::{Job, Progress};
use super::ledger::{Folded, Step, What, needs_of};
use super::memory::Unloading;
use super::owner::{Fault, Owner};
use super::store::Pace;
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;
use crate::domain::{Change, Channel, Pending, Recorded, View};
use crate::log::Epoch;
use crate::log::envelope::Skipped;
use crate::log::merkle::Hash;
use crate::log::reader::Delivery;
use crate::metrics::Metrics;

/// So many acknowledgements of what is in memory are folded where they are: a millisecond or two.
const FEW_ACKS: usize = 4_096;

/// How long what was folded may wait to be written: what comes meanwhile is written with it. A batch costs the store
/// about as much as what is in it, so a single event would cost a hundred.
const WRITTEN_AFTER: Duration = Duration::from_millis(10);

/// How long what is beyond the bounds of memory stays there. Mostly it is a broadcast that was superseded a moment ago, and
/// thousands of clients are to see the one that took its place first.
const SEALED_AFTER: Duration = Duration::from_millis(250);

/// Requests that are served after each batch, however many batches wait.
const SERVED_AT_ONCE: usize = 256;

/// How a fold ended, when nothing was damaged.
pub(super) enum Outcome {
    /// The reader ended: the replica stops.
    Stopped,
    /// The log is another one than the store is of.
    OtherLog,
    /// The tree is not the one of a checkpoint.
    Disagrees((u64, Hash)),
}

/// One fold, from an opened store to the end of its use.
pub(super) struct Fold<'a> {
    owner: &'a mut Owner,
    metrics: Metrics,
    /// The head that the log had when reading began: the projection has caught up when it gets there.
    target: Option<u64>,
    /// Whether something changed that no snapshot and no announcement has told.
    untold: bool,
    /// What is beyond the bounds of memory is sealed.
    sealing: Job<Unloading>,
    /// The replica stops: however the fold ends, it is not begun again.
    is_stopping: bool,
}

/// A change as it is announced: followers are told what the log says, clients what does not contradict what they have been
/// shown already.
struct Told {
    in_log: Arc<Changed>,
    shown: Option<Arc<Changed>>,
}

/// What a batch did.
#[derive(Default)]
struct Batch {
    changes: Vec<Told>,
    /// Whether something changed, when nobody is told of it.
    untold: bool,
    touched: BTreeSet<Channel>,
}

impl<'a> Fold<'a> {
    pub(super) fn new(owner: &'a mut Owner, metrics: Metrics) -> Self {
        Self { owner, metrics, target: None, untold: true, sealing: Job::default(), is_stopping: false }
    }

    /// Folds until the reader ends. `stop` has it ended. An error means that the store is damaged.
    pub(super) async fn run(
        &mut self,
        deliveries: mpsc::Receiver<Delivery>,
        mut stop: &mut oneshot::Receiver<()>,
        end_reader: impl Fn(),
    ) -> anyhow::Result<Outcome> {
        // What is on disk is true of its log, and can be shown while the rest is read; but not over something newer,
        // that a full disk did not take.
        if self.epoch().is_some() && !self.owner.position().serving {
            self.announce_snapshot().await;
            self.owner.publish_position(|position| position.serving = true);
        }
        let (mut decoded, mut next) = (decoded(deliveries), None);
        loop {
            match self.owner.fault.take().filter(|_| !self.is_stopping) {
                Some(Fault::Disagrees(checkpoint)) => return Ok(Outcome::Disagrees(checkpoint)),
                Some(Fault::Damaged(error)) => return Err(error),
                None => {}
            }
            let Owner { core, writer, requests, loads, .. } = &mut *self.owner;
            let taken = tokio::select! {
                biased;
                _ = &mut stop, if !self.is_stopping => {
                    // The reader's end closes the deliveries; what was delivered is folded and written.
                    self.is_stopping = true;
                    end_reader();
                    continue;
                }
                progress = writer.next() => {
                    writer.proceed(core, progress)?;
                    continue;
                }
                progress = self.sealing.next() => {
                    self.go_on_sealing(progress).await?;
                    continue;
                }
                Some(load) = loads.next() => {
                    self.owner.finish_load(load);
                    continue;
                }
                taken = next_of(&mut next, &mut decoded) => taken,
                Some(request) = requests.recv() => {
                    self.owner.serve(request);
                    self.serve_waiting().await;
                    continue;
                }
            };
            let Some(taken) = taken else { break };
            let steps = match taken? {
                Decoded::Epoch(_) if self.epoch().is_some() => return Ok(Outcome::OtherLog),
                Decoded::Epoch(epoch) => {
                    self.owner.core.ledger.cursor.epoch = Some(epoch);
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
            self.serve_waiting().await;
        }
        self.write_now().await?;
        let store = self.owner.writer.store()?;
        blocking(move || store.flush()).await.context("the store panicked")??;
        Ok(Outcome::Stopped)
    }

    /// Ends what is under way beside the fold. Returns whether the replica stops.
    pub(super) async fn end(mut self) -> bool {
        self.sealing.end().await;
        self.is_stopping
    }

    fn epoch(&self) -> Option<Epoch> {
        self.owner.core.ledger.cursor.epoch
    }

    /// Serves some of the requests that wait.
    async fn serve_waiting(&mut self) {
        for _ in 0..SERVED_AT_ONCE {
            let Ok(request) = self.owner.requests.try_recv() else { break };
            self.owner.serve(request);
        }
        self.owner.serve_deferred().await;
    }

    /// Folds a batch, announces what it did, and sees to it that it is written.
    async fn apply(&mut self, steps: Vec<Step>) -> anyhow::Result<()> {
        let places = steps.len() as u64;
        steps.iter().for_each(log_if_skipped);
        if places > 0 {
            CrashPoint::BeforeApply.reached();
        }
        let begun = Instant::now();
        let is_announced = self.owner.position().caught_up;
        let batch = self.fold(steps, is_announced).await?;
        if places > 0 {
            self.metrics.applied.inc_by(places);
            self.metrics.apply_duration.observe(begun.elapsed());
        }
        self.untold |= batch.untold;
        self.owner.publish_snapshot(Some(&batch.touched));
        self.owner.writer.plan(WRITTEN_AFTER);
        if !is_announced || self.owner.core.ledger.unwritten() >= ACKS_TOGETHER {
            self.write_now().await?;
        }
        self.announce(batch.changes).await;
        if self.sealing.is_idle() && !self.owner.core.ledger.is_within_bounds(&self.owner.core.log) {
            // While the log is read for the first time, memory must not grow faster than it is unloaded.
            if is_announced {
                self.sealing.plan(SEALED_AFTER);
            } else {
                self.begin_sealing(Pace::Full).await?;
                let sealed = self.owner.serve_during(self.sealing.next()).await;
                self.go_on_sealing(sealed).await?;
            }
        }
        Ok(())
    }

    /// Folds what needs the store, or much time, off the threads of the runtime.
    async fn fold(&mut self, steps: Vec<Step>, is_announced: bool) -> anyhow::Result<Batch> {
        let Owner { core, writer, pending, .. } = &mut *self.owner;
        let needs = needs_of(&core.log, &steps);
        if needs.is_empty() && acknowledgements(&steps) <= FEW_ACKS {
            return Ok(fold(core, pending, steps, is_announced));
        }
        let store = writer.store()?;
        let (mut moved, pending) = (std::mem::take(core), pending.clone());
        let folded = blocking(move || {
            let folded = store.load(&needs).map(|loaded| {
                moved.log.add_loaded(loaded);
                fold(&mut moved, &pending, steps, is_announced)
            });
            (moved, folded)
        });
        match folded.await {
            Ok((back, folded)) => {
                self.owner.core = back;
                folded
            }
            Err(panicked) => {
                // What was in memory is gone with it.
                self.owner.position.send_modify(|position| position.serving = false);
                Err(panicked).context("the fold panicked")
            }
        }
    }

    async fn write_now(&mut self) -> anyhow::Result<()> {
        let Owner { writer, core, .. } = &mut *self.owner;
        writer.write_now(core).await
    }

    /// Chooses what is beyond the bounds of memory, when everything is written, and seals the sets among it beside the fold.
    /// Whatever is chosen stays in memory until it is unloaded.
    async fn begin_sealing(&mut self, pace: Pace) -> anyhow::Result<()> {
        self.write_now().await?;
        let Core { log, ledger, .. } = &mut self.owner.core;
        let mut unloading = ledger.begin_to_unload(log);
        let store = self.owner.writer.store()?;
        self.sealing.start(blocking(move || unloading.seal(&store, pace).map(|()| unloading)));
        Ok(())
    }

    /// Begins to seal, or unloads what was sealed, once everything that was folded is written.
    async fn go_on_sealing(&mut self, progress: Progress<Unloading>) -> anyhow::Result<()> {
        let unloading = match progress {
            Progress::Due => return self.begin_sealing(Pace::Third).await,
            Progress::Done(sealed) => sealed?,
        };
        self.write_now().await?;
        self.owner.note_unloading();
        let Core { log, ledger, .. } = &mut self.owner.core;
        let unloaded = ledger.unload(log, unloading);
        // It may be a million users.
        drop(blocking(move || drop(unloaded)));
        Ok(())
    }

    async fn announce(&mut self, changes: Vec<Told>) {
        let sequence = self.owner.core.ledger.cursor.sequence;
        let caught_up = self.target.is_some_and(|target| sequence >= target);
        let newly = caught_up && !self.owner.position().caught_up;
        if newly {
            info!(log.sequence = sequence, "the projection has caught up with the log");
        }
        // Before it has caught up nobody is told of single events: they are old. A snapshot stands for them.
        if caught_up && !newly {
            for Told { in_log, shown } in changes {
                let shown = shown.map(Announcement::Changed);
                self.owner.announce(Announcement::Changed(in_log), shown).await;
            }
        } else {
            self.untold |= !changes.is_empty();
        }
        if newly && self.untold {
            self.announce_snapshot().await;
        }
        // Last, so that who sees the position knows that everything up to it was announced.
        self.owner.publish_position(|position| {
            position.caught_up |= caught_up;
            position.serving |= caught_up;
        });
    }

    async fn announce_snapshot(&mut self) {
        self.owner.publish_snapshot(None);
        let (epoch, sequence) = (self.epoch(), self.owner.core.ledger.cursor.sequence);
        let Some(epoch) = epoch else { return };
        self.untold = false;
        let snapshot = Announcement::Snapshot { epoch, sequence, active: self.owner.active() };
        self.owner.announce(snapshot.clone(), Some(snapshot)).await;
    }
}

/// Folds steps. `is_announced`: what they change is announced.
fn fold(core: &mut Core, pending: &Pending, steps: Vec<Step>, is_announced: bool) -> Batch {
    let Core { log, tree, ledger } = core;
    let mut batch = Batch::default();
    batch.touched.extend(steps.iter().filter_map(|step| step.what.channel().cloned()));
    ledger.fold(log, tree, steps, |state, Folded { recorded, change, trace }| {
        let Recorded { sequence, channel, .. } = recorded;
        if !is_announced {
            batch.untold |= change != Change::Nothing;
        } else if change != Change::Nothing {
            let view = View::new(state, pending);
            let of = |change| Arc::new(Changed::of(view, channel.clone(), sequence, change, trace));
            let shown = view.has_pending().then(|| pending.shown(&change).map(of));
            let in_log = of(change);
            batch.changes.push(Told { shown: shown.unwrap_or_else(|| Some(in_log.clone())), in_log });
        }
    });
    batch
}

fn log_if_skipped(step: &Step) {
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
