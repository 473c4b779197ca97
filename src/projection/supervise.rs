//! The supervisor: restarts the reader and the fold after damage and after a change of the log, until the replica stops.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::cursor::CursorRecord;
use super::fold::{Fold, Outcome};
use super::owner::{Fault, Owner};
use super::position::{Halt, Position};
use super::store::costs::UNLOCKED_AFTER;
use super::store::{self, Store};
use crate::blocking::blocking;
use crate::disk;
use crate::domain::State;
use crate::log::EventLog;
use crate::log::merkle::Hash;
use crate::log::reader::{Reader, ReaderStatus};
use crate::metrics::{ByReason, Metrics};

/// Batches on their way from the reader to the fold.
const BATCHES_IN_FLIGHT: usize = 4;

/// Rebuilds in a row, without catching up in between, after which the projection gives up.
const REBUILDS: u32 = 3;

/// The interval at which a full disk is tried again.
const ROOM_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How a projection is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of its store.
    pub directory: PathBuf,
    /// The longest time that the store may take to open; after that it counts as damaged.
    pub open_timeout: Duration,
    /// Where it counts events, rebuilds and durations.
    pub metrics: Metrics,
}

/// Ends the projection.
pub struct Supervisor {
    pub(super) stop: oneshot::Sender<()>,
    pub(super) task: tokio::task::JoinHandle<()>,
}

impl Supervisor {
    /// Stops reading, writes what was applied to disk, and returns when that is done.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            error!("the projection's task failed: {error}");
        }
    }
}

/// The task of the projection. The subscribers' channels end with it.
pub(super) struct Supervised {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) options: Options,
    pub(super) reconnected: watch::Receiver<u64>,
    pub(super) owner: Owner,
    pub(super) seen: watch::Sender<ReaderStatus>,
}

impl Supervised {
    pub(super) async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let (mut rebuilds, mut rebuilt_for) = (0, None);
        loop {
            let outcome = self.run_once(&mut stopped, rebuilt_for).await;
            let caught_up = self.owner.position().caught_up;
            self.owner.writer.close().await;
            let reason = match outcome {
                Ok(Outcome::Stopped) => return,
                Ok(Outcome::OtherLog) => {
                    self.owner.position.send_modify(|position| position.epochs += 1);
                    rebuilt_for = None;
                    ByReason::OTHER_LOG
                }
                Ok(Outcome::Disagrees(checkpoint)) => {
                    rebuilt_for = Some(checkpoint);
                    ByReason::DISAGREES
                }
                // The store on a full disk is intact, and a copy of it would only fill the disk more.
                Err(error) if disk::is_full(&error) || !self.has_room().await => {
                    tokio::select! {
                        biased;
                        () = self.stall(&error) => continue,
                        _ = &mut stopped => return,
                    }
                }
                Err(error) => {
                    error!("the projection is damaged and will be rebuilt: {error:#}");
                    ByReason::DAMAGED
                }
            };
            // A store that cannot be quarantined is of the wrong log again after each restart.
            rebuilds = if caught_up { 1 } else { rebuilds + 1 };
            if rebuilds > REBUILDS {
                error!(
                    "the projection failed {rebuilds} times in a row and is not rebuilt any more: check the disk"
                );
                self.owner
                    .position
                    .send_modify(|p| *p = Position { halt: Some(Halt::GaveUp), serving: false, ..*p });
                let _ = self.owner.serve_during(stopped).await;
                return;
            }
            self.options.metrics.rebuilds.get_or_create(&reason).inc();
            self.reset().await;
        }
    }

    /// Serves what is in memory until the disk has room again. What was applied and is not on disk then is read from the log
    /// again.
    async fn stall(&mut self, error: &anyhow::Error) {
        error!(
            "the disk takes nothing: the projection stands still, and goes on by itself when there is room: {error:#}"
        );
        self.owner.position.send_modify(|position| {
            *position = Position { halt: Some(Halt::Stalled), caught_up: false, ..*position };
        });
        let directory = self.options.directory.clone();
        let deleted = blocking(move || store::delete_quarantined(&directory));
        if let Ok(deleted @ 1..) = self.owner.serve_during(deleted).await {
            warn!("deleted {deleted} quarantined stores to make room");
        }
        // Not at once: a store that was closed a moment ago may still have its files open.
        loop {
            self.owner.serve_during(sleep(ROOM_CHECK_INTERVAL)).await;
            if self.has_room().await {
                return info!("the disk takes something again: the projection goes on");
            }
        }
    }

    /// `false` only if the disk is full; opening the store reports any other fault.
    async fn has_room(&mut self) -> bool {
        let file = self.options.directory.with_extension("room");
        let looked = self.owner.serve_during(blocking(move || disk::has_room(&file))).await;
        !matches!(looked, Ok(Err(error)) if disk::is_full(&error))
    }

    /// Discards the state in memory, and quarantines the store.
    async fn reset(&mut self) {
        self.owner.position.send_modify(|position| {
            let (epochs, generation) = (position.epochs, position.generation + 1);
            *position = Position { epochs, generation, ..Position::default() };
        });
        self.owner.restart(None, State::default(), CursorRecord::default());
        let directory = self.options.directory.clone();
        match self.owner.serve_during(blocking(move || store::quarantine(&directory))).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(kept))) => warn!("moved the projection's store to {}", kept.display()),
            Ok(Err(error)) => error!("{error:#}"),
            Err(error) => error!("quarantining the projection's store failed: {error}"),
        }
        self.owner.serve_during(sleep(UNLOCKED_AFTER)).await;
    }

    /// Runs the reader and the fold on one store.
    async fn run_once(
        &mut self,
        stopped: &mut oneshot::Receiver<()>,
        rebuilt_for: Option<(u64, Hash)>,
    ) -> anyhow::Result<Outcome> {
        let cursor = self.open_store(rebuilt_for).await?;
        info!(log.sequence = cursor.sequence, "the projection is open");
        let (sender, deliveries) = mpsc::channel(BATCHES_IN_FLIGHT);
        let (reader, seen) = Reader::new(self.log.clone(), cursor.cursor(), sender, self.reconnected.clone());
        let reader = tokio::spawn(reader.counting(self.options.metrics.reader_passes.clone()).run());
        let forwarding = tokio::spawn(forward(seen, self.seen.clone()));
        let mut fold = Fold::new(&mut self.owner, self.options.metrics.clone());
        let folded = AssertUnwindSafe(fold.run(deliveries, stopped, || reader.abort())).catch_unwind().await;
        let is_stopping = fold.end().await;
        reader.abort();
        forwarding.abort();
        let outcome = folded.unwrap_or_else(|_| Err(anyhow!("the fold panicked")));
        if is_stopping {
            return Ok(Outcome::Stopped);
        }
        match self.owner.fault.take() {
            // A failure after this one is its consequence.
            Some(Fault::Damaged(cause)) if outcome.is_err() => Err(cause),
            _ => outcome,
        }
    }

    /// Opens the store, and loads what has to be in memory. `rebuilt_for`: the checkpoint that it is rebuilt for.
    async fn open_store(&mut self, rebuilt_for: Option<(u64, Hash)>) -> anyhow::Result<CursorRecord> {
        let options = self.options.clone();
        let opened = blocking(move || -> anyhow::Result<_> {
            let store = Store::open(&options.directory, options.open_timeout)?;
            Ok((store.cursor()?, store.resident()?, store))
        });
        let opened = self.owner.serve_during(opened).await;
        let (mut cursor, state, store) = opened.context("the store panicked")??;
        cursor.rebuilt_for = rebuilt_for.or(cursor.rebuilt_for);
        self.owner.restart(Some(store), state, cursor.clone());
        // A fault of the store before.
        self.owner.fault = None;
        // A state that was served is served on while the log is read again, unless the store is empty.
        self.owner.position.send_modify(|position| {
            position.serving &= cursor.epoch.is_some();
            position.halt = None;
        });
        Ok(cursor)
    }
}

/// Passes on what the current reader knows of the log.
async fn forward(mut seen: watch::Receiver<ReaderStatus>, to: watch::Sender<ReaderStatus>) {
    while seen.changed().await.is_ok() {
        to.send_replace(*seen.borrow_and_update());
    }
}
