//! The supervisor: keeps a reader and a fold going, over damage and over other logs, until the replica stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::cursor::CursorRecord;
use super::fold::{Fold, Outcome};
use super::shared::{Damage, Shared};
use super::store::{self, Store};
use super::{Halt, Options, Position};
use crate::blocking::blocking;
use crate::disk;
use crate::domain::State;
use crate::log::EventLog;
use crate::log::merkle::Hash;
use crate::log::reader::{Reader, Seen};
use crate::metrics::ByReason;

/// Batches on their way from the reader to the fold.
const BATCHES_IN_FLIGHT: usize = 4;

/// Rebuilds in a row, without having caught up in between, after which the projection gives up and says so.
const REBUILDS: u32 = 3;

/// How often a disk that took nothing is tried again.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);

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

/// The task that keeps a reader and a fold going over damage and new epochs.
pub(super) struct Supervised {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) options: Options,
    pub(super) reconnected: watch::Receiver<u64>,
    pub(super) shared: Arc<Shared>,
    pub(super) seen: watch::Sender<Seen>,
}

impl Drop for Supervised {
    /// However it ends, whoever listens must notice.
    fn drop(&mut self) {
        self.shared.dismiss_subscribers();
    }
}

impl Supervised {
    pub(super) async fn run(self, mut stopped: oneshot::Receiver<()>) {
        let (mut rebuilds, mut rebuilt_for) = (0, None);
        loop {
            let outcome = self.live_once(&mut stopped, rebuilt_for).await;
            let caught_up = self.shared.position.borrow().caught_up;
            self.shared.close();
            let reason = match outcome {
                Ok(Outcome::Stopped) => return,
                Ok(Outcome::OtherLog) => {
                    self.shared.position.send_modify(|position| position.epochs += 1);
                    rebuilt_for = None;
                    ByReason::OTHER_LOG
                }
                Ok(Outcome::Disagrees(checkpoint)) => {
                    rebuilt_for = Some(checkpoint);
                    ByReason::DISAGREES
                }
                // Nothing is wrong with what is on it, and a copy would only fill it more.
                Err(error) if disk::takes_nothing(&error) || !self.has_room().await => {
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
                self.shared
                    .position
                    .send_modify(|p| *p = Position { halt: Some(Halt::GaveUp), serving: false, ..*p });
                let _ = stopped.await;
                return;
            }
            self.options.metrics.rebuilds.get_or_create(&reason).inc();
            self.reset().await;
        }
    }

    /// Serves what is in memory until the disk takes something again. What was folded and is not on disk then is read
    /// again.
    async fn stall(&self, error: &anyhow::Error) {
        error!(
            "the disk takes nothing: the projection stands still, and goes on by itself when there is room: {error:#}"
        );
        self.shared.position.send_modify(|position| {
            *position = Position { halt: Some(Halt::Stalled), caught_up: false, ..*position };
        });
        let directory = self.options.directory.clone();
        if let Ok(deleted @ 1..) = blocking(move || store::delete_aside(&directory)).await {
            warn!("deleted {deleted} states that had been moved aside for a look, to make room");
        }
        // Not at once: a store that was closed a moment ago may still have its files.
        loop {
            sleep(LOOK_FOR_ROOM_EVERY).await;
            if self.has_room().await {
                return info!("the disk takes something again: the projection goes on");
            }
        }
    }

    /// `false` only when the disk takes nothing; other trouble is for whoever opens the store.
    async fn has_room(&self) -> bool {
        let file = self.options.directory.with_extension("room");
        let looked = blocking(move || disk::has_room(&file)).await;
        !matches!(looked, Ok(Err(error)) if disk::takes_nothing(&error))
    }

    /// Throws away what is on disk and in memory.
    async fn reset(&self) {
        self.shared.position.send_modify(|position| {
            let (epochs, life) = (position.epochs, position.life + 1);
            *position = Position { epochs, life, ..Position::default() };
        });
        self.shared.restart(None, State::default(), CursorRecord::default());
        let directory = self.options.directory.clone();
        match blocking(move || store::set_aside(&directory)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(aside))) => warn!("moved the projection aside to {}", aside.display()),
            Ok(Err(error)) => error!("{error:#}"),
            Err(error) => error!("moving the projection aside failed: {error}"),
        }
        // A store that was closed a moment ago releases its file lock when its threads have ended.
        sleep(Duration::from_millis(100)).await;
    }

    /// From an opened store to the end of it.
    async fn live_once(
        &self,
        stopped: &mut oneshot::Receiver<()>,
        rebuilt_for: Option<(u64, Hash)>,
    ) -> anyhow::Result<Outcome> {
        let mut damage = self.shared.damage.subscribe();
        let mut disagreement = self.shared.disagreement.subscribe();
        let cursor = self.open_store(rebuilt_for).await?;
        let rebuilt_for = cursor.rebuilt_for;
        info!(log.sequence = cursor.sequence, "the projection is open");
        let (sender, deliveries) = mpsc::channel(BATCHES_IN_FLIGHT);
        let (reader, mut seen) =
            Reader::new(self.log.clone(), cursor.cursor(), sender, self.reconnected.clone());
        let reader = tokio::spawn(reader.counting(self.options.metrics.reader_passes.clone()).run());
        let fold = Fold::new(self.shared.clone(), self.options.metrics.clone());
        let mut folded = tokio::spawn(fold.run(deliveries));
        let (mut stopping, mut damaged, mut disagrees) = (false, None, None);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut folded => break outcome.context("the fold panicked").and_then(|outcome| outcome),
                changed = seen.changed() => match changed {
                    Ok(()) => drop(self.seen.send_replace(*seen.borrow_and_update())),
                    Err(_) => break folded.await.context("the fold panicked").and_then(|outcome| outcome),
                },
                // The reader's end closes the deliveries; the fold finishes what it has and flushes.
                _ = &mut *stopped, if !stopping => {
                    stopping = true;
                    reader.abort();
                }
                Ok(()) = damage.changed(), if damaged.is_none() => {
                    damaged = Some(*damage.borrow_and_update());
                    reader.abort();
                }
                Ok(()) = disagreement.changed(), if disagrees.is_none() => {
                    // Whoever compared while it was begun anew may ask for that twice.
                    let asked = *disagreement.borrow_and_update();
                    disagrees = asked.filter(|_| asked != rebuilt_for);
                    if disagrees.is_some() {
                        reader.abort();
                    }
                }
            }
        };
        reader.abort();
        // The fold may have ended by what a request has reported at the same moment.
        let reported = || damage.has_changed().unwrap_or(false).then(|| *damage.borrow());
        match (stopping, damaged.or_else(reported), disagrees) {
            (true, ..) => Ok(Outcome::Stopped),
            (false, Some(Damage::Record), _) => {
                Err(anyhow!("a record cannot be loaded, or is not what it was"))
            }
            (false, Some(Damage::DiskTookNothing), _) => {
                Err(io::Error::from(io::ErrorKind::StorageFull).into())
            }
            (false, None, Some(checkpoint)) => Ok(Outcome::Disagrees(checkpoint)),
            (false, None, None) => outcome,
        }
    }

    /// Opens the store and shares it, with what is resident of it. It may have been begun anew for a checkpoint.
    async fn open_store(&self, rebuilt_for: Option<(u64, Hash)>) -> anyhow::Result<CursorRecord> {
        let options = self.options.clone();
        let opened = blocking(move || -> anyhow::Result<_> {
            let store = Store::open(&options.directory, options.open_patience)?;
            Ok((store.cursor()?, store.resident()?, store))
        });
        let (mut cursor, state, store) = opened.await.context("the store panicked")??;
        cursor.rebuilt_for = rebuilt_for.or(cursor.rebuilt_for);
        self.shared.restart(Some(store), state, cursor.clone());
        // What was shown is shown on until it is caught up with, unless there is nothing to show any more.
        self.shared.position.send_modify(|position| {
            position.serving &= cursor.epoch.is_some();
            position.halt = None;
        });
        Ok(cursor)
    }
}
