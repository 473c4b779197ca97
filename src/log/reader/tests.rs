//! Tests of the reader, over a log in memory that gives its messages one by one, or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::batch::ENOUGH_BYTES;
use super::*;
use crate::log::memory::MemoryLog;
use crate::log::names::Subject;
use crate::log::{AppendError, Appended, Messages, NewEvent};

const LENGTH: u64 = 1_100;

/// A log whose messages come one after the other, each after a breath.
#[derive(Default)]
struct Faltering {
    log: MemoryLog,
    /// Consumers that give nothing, before the first that does.
    stuck: usize,
    follows: AtomicUsize,
    /// How long each message takes.
    breath: Duration,
    /// Messages that were asked for one by one.
    fetched: AtomicUsize,
}

impl Faltering {
    fn new(stuck: usize) -> Arc<Self> {
        Self { stuck, ..Self::default() }.filled()
    }

    fn filled(self) -> Arc<Self> {
        for _ in 0..LENGTH {
            self.log.inject("broadcasts.creator.late", vec![], "{}".into());
        }
        Arc::new(self)
    }

    fn read(self: &Arc<Self>) -> mpsc::Receiver<Delivery> {
        let (sender, deliveries) = mpsc::channel(1);
        let (reader, _) =
            Reader::new(self.clone(), Cursor::default(), sender, watch::Sender::new(0).subscribe());
        tokio::spawn(reader.run());
        deliveries
    }
}

impl EventLog for Faltering {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.log.append(event)
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        self.log.info()
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.log.get(sequence)
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        self.log.first_from(sequence)
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.log.head_of(subject)
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        if self.follows.fetch_add(1, Ordering::Relaxed) < self.stuck {
            return async { Ok(stream::pending().boxed()) }.boxed();
        }
        let breath = self.breath;
        let breath = move |message| async move {
            tokio::task::yield_now().await;
            if !breath.is_zero() {
                sleep(breath).await;
            }
            message
        };
        self.log.follow(from).map(move |followed| Ok(followed?.then(breath).boxed())).boxed()
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.log.ensure()
    }
}

/// The first and the last sequence of the next batch.
async fn next_batch(deliveries: &mut mpsc::Receiver<Delivery>) -> Option<(u64, u64)> {
    loop {
        if let Delivery::Batch(batch) = deliveries.recv().await? {
            let sequences: Vec<_> = batch.iter().map(LogEntry::sequence).collect();
            assert!(sequences.len() <= MAX_BATCH && sequences.is_sorted());
            return Some((*sequences.first()?, *sequences.last()?));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_one_by_one_is_handed_on_together_until_the_log_ends() {
    let log = Faltering::new(0);
    let mut deliveries = log.read();
    for batch in [(1, 512), (513, 1_024), (1_025, LENGTH)] {
        assert_eq!(next_batch(&mut deliveries).await, Some(batch));
    }
    for sequence in [LENGTH + 1, LENGTH + 2] {
        log.log.inject("broadcasts.creator.late", vec![], "{}".into());
        assert_eq!(next_batch(&mut deliveries).await, Some((sequence, sequence)), "nothing waits at the end");
    }
}

#[tokio::test(start_paused = true)]
async fn large_messages_are_handed_on_a_few_at_a_time() {
    let log = Faltering::new(0);
    for _ in 0..10 {
        log.log.inject("broadcasts.creator.late", vec![], vec![b' '; ENOUGH_BYTES / 4].into());
    }
    let mut deliveries = log.read();
    for batch in [(1, 512), (513, 1_024), (1_025, 1_104), (1_105, 1_108), (1_109, 1_110)] {
        assert_eq!(next_batch(&mut deliveries).await, Some(batch));
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_takes_what_was_read_is_not_silence() {
    let log = Faltering { breath: Duration::from_millis(10), ..Faltering::default() }.filled();
    let mut deliveries = log.read();
    let (first, mut last) = next_batch(&mut deliveries).await.unwrap();
    assert!(first == 1 && last < LENGTH / 2, "{last}");
    // The next look finds room for one batch, and the one after it does not.
    sleep(POLL_INTERVAL * 7 / 2).await;
    while last < LENGTH {
        let (first, next) = next_batch(&mut deliveries).await.unwrap();
        assert_eq!(first, last + 1);
        last = next;
    }
    assert_eq!(log.fetched.load(Ordering::Relaxed), 0, "nothing was missing");
}

#[tokio::test(start_paused = true)]
async fn another_consumer_brings_what_a_stuck_one_does_not() {
    let log = Faltering::new(2);
    let mut deliveries = log.read();
    let mut next = 1;
    while next <= LENGTH {
        let (first, last) = next_batch(&mut deliveries).await.unwrap();
        assert_eq!(first, next);
        next = last + 1;
    }
    assert_eq!(log.follows.load(Ordering::Relaxed), 3);
    assert_eq!(log.fetched.load(Ordering::Relaxed), 2 * MAX_BATCH, "no long log comes message by message");
}

#[tokio::test(start_paused = true)]
async fn a_lost_tail_is_holes_at_once() {
    let log = Faltering::new(0);
    (601..=LENGTH).for_each(|sequence| log.log.damage(sequence));
    let mut deliveries = log.read();
    let mut batches = Vec::new();
    while batches.last().is_none_or(|(_, last)| *last < LENGTH) {
        batches.push(next_batch(&mut deliveries).await.unwrap());
    }
    assert_eq!(batches, [(1, 512), (513, 600), (601, LENGTH)]);
    assert_eq!(log.follows.load(Ordering::Relaxed), 1);
}

/// A log whose consumers end at once, or that begins behind so many messages which it does not have.
#[derive(Default)]
struct Odd {
    log: MemoryLog,
    ends_at_once: bool,
    begins_after: u64,
    follows: AtomicUsize,
}

impl Odd {
    fn later(&self, mut message: RawMessage) -> RawMessage {
        message.sequence += self.begins_after;
        message
    }
}

impl EventLog for Odd {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.log.append(event)
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        async {
            let info = self.log.info().await?;
            Ok(LogInfo { last_sequence: info.last_sequence + self.begins_after, ..info })
        }
        .boxed()
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.log.get(sequence)
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        async move {
            let found = self.log.first_from(sequence.saturating_sub(self.begins_after)).await?;
            Ok(found.map(|message| self.later(message)))
        }
        .boxed()
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.log.head_of(subject)
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        let before = self.follows.fetch_add(1, Ordering::Relaxed);
        assert!(before < 1_000, "passes without a pause");
        async move {
            if self.ends_at_once {
                return Ok(stream::empty().boxed());
            }
            let by = self.begins_after;
            let followed = self.log.follow(from.saturating_sub(by)).await?;
            let later = move |message: Result<RawMessage, ReadError>| {
                message.map(|message| RawMessage { sequence: message.sequence + by, ..message })
            };
            Ok(followed.map(later).boxed())
        }
        .boxed()
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.log.ensure()
    }
}

/// Reads such a log, with room for so many deliveries.
fn read(log: &Arc<Odd>, room: usize) -> (mpsc::Receiver<Delivery>, tokio::task::JoinHandle<()>) {
    let (sender, deliveries) = mpsc::channel(room);
    let connected = watch::Sender::new(0);
    let (reader, _) = Reader::new(log.clone(), Cursor::default(), sender, connected.subscribe());
    (deliveries, tokio::spawn(reader.run()))
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_ends_at_once_is_not_made_anew_without_a_pause() {
    let log = Arc::new(Odd { ends_at_once: true, ..Odd::default() });
    let (_deliveries, reading) = read(&log, 100);
    sleep(Duration::from_secs(10)).await;
    let passes = log.follows.load(Ordering::Relaxed);
    assert!((5..=20).contains(&passes), "{passes} passes in 10 s");
    assert!(!reading.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_begins_later_has_holes_before_its_begin() {
    let log = Arc::new(Odd { begins_after: 700, ..Odd::default() });
    log.log.inject("broadcasts.creator.late", vec![], "{}".into());
    let (mut deliveries, _reading) = read(&log, 1);
    assert_eq!(next_batch(&mut deliveries).await, Some((1, 512)));
    assert_eq!(next_batch(&mut deliveries).await, Some((513, 701)));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_begins_far_too_late_is_not_read_and_costs_nothing() {
    for messages in [0, 1] {
        let log = Arc::new(Odd { begins_after: u64::MAX / 2, ..Odd::default() });
        for _ in 0..messages {
            log.log.inject("broadcasts.creator.late", vec![], "{}".into());
        }
        let (mut deliveries, reading) = read(&log, 100);
        sleep(Duration::from_secs(30)).await;
        assert!(!reading.is_finished());
        while let Ok(delivery) = deliveries.try_recv() {
            assert!(!matches!(delivery, Delivery::Batch(_)), "no hole is handed on");
        }
        let passes = log.follows.load(Ordering::Relaxed);
        assert!((2..=40).contains(&passes), "{passes} passes in 30 s");
    }
}
