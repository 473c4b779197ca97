//! Writing: what was folded goes to the store a little later, one batch at a time and beside the fold.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::owner::Owner;
use super::store::Store;
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;

/// Work on the store beside the fold: planned, then under way.
pub(super) struct Job<T> {
    at: Option<Instant>,
    begun: Option<JoinHandle<anyhow::Result<T>>>,
}

/// What a job has come to.
pub(super) enum Progress<T> {
    /// It is time to begin.
    Due,
    /// It has ended so.
    Done(anyhow::Result<T>),
}

impl<T> Default for Job<T> {
    fn default() -> Self {
        Self { at: None, begun: None }
    }
}

impl<T> Job<T> {
    pub(super) const fn is_idle(&self) -> bool {
        self.at.is_none() && self.begun.is_none()
    }

    pub(super) const fn is_under_way(&self) -> bool {
        self.begun.is_some()
    }

    /// There is something to do, some time from now at the latest.
    pub(super) fn plan(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.at = Some(self.at.map_or(at, |planned| planned.min(at)));
    }

    pub(super) fn begin(&mut self, work: JoinHandle<anyhow::Result<T>>) {
        self.begun = Some(work);
    }

    /// Waits until it is time to begin, or until what is under way has ended; for ever while nothing is planned. It can be
    /// left and taken up again.
    pub(super) async fn next(&mut self) -> Progress<T> {
        if let Some(work) = &mut self.begun {
            let done = work.await;
            self.begun = None;
            return Progress::Done(done.context("work on the store panicked").flatten());
        }
        let Some(at) = self.at else { return std::future::pending().await };
        sleep_until(at).await;
        self.at = None;
        Progress::Due
    }

    /// Waits until what is under way has ended, however it does.
    pub(super) async fn end(&mut self) {
        if let Some(work) = self.begun.take() {
            let _ = work.await;
        }
    }
}

/// Batches on their way to the store, and those who wait for one to be there.
#[derive(Default)]
pub(super) struct Writing {
    pub(super) job: Job<()>,
    /// Those whose batch is being written.
    waiting: Vec<oneshot::Sender<Store>>,
    /// Those whose batch is the next one.
    waiting_for_next: Vec<oneshot::Sender<Store>>,
}

impl Owner {
    /// Hands the store out once everything is in it that is folded now.
    pub(super) fn hand_out_store(&mut self, reply: oneshot::Sender<Store>) {
        let Some(store) = &self.store else { return };
        if self.writing.job.is_under_way() || self.core.ledger.has_moved() {
            self.writing.waiting_for_next.push(reply);
            self.writing.job.plan(Duration::ZERO);
        } else {
            let _ = reply.send(store.clone());
        }
    }

    /// Goes on with writing. An error ends the use of the store: it must not get what comes after that.
    pub(super) fn go_on_writing(&mut self, progress: Progress<()>) -> anyhow::Result<()> {
        match progress {
            Progress::Due => {
                let batch = self.core.ledger.take(&self.core.log, &self.core.tree)?;
                let store = self.store.clone().context("there is no store")?;
                self.writing.waiting.append(&mut self.writing.waiting_for_next);
                self.writing.job.begin(blocking(move || {
                    if let Some(batch) = batch {
                        store.apply(batch)?;
                        CrashPoint::AfterApply.reached();
                    }
                    Ok(())
                }));
            }
            Progress::Done(written) => {
                written?;
                for reply in self.writing.waiting.drain(..) {
                    let _ = self.store.as_ref().map(|store| reply.send(store.clone()));
                }
                if !self.writing.waiting_for_next.is_empty() {
                    self.writing.job.plan(Duration::ZERO);
                }
            }
        }
        Ok(())
    }

    /// Writes everything that was folded.
    pub(super) async fn write_now(&mut self) -> anyhow::Result<()> {
        if self.writing.job.is_under_way() {
            let written = self.writing.job.next().await;
            self.go_on_writing(written)?;
        }
        self.go_on_writing(Progress::Due)?;
        let written = self.writing.job.next().await;
        self.go_on_writing(written)
    }

    /// Gives the store up, when nothing is written to it any more. What was not written is read from the log again.
    pub(super) async fn close(&mut self) {
        let mut writing = std::mem::take(&mut self.writing);
        writing.job.end().await;
        self.store = None;
    }
}
