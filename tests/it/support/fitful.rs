//! A log that a test sends away, brings back, and holds up.

use std::sync::Arc;

use anyhow::anyhow;
use futures_util::future::BoxFuture;
use tidings::log::memory::MemoryLog;
use tidings::log::names::Subject;
use tidings::log::{AppendError, Appended, EventLog, LogInfo, Messages, NewEvent, RawMessage, ReadError};
use tidings::submit::Submit;
use tidings::submit::mode::Mode;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::PATIENCE;
use super::projecting::Projecting;

/// Whether something is shown that the log does not have.
pub fn shows_pending(projecting: &Projecting) -> bool {
    projecting.projection.snapshot().has_pending
}

/// A log that is away when told so, and takes an event only when it may.
#[derive(Clone)]
pub struct Fitful {
    pub log: MemoryLog,
    away: watch::Sender<bool>,
    /// So many more events may be taken.
    pub may_take: Arc<Semaphore>,
    /// How many events have come so far.
    asked: watch::Sender<usize>,
}

impl Fitful {
    pub fn new() -> Self {
        let (away, asked) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { log: MemoryLog::default(), away, may_take: Arc::new(Semaphore::new(0)), asked }
    }

    /// Goes away, and waits until the replica has noticed.
    pub async fn leave(&self, submit: &Submit) {
        self.away.send_replace(true);
        in_mode(submit, Mode::Local).await;
    }

    pub fn come_back(&self) {
        self.away.send_replace(false);
    }

    /// Waits until so many events have come, taken or not.
    pub async fn asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        timeout(PATIENCE, asked.wait_for(|asked| *asked >= times)).await.unwrap().unwrap();
    }

    fn answers(&self) -> Result<(), ReadError> {
        if *self.away.borrow() { Err(ReadError::Away(anyhow!("away"))) } else { Ok(()) }
    }
}

impl EventLog for Fitful {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            self.asked.send_modify(|asked| *asked += 1);
            self.may_take.acquire().await.unwrap().forget();
            self.log.append(event).await
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        Box::pin(async move {
            self.answers()?;
            self.log.info().await
        })
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.log.get(sequence)
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.log.first_from(sequence)
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(async move {
            self.answers()?;
            self.log.head_of(subject).await
        })
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        self.log.follow(from)
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.log.ensure()
    }
}

pub async fn in_mode(submit: &Submit, mode: Mode) {
    let mut modes = submit.modes().watch();
    timeout(PATIENCE, modes.wait_for(|now| *now == mode)).await.unwrap().unwrap();
}

/// A replica's core over such a log, which has noticed that the log is away.
pub async fn alone(log: &Fitful, directory: &tempfile::TempDir) -> (Projecting, Arc<Submit>) {
    let projecting = Projecting::start(log.clone(), &directory.path().join("projection"));
    projecting.digest_at(0).await;
    let submit = projecting.submit_alone(log.clone(), PATIENCE);
    log.leave(&submit).await;
    (projecting, submit)
}
