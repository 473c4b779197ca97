//! Events to append, and a reader that remembers what it was handed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::{
    Acknowledged, Acknowledgement, Broadcast, BroadcastId, Channel, Cleared, Event, Message, Severity,
    Timestamp,
};
use tidings::log::names::Subject;
use tidings::log::reader::{Cursor, Delivery, LogEntry, Reader, ReaderStatus};
use tidings::log::{
    AppendError, Appended, Epoch, EventLog, LogInfo, Messages, NewEvent, RawMessage, ReadError,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use super::PATIENCE;

pub fn channel() -> Channel {
    "creator".parse().unwrap()
}

pub fn lifecycle() -> Subject {
    Subject::Lifecycle(channel())
}

/// A broadcast on its way into the log, with an id of its own and no guard yet.
pub fn created(message: &str) -> NewEvent {
    let (id, now) = (SystemClock.new_id(), SystemClock.now());
    let broadcast = Broadcast {
        id: BroadcastId(id),
        message: Message::parse(message).unwrap(),
        severity: Severity::Info,
        created_by: "ann".parse().unwrap(),
        created_at: now,
    };
    new_event(lifecycle(), id, Event::Created(broadcast))
}

/// Acknowledgements on their way into the log.
pub fn acknowledged(broadcast: Uuid, users: &[&str]) -> NewEvent {
    let (id, at) = (SystemClock.new_id(), SystemClock.now());
    let users = users.iter().map(|user| Acknowledgement { user: user.parse().unwrap(), at });
    let event = Acknowledged {
        broadcast_id: BroadcastId(broadcast),
        acknowledgements: users.collect(),
        salt: Some(SystemClock.new_salt()),
    };
    new_event(Subject::Acks(channel(), BroadcastId(broadcast)), id, Event::Acknowledged(event))
}

/// A clear on its way into the log, made at some time.
pub fn cleared(broadcast: Uuid, cleared_at: Timestamp) -> NewEvent {
    let event =
        Cleared { broadcast_id: BroadcastId(broadcast), cleared_by: "ann".parse().unwrap(), cleared_at };
    new_event(lifecycle(), SystemClock.new_id(), Event::Cleared(event))
}

fn new_event(subject: Subject, id: Uuid, event: Event) -> NewEvent {
    NewEvent {
        subject,
        id,
        event,
        time: SystemClock.now(),
        source: "/tidings/test".into(),
        expected: None,
        trace: None,
        sent_to: None,
    }
}

/// The same event under a guard.
pub fn expecting(expected: u64, event: NewEvent) -> NewEvent {
    NewEvent { expected: Some(expected), ..event }
}

type Append<L> = dyn Fn(L, NewEvent) -> BoxFuture<'static, Result<Appended, AppendError>> + Send + Sync;

/// A log that answers as a test wants it to: each hook gets what the log would do, and may do otherwise.
pub struct Meddled<L> {
    pub log: L,
    pub append: Box<Append<L>>,
    pub info: Box<dyn Fn(LogInfo) -> LogInfo + Send + Sync>,
    pub get: Box<dyn Fn(Option<RawMessage>) -> Option<RawMessage> + Send + Sync>,
    /// These are never delivered, as if the connection had dropped them.
    pub undelivered: Vec<u64>,
}

impl<L: EventLog + Clone> Meddled<L> {
    /// One that changes nothing yet.
    pub fn with(log: &L) -> Self {
        Self {
            log: log.clone(),
            append: Box::new(|log, event| async move { log.append(event).await }.boxed()),
            info: Box::new(|info| info),
            get: Box::new(|found| found),
            undelivered: vec![],
        }
    }
}

impl<L: EventLog + Clone> EventLog for Meddled<L> {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        (self.append)(self.log.clone(), event)
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        async { Ok((self.info)(self.log.info().await?)) }.boxed()
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        async move { Ok((self.get)(self.log.get(sequence).await?)) }.boxed()
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        async move { Ok((self.get)(self.log.first_from(sequence).await?)) }.boxed()
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.log.head_of(subject)
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        let undelivered = self.undelivered.clone();
        let delivered = move |message: &Result<RawMessage, ReadError>| {
            let delivered = message.as_ref().map_or(true, |message| !undelivered.contains(&message.sequence));
            std::future::ready(delivered)
        };
        async move { Ok(self.log.follow(from).await?.filter(delivered).boxed()) }.boxed()
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.log.ensure()
    }
}

/// Everything in the log up to its last message; holes are left out.
pub async fn everything(log: &dyn EventLog) -> Vec<RawMessage> {
    let mut messages = Vec::new();
    for sequence in 1..=log.info().await.unwrap().last_sequence {
        messages.extend(log.get(sequence).await.unwrap());
    }
    messages
}

/// A reader at work, and what it has handed on.
pub struct Reading {
    deliveries: mpsc::Receiver<Delivery>,
    /// Says that the connection was made anew.
    pub reconnect: watch::Sender<u64>,
    seen: watch::Receiver<ReaderStatus>,
    task: JoinHandle<()>,
    /// Where it stands: a reader that goes on from here misses nothing.
    pub cursor: Cursor,
}

impl Reading {
    pub fn from_start(log: impl EventLog) -> Self {
        Self::from(log, Cursor::default())
    }

    pub fn from(log: impl EventLog, cursor: Cursor) -> Self {
        let (reconnect, reconnected) = watch::channel(0);
        Self::watching(log, cursor, reconnect, reconnected)
    }

    /// One that hears of reconnections from the connection itself.
    pub fn over(log: impl EventLog, generation: watch::Receiver<u64>) -> Self {
        Self::watching(log, Cursor::default(), watch::Sender::new(0), generation)
    }

    fn watching(
        log: impl EventLog,
        cursor: Cursor,
        reconnect: watch::Sender<u64>,
        reconnected: watch::Receiver<u64>,
    ) -> Self {
        let (sender, deliveries) = mpsc::channel(4);
        let (reader, seen) = Reader::new(Arc::new(log), cursor.clone(), sender, reconnected);
        Self { deliveries, reconnect, seen, task: tokio::spawn(reader.run()), cursor }
    }

    async fn delivery(&mut self) -> Delivery {
        let next = timeout(PATIENCE, self.deliveries.recv()).await;
        next.expect("the reader hands something on in time").expect("the reader runs")
    }

    /// The log that begins now, before anything of it.
    pub async fn epoch(&mut self) -> Epoch {
        loop {
            match self.delivery().await {
                Delivery::Epoch(epoch) => {
                    self.cursor = Cursor { epoch: Some(epoch), ..Cursor::default() };
                    return epoch;
                }
                Delivery::Head(_) => {}
                Delivery::Batch(entries) => panic!("expected a new log, was handed {entries:?}"),
            }
        }
    }

    /// What comes next, up to a sequence, each place once and in order, all of one log.
    pub async fn up_to(&mut self, sequence: u64) -> Vec<LogEntry> {
        let mut entries = Vec::new();
        while self.cursor.sequence < sequence {
            match self.delivery().await {
                Delivery::Head(_) => {}
                Delivery::Batch(batch) => entries.extend(batch.into_iter().inspect(|entry| self.step(entry))),
                Delivery::Epoch(_) => panic!("another log at {}", self.cursor.sequence),
            }
        }
        assert_eq!(self.cursor.sequence, sequence, "it read on");
        entries
    }

    fn step(&mut self, entry: &LogEntry) {
        assert_eq!(entry.sequence(), self.cursor.sequence + 1, "every place once and in order");
        self.cursor.sequence = entry.sequence();
        self.cursor.last = Some(entry.as_last());
    }

    /// Fails when anything was handed on that nobody has asked for yet, but for heads.
    pub fn expect_nothing(&mut self) {
        while let Ok(delivery) = self.deliveries.try_recv() {
            assert!(matches!(delivery, Delivery::Head(_)), "handed on again: {delivery:?}");
        }
    }

    /// Waits until the log is followed at this moment.
    pub async fn following(&mut self) {
        let followed = timeout(PATIENCE, self.seen.wait_for(|seen| seen.following.is_some())).await;
        followed.expect("the log is followed in time").expect("the reader runs");
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The message in a place that has one.
pub fn message(entry: &LogEntry) -> &RawMessage {
    match entry {
        LogEntry::Message(message) => message,
        LogEntry::Hole(sequence) => panic!("a hole at {sequence}"),
    }
}
