//! A projection in this process, and the write path over it: for what needs no process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidings::clock::SystemClock;
use tidings::config::SOCKET_LIMITS;
use tidings::critical_tasks::CriticalTasks;
use tidings::domain::{Audience, Command, Digest, Message, Needs, Precondition, SentTo, Severity, View};
use tidings::log::EventLog;
use tidings::metrics::Metrics;
use tidings::projection::{Announcement, Options, Projection, Supervisor};
use tidings::push::hub::{self, Hub};
use tidings::submit::outbox::{Outbox, OutboxLimits};
use tidings::submit::{self, Acks, IdempotencyKey, Submit};
use tidings::warnings::Warnings;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::log::channel;
use super::{PATIENCE, eventually};

pub struct Projecting {
    pub projection: Projection,
    /// What the write path over it counts.
    pub metrics: Metrics,
    supervisor: Supervisor,
    announcements: mpsc::Receiver<Announcement>,
    directory: PathBuf,
}

impl Projecting {
    /// Projects a log into a directory.
    pub fn start(log: impl EventLog, directory: &Path) -> Self {
        Self::start_heard(log, directory, 4_096)
    }

    /// The same, with so many announcements that may wait for whoever listens.
    pub fn start_heard(log: impl EventLog, directory: &Path, may_wait: usize) -> Self {
        let (announce, announcements) = mpsc::channel(may_wait);
        let options = Options {
            directory: directory.to_owned(),
            open_timeout: Duration::from_secs(20),
            metrics: Metrics::default(),
        };
        let (_, reconnected) = watch::channel(0);
        let (projection, supervisor) = Projection::start(Arc::new(log), options, reconnected, vec![announce]);
        let metrics = Metrics::default();
        Self { projection, metrics, supervisor, announcements, directory: directory.to_owned() }
    }

    /// The digest once the log has been folded up to a sequence.
    pub async fn digest_at(&self, sequence: u64) -> Digest {
        let mut position = self.projection.watch();
        let reached = position.wait_for(|position| position.sequence >= sequence && position.caught_up);
        let reached = timeout(PATIENCE, reached).await;
        let reached = *reached.unwrap_or_else(|_| panic!("not folded up to {sequence} in time")).unwrap();
        assert_eq!(reached.sequence, sequence, "it folded on");
        reached.digest
    }

    /// Looks at what it has in memory.
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce(View<'_>) -> T + Send + 'static) -> T {
        self.projection.with(Needs::default(), look).await.expect("it runs")
    }

    /// What it says next.
    pub async fn announcement(&mut self) -> Announcement {
        timeout(PATIENCE, self.announcements.recv())
            .await
            .expect("something is announced in time")
            .expect("it runs")
    }

    /// What it has said and nobody has listened to yet.
    pub fn announced(&mut self) -> Vec<Announcement> {
        std::iter::from_fn(|| self.announcements.try_recv().ok()).collect()
    }

    /// A hub that pushes what it announces from now on.
    pub fn hub(&mut self, submit: &Arc<Submit>) -> Hub {
        let announcements = std::mem::replace(&mut self.announcements, mpsc::channel(1).1);
        let options = hub::Options {
            channels: vec![channel()],
            max_connections: 10,
            acks: Acks::start(submit.clone(), None),
            tokens: Arc::new(()),
            limits: SOCKET_LIMITS,
            metrics: Metrics::default(),
            modes: submit.modes().watch(),
            tasks: CriticalTasks::default(),
        };
        let (_, counts) = watch::channel(BTreeMap::new());
        Hub::start(options, &self.projection, vec![announcements], &counts).unwrap()
    }

    /// Stops it, and waits until its store can be opened again.
    pub async fn stop(self) {
        self.supervisor.stop().await;
        released(&self.directory).await;
    }

    /// The write path of a replica over this projection, which accepts nothing without the log.
    pub fn submit(&self, log: impl EventLog, append_timeout: Duration) -> Arc<Submit> {
        self.submit_with(log, append_timeout, false)
    }

    /// One that accepts into its outbox while the log is away.
    pub fn submit_alone(&self, log: impl EventLog, append_timeout: Duration) -> Arc<Submit> {
        self.submit_with(log, append_timeout, true)
    }

    fn submit_with(
        &self,
        log: impl EventLog,
        append_timeout: Duration,
        accept_on_outage: bool,
    ) -> Arc<Submit> {
        let bounds = OutboxLimits { entries: 100, bytes: 1 << 20 };
        let outbox = Outbox::open(&self.directory.with_extension("outbox"), bounds).unwrap();
        let options = submit::SubmitOptions {
            replica: "test".to_owned(),
            channels: vec![channel()],
            append_timeout,
            accept_on_outage,
            warnings: Warnings::default(),
            tasks: CriticalTasks::default(),
            metrics: self.metrics.clone(),
        };
        Submit::start(Arc::new(log), self.projection.clone(), Arc::new(SystemClock), outbox, options)
    }
}

/// Waits until a store that was closed has let go of its files: its threads may still end.
pub async fn released(directory: &Path) {
    let database = directory.join("db");
    let free = || async { File::open(&database).map_or(true, |file| file.try_lock().is_ok()) };
    eventually("the store is released", free).await;
}

/// The command to create a broadcast.
pub fn create(message: &str) -> Command {
    Command::Create {
        channel: channel(),
        message: Message::parse(message).unwrap(),
        severity: Severity::Info,
        by: "ann".parse().unwrap(),
        condition: Precondition::Always,
    }
}

/// An idempotency key of somebody whom nobody hears.
pub const fn key(key: &str) -> IdempotencyKey<'_> {
    let nobody = SentTo { users: 0, connections: 0, approximate: false };
    IdempotencyKey { key, audience: Audience { of_all: nobody, of_replica: nobody } }
}

/// The command to clear what is active.
pub fn clear() -> Command {
    Command::Clear { channel: channel(), by: "ann".parse().unwrap(), condition: Precondition::Always }
}
