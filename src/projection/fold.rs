//! The fold: applies batches of the log, has them written, and announces what they changed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::announcement::{Announcement, Changed};
use super::decoded_entry::{DecodedEntry, EntryKind};
use super::incoming::{Decoded, acknowledgements, add_waiting, decoded, next_of};
use super::job::{Job, Progress};
use super::materializer::{Applied, Materializer};
use super::memory::Unloading;
use super::owner::{Fault, Owner};
use super::store::Pace;
use super::store::costs::{ACKS_TOGETHER, WRITE_DELAY};
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;
use crate::domain::{Change, Channel, Pending, Recorded, View};
use crate::log::Epoch;
use crate::log::envelope::Skipped;
use crate::log::merkle::Hash;
use crate::log::reader::Delivery;
use crate::metrics::Metrics;

/// Up to so many acknowledgements of broadcasts in memory are applied on the task itself: a millisecond or two.
const FEW_ACKS: usize = 4_096;

/// How long what is beyond the bounds of memory stays there. Usually it is a broadcast that was superseded a moment ago, and
/// sealing it waits until clients have its successor.
const SEALED_AFTER: Duration = Duration::from_millis(250);

/// Requests that are served after each batch, however many batches wait.
const SERVED_AT_ONCE: usize = 256;

/// Why a fold ended, if nothing was damaged.
pub(super) enum Outcome {
    /// The replica stops.
    Stopped,
    /// The store belongs to another log.
    OtherLog,
    /// The tree disagrees with this checkpoint.
    Disagrees((u64, Hash)),
}

/// Applies the log to one store, from its opening to the end of its use.
pub(super) struct Fold<'a> {
    owner: &'a mut Owner,
    metrics: Metrics,
    /// The head that the log had when reading began: there the projection has caught up.
    target: Option<u64>,
    /// Whether something changed that was not announced.
    has_unannounced: bool,
    /// Seals what is beyond the bounds of memory.
    sealing: Job<Unloading>,
    /// The replica stops: the fold is not restarted, whatever it ends with.
    is_stopping: bool,
}

/// A change as it is announced.
struct Announced {
    /// To followers: what the log says.
    in_log: Arc<Changed>,
    /// To this replica's clients: what does not contradict what they were shown while the log was away.
    for_clients: Option<Arc<Changed>>,
}

/// What a batch changed.
#[derive(Default)]
struct Batch {
    changes: Vec<Announced>,
    /// Whether something changed that is not among the changes, since nothing is announced yet.
    unannounced: bool,
    touched: BTreeSet<Channel>,
}

impl<'a> Fold<'a> {
    pub(super) fn new(owner: &'a mut Owner, metrics: Metrics) -> Self {
        Self {
            owner,
            metrics,
            target: None,
            has_unannounced: true,
            sealing: Job::default(),
            is_stopping: false,
        }
    }

    /// Applies what is delivered until the reader ends; `stop` ends the reader. An error means that the store is damaged.
    pub(super) async fn run(
        &mut self,
        deliveries: mpsc::Receiver<Delivery>,
        mut stop: &mut oneshot::Receiver<()>,
        end_reader: impl Fn(),
    ) -> anyhow::Result<Outcome> {
        // The state on disk is right for its position and can be served while the rest is read, unless a newer one, which a
        // full disk did not take, is served already.
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
            let Owner { materializer, writer, requests, loads, .. } = &mut *self.owner;
            let taken = tokio::select! {
                biased;
                _ = &mut stop, if !self.is_stopping => {
                    // The reader's end closes the deliveries; what was delivered is applied and written.
                    self.is_stopping = true;
                    end_reader();
                    continue;
                }
                progress = writer.next() => {
                    writer.proceed(materializer, progress)?;
                    continue;
                }
                progress = self.sealing.next() => {
                    self.proceed_with_sealing(progress).await?;
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
            let entries = match taken? {
                Decoded::Epoch(_) if self.epoch().is_some() => return Ok(Outcome::OtherLog),
                Decoded::Epoch(epoch) => {
                    self.owner.materializer.cursor.epoch = Some(epoch);
                    vec![]
                }
                Decoded::Head(head) => {
                    self.target.get_or_insert(head);
                    vec![]
                }
                Decoded::Entries(mut entries) => {
                    next = add_waiting(&mut entries, &mut decoded);
                    entries
                }
            };
            self.apply(entries).await?;
            self.serve_waiting().await;
        }
        self.write_now().await?;
        let store = self.owner.writer.store()?;
        blocking(move || store.flush()).await.context("the store panicked")??;
        Ok(Outcome::Stopped)
    }

    /// Waits for the sealing that is running. Returns whether the replica stops.
    pub(super) async fn end(mut self) -> bool {
        self.sealing.end().await;
        self.is_stopping
    }

    fn epoch(&self) -> Option<Epoch> {
        self.owner.materializer.cursor.epoch
    }

    /// Serves requests that wait, up to a bound.
    async fn serve_waiting(&mut self) {
        for _ in 0..SERVED_AT_ONCE {
            let Ok(request) = self.owner.requests.try_recv() else { break };
            self.owner.serve(request);
        }
        self.owner.serve_deferred().await;
    }

    /// Applies a batch, announces what it changed, and has it written.
    async fn apply(&mut self, entries: Vec<DecodedEntry>) -> anyhow::Result<()> {
        let count = entries.len() as u64;
        entries.iter().for_each(log_if_skipped);
        if count > 0 {
            CrashPoint::BeforeApply.reached();
        }
        let begun = Instant::now();
        let is_announced = self.owner.position().caught_up;
        let batch = self.fold(entries, is_announced).await?;
        if count > 0 {
            self.metrics.applied.inc_by(count);
            self.metrics.apply_duration.observe(begun.elapsed());
        }
        self.has_unannounced |= batch.unannounced;
        self.owner.publish_snapshot(Some(&batch.touched));
        self.owner.writer.plan(WRITE_DELAY);
        if !is_announced || self.owner.materializer.unwritten_acknowledgements() >= ACKS_TOGETHER {
            self.write_now().await?;
        }
        self.announce(batch.changes).await;
        if self.sealing.is_idle() && !self.owner.materializer.is_within_bounds() {
            // While the log is read for the first time, memory must not grow faster than it is unloaded.
            if is_announced {
                self.sealing.plan(SEALED_AFTER);
            } else {
                self.start_sealing(Pace::Full).await?;
                let sealed = self.owner.serve_during(self.sealing.next()).await;
                self.proceed_with_sealing(sealed).await?;
            }
        }
        Ok(())
    }

    /// Applies entries; off the threads of the runtime when they need the store, or much time.
    async fn fold(&mut self, entries: Vec<DecodedEntry>, is_announced: bool) -> anyhow::Result<Batch> {
        let Owner { materializer, writer, pending, .. } = &mut *self.owner;
        let needs = materializer.needs_of(&entries);
        if needs.is_empty() && acknowledgements(&entries) <= FEW_ACKS {
            return Ok(fold(materializer, pending, entries, is_announced));
        }
        let store = writer.store()?;
        let (mut moved, pending) = (std::mem::take(materializer), pending.clone());
        let folded = blocking(move || {
            let folded = store.load(&needs).map(|loaded| {
                moved.state.add_loaded(loaded);
                fold(&mut moved, &pending, entries, is_announced)
            });
            (moved, folded)
        });
        match folded.await {
            Ok((back, folded)) => {
                self.owner.materializer = back;
                folded
            }
            Err(panicked) => {
                // The state in memory is lost with it.
                self.owner.position.send_modify(|position| position.serving = false);
                Err(panicked).context("the fold panicked")
            }
        }
    }

    async fn write_now(&mut self) -> anyhow::Result<()> {
        let Owner { writer, materializer, .. } = &mut *self.owner;
        writer.write_now(materializer).await
    }

    /// Writes what was applied, chooses what is to leave memory, and starts to seal its sets. It stays in memory until it is
    /// unloaded.
    async fn start_sealing(&mut self, pace: Pace) -> anyhow::Result<()> {
        self.write_now().await?;
        let mut unloading = self.owner.materializer.begin_to_unload();
        let store = self.owner.writer.store()?;
        self.sealing.start(blocking(move || unloading.seal(&store, pace).map(|()| unloading)));
        Ok(())
    }

    /// Starts to seal; or unloads what was sealed, once everything that was applied is written.
    async fn proceed_with_sealing(&mut self, progress: Progress<Unloading>) -> anyhow::Result<()> {
        let unloading = match progress {
            Progress::Due => return self.start_sealing(Pace::Third).await,
            Progress::Done(sealed) => sealed?,
        };
        self.write_now().await?;
        self.owner.note_unloading();
        let unloaded = self.owner.materializer.unload(unloading);
        // It may be a million users: dropped on a thread of its own.
        drop(blocking(move || drop(unloaded)));
        Ok(())
    }

    async fn announce(&mut self, changes: Vec<Announced>) {
        let sequence = self.owner.materializer.cursor.sequence;
        let caught_up = self.target.is_some_and(|target| sequence >= target);
        let newly = caught_up && !self.owner.position().caught_up;
        if newly {
            info!(log.sequence = sequence, "the projection has caught up with the log");
        }
        // Until it has caught up, events are old: they are not announced, and a snapshot takes their place.
        if caught_up && !newly {
            for Announced { in_log, for_clients } in changes {
                let for_clients = for_clients.map(Announcement::Changed);
                self.owner.announce(Announcement::Changed(in_log), for_clients).await;
            }
        } else {
            self.has_unannounced |= !changes.is_empty();
        }
        if newly && self.has_unannounced {
            self.announce_snapshot().await;
        }
        // Last: whoever sees the position relies on everything up to it being announced.
        self.owner.publish_position(|position| {
            position.caught_up |= caught_up;
            position.serving |= caught_up;
        });
    }

    async fn announce_snapshot(&mut self) {
        self.owner.publish_snapshot(None);
        let (epoch, sequence) = (self.epoch(), self.owner.materializer.cursor.sequence);
        let Some(epoch) = epoch else { return };
        self.has_unannounced = false;
        let snapshot = Announcement::Snapshot { epoch, sequence, active: self.owner.active() };
        self.owner.announce(snapshot.clone(), Some(snapshot)).await;
    }
}

/// Applies entries, and collects what has to be announced of them, unless nothing is announced yet.
fn fold(
    materializer: &mut Materializer,
    pending: &Pending,
    entries: Vec<DecodedEntry>,
    is_announced: bool,
) -> Batch {
    let mut batch = Batch::default();
    batch.touched.extend(entries.iter().filter_map(|entry| entry.kind.channel().cloned()));
    materializer.apply(entries, |state, Applied { recorded, change, trace }| {
        let Recorded { sequence, channel, .. } = recorded;
        if !is_announced {
            batch.unannounced |= change != Change::Nothing;
        } else if change != Change::Nothing {
            let view = View::new(state, pending);
            let of = |change| Arc::new(Changed::of(view, channel.clone(), sequence, change, trace));
            let for_clients = view.has_pending().then(|| pending.shown(&change).map(of));
            let in_log = of(change);
            let for_clients = for_clients.unwrap_or_else(|| Some(in_log.clone()));
            batch.changes.push(Announced { in_log, for_clients });
        }
    });
    batch
}

fn log_if_skipped(entry: &DecodedEntry) {
    match &entry.kind {
        EntryKind::Skipped(Skipped::Future { what }, _) => {
            warn!(log.sequence = entry.sequence, "skipped an event that a newer Tidings may know: {what}");
        }
        EntryKind::Skipped(Skipped::Foreign { why }, _) => {
            warn!(log.sequence = entry.sequence, "skipped a message that is not an event of Tidings: {why}");
        }
        EntryKind::Event(..) | EntryKind::Hole => {}
    }
}
