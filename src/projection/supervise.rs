//! The supervisor: keeps a reader and a fold going, over damage and over other logs, until the replica stops.

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

/// Rebuilds in a row, without having caught up in between, after which the projection gives up and says so.
const REBUILDS: u32 = 3;

/// How often a disk that took nothing is tried again.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);

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
    /// Stops reading, writes what was folded to disk, and returns when that is done.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            error!("the projection's task failed: {error}");
        }
    }
}

/// The task that keeps a reader and a fold going over damage and new epochs. However it ends, the subscribers' channels end
/// with it.
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
            let outcome = self.live_once(&mut stopped, rebuilt_for).await;
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
                // Nothing is wrong with what is on it, and a copy would only fill it more.
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
            // One that cannot be moved aside meets the other log again and again.
            rebuilds = if caught_up { 1 } else { rebuilds + 1 };
            if rebuilds > REBUILDS {
                error!(
                    "the projection could not be kept {rebuilds} times in a row; it is not rebuilt any more. Look at the disk"
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

    /// Serves what is in memory until the disk takes something again. What was folded and is not on disk then is read
    /// again.
    async fn stall(&mut self, error: &anyhow::Error) {
        error!(
            "the disk takes nothing: the projection stands still, and goes on by itself when there is room: {error:#}"
        );
        self.owner.position.send_modify(|position| {
            *position = Position { halt: Some(Halt::Stalled), caught_up: false, ..*position };
        });
        let directory = self.options.directory.clone();
        let deleted = blocking(move || store::delete_aside(&directory));
        if let Ok(deleted @ 1..) = self.owner.serve_during(deleted).await {
            warn!("deleted {deleted} states that had been moved aside for a look, to make room");
        }
        // Not at once: a store that was closed a moment ago may still have its files.
        loop {
            self.owner.serve_during(sleep(LOOK_FOR_ROOM_EVERY)).await;
            if self.has_room().await {
                return info!("the disk takes something again: the projection goes on");
            }
        }
    }

    /// `false` only when the disk takes nothing; other trouble is for whoever opens the store.
    async fn has_room(&mut self) -> bool {
        let file = self.options.directory.with_extension("room");
        let looked = self.owner.serve_during(blocking(move || disk::has_room(&file))).await;
        !matches!(looked, Ok(Err(error)) if disk::is_full(&error))
    }

    /// Throws away what is on disk and in memory.
    async fn reset(&mut self) {
        self.owner.position.send_modify(|position| {
            let (epochs, life) = (position.epochs, position.life + 1);
            *position = Position { epochs, life, ..Position::default() };
        });
        self.owner.restart(None, State::default(), CursorRecord::default());
        let directory = self.options.directory.clone();
        match self.owner.serve_during(blocking(move || store::set_aside(&directory))).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(aside))) => warn!("moved the projection aside to {}", aside.display()),
            Ok(Err(error)) => error!("{error:#}"),
            Err(error) => error!("moving the projection aside failed: {error}"),
        }
        // A store that was closed a moment ago releases its file lock when its threads have ended.
        self.owner.serve_during(sleep(Duration::from_millis(100))).await;
    }

    /// From an opened store to the end of it.
    async fn live_once(
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
            // Whatever failed after this failed because of it.
            Some(Fault::Damaged(cause)) if outcome.is_err() => Err(cause),
            _ => outcome,
        }
    }

    /// Opens the store, and takes over what is resident of it. It may have been begun anew for a checkpoint.
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
        // Of an earlier life.
        self.owner.fault = None;
        // What was shown is shown on until it is caught up with, unless there is nothing to show any more.
        self.owner.position.send_modify(|position| {
            position.serving &= cursor.epoch.is_some();
            position.halt = None;
        });
        Ok(cursor)
    }
}

/// Passes on what the reader of this life knows of the log.
async fn forward(mut seen: watch::Receiver<ReaderStatus>, to: watch::Sender<ReaderStatus>) {
    while seen.changed().await.is_ok() {
        to.send_replace(*seen.borrow_and_update());
    }
}
