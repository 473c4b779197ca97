//! Work on the store beside the fold: planned, then running on a thread of its own.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Work that is planned or running, or neither. There is at most one run at a time.
pub(super) struct Job<T> {
    due: Option<Instant>,
    running: Option<JoinHandle<anyhow::Result<T>>>,
}

/// What happened to a job.
pub(super) enum Progress<T> {
    /// It is time to start it.
    Due,
    /// The run has ended with this result.
    Done(anyhow::Result<T>),
}

impl<T> Default for Job<T> {
    fn default() -> Self {
        Self { due: None, running: None }
    }
}

impl<T> Job<T> {
    pub(super) const fn is_idle(&self) -> bool {
        self.due.is_none() && self.running.is_none()
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Has the job started after this time, or earlier if that was planned before.
    pub(super) fn plan(&mut self, after: Duration) {
        let due = Instant::now() + after;
        self.due = Some(self.due.map_or(due, |planned| planned.min(due)));
    }

    pub(super) fn start(&mut self, run: JoinHandle<anyhow::Result<T>>) {
        self.running = Some(run);
    }

    /// Waits until it is time to start, or until the run has ended; for ever while nothing is planned. Cancel safe.
    pub(super) async fn next(&mut self) -> Progress<T> {
        if let Some(run) = &mut self.running {
            let done = run.await;
            self.running = None;
            return Progress::Done(done.context("work on the store panicked").flatten());
        }
        let Some(due) = self.due else { return std::future::pending().await };
        sleep_until(due).await;
        self.due = None;
        Progress::Due
    }

    /// Waits until the run has ended, whatever its result, and plans nothing more.
    pub(super) async fn end(&mut self) {
        self.due = None;
        if let Some(run) = self.running.take() {
            let _ = run.await;
        }
    }
}
