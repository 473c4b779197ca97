//! The writer: owns the store, and writes to it what was folded, a little later and one batch at a time.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;

use super::job::{Job, Progress};
use super::materializer::Materializer;
use super::store::Store;
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;

/// The open store, batches on their way to it, and requests that wait for one of them to be written.
#[derive(Default)]
pub(super) struct Writer {
    /// `None` until a store is open, and after a write has failed: nothing may follow what is missing.
    store: Option<Store>,
    job: Job<()>,
    /// Requests whose batch is being written.
    waiting: Vec<oneshot::Sender<Store>>,
    /// Requests whose batch is the next one.
    waiting_for_next: Vec<oneshot::Sender<Store>>,
}

impl Writer {
    pub(super) fn of(store: Option<Store>) -> Self {
        Self { store, ..Self::default() }
    }

    pub(super) fn store(&self) -> anyhow::Result<Store> {
        self.store.clone().context("the store is not open")
    }

    /// Has what was folded so far written after this time at the latest.
    pub(super) fn plan(&mut self, after: Duration) {
        self.job.plan(after);
    }

    /// Waits for what [`Self::proceed`] has to do next. Cancel safe.
    pub(super) async fn next(&mut self) -> Progress<()> {
        self.job.next().await
    }

    /// Replies with the store once it has everything that is folded now. The reply is dropped if there is none.
    pub(super) fn hand_out(&mut self, materializer: &Materializer, reply: oneshot::Sender<Store>) {
        let Some(store) = &self.store else { return };
        if self.job.is_running() || materializer.has_unwritten() {
            self.waiting_for_next.push(reply);
            self.job.plan(Duration::ZERO);
        } else {
            let _ = reply.send(store.clone());
        }
    }

    /// Starts the next batch, or answers those who waited for the one that is written. After an error there is no store.
    pub(super) fn proceed(
        &mut self,
        materializer: &mut Materializer,
        progress: Progress<()>,
    ) -> anyhow::Result<()> {
        let done = match progress {
            Progress::Due => self.start(materializer),
            Progress::Done(written) => written.map(|()| self.answer_waiting()),
        };
        if done.is_err() {
            *self = Self::default();
        }
        done
    }

    fn start(&mut self, materializer: &mut Materializer) -> anyhow::Result<()> {
        let store = self.store()?;
        let batch = materializer.take_batch()?;
        self.waiting.append(&mut self.waiting_for_next);
        self.job.start(blocking(move || {
            if let Some(batch) = batch {
                store.apply(batch)?;
                CrashPoint::AfterApply.reached();
            }
            Ok(())
        }));
        Ok(())
    }

    fn answer_waiting(&mut self) {
        for reply in self.waiting.drain(..) {
            let _ = self.store.as_ref().map(|store| reply.send(store.clone()));
        }
        if !self.waiting_for_next.is_empty() {
            self.job.plan(Duration::ZERO);
        }
    }

    /// Writes everything that was folded.
    pub(super) async fn write_now(&mut self, materializer: &mut Materializer) -> anyhow::Result<()> {
        if self.job.is_running() {
            let written = self.next().await;
            self.proceed(materializer, written)?;
        }
        self.proceed(materializer, Progress::Due)?;
        let written = self.next().await;
        self.proceed(materializer, written)
    }

    /// Closes the store once the batch on its way is written. What was folded after it is read from the log again.
    pub(super) async fn close(&mut self) {
        let mut closed = std::mem::take(self);
        closed.job.end().await;
    }
}
