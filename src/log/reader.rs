//! The reader: delivers the log in order, every sequence once, over restarts, gaps and recreations.
//!
//! It does not use the client's ordered consumer, which replayed old messages after a server restart and skipped new ones
//! after the stream was recreated (measured with async-nats 0.51; `tests/it/nats/server_behaviour.rs` fails when that is
//! fixed). At each pass it compares the log's epoch with its cursor, consumes **from** the cursor, and requires that the first
//! message is the one at the cursor and that each next one has the next sequence. See also `docs/architecture.md`, "What is
//! written by hand".

mod batch;
mod gap;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tracing::{error, warn};

use super::{Epoch, EventLog, LogInfo, RawMessage, ReadError};
use crate::error_log::LogLimiter;
use batch::Batch;
pub use batch::{LastEntry, LogEntry, MAX_BATCH};

/// How often the reader requests the log's length and size.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How many times a surprising answer (shorter than before, no such message) is requested before it counts: a deposed leader
/// can answer once from stale state.
const CONFIRMATIONS: u32 = 3;
const CONFIRM_SHORTER_EVERY: Duration = Duration::from_millis(2_500);
const CONFIRM_MISSING_EVERY: Duration = Duration::from_millis(300);

/// From this share of its limit on, the log's size is worth a warning.
const NEARLY_FULL_PERCENT: u64 = 80;

/// How often it is logged that the log cannot be read.
const LOG_EVERY: Duration = Duration::from_secs(10);

const BACKOFF: Range<Duration> = Duration::from_millis(100)..Duration::from_secs(1);

/// The position of a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch of the log; `None` before the first read.
    pub epoch: Option<Epoch>,
    /// The last delivered sequence; 0 for none.
    pub sequence: u64,
    /// The entry at that sequence, to verify the log by; `None`: do not verify.
    pub last: Option<LastEntry>,
}

/// What the reader delivers.
#[derive(Debug)]
pub enum Delivery {
    /// Reading starts at sequence 1 of this log: at the first start, and when the log was replaced. What was delivered before is
    /// void.
    Epoch(Epoch),
    /// A pass has begun; this is the log's last sequence at that moment.
    Head(u64),
    /// The next 1 to [`MAX_BATCH`] entries, without a gap.
    Batch(Vec<LogEntry>),
}

/// What the reader observed of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderStatus {
    /// The log's last sequence when it was last observed, or the last sequence read since, if that is greater.
    pub head: u64,
    /// When that was.
    pub observed_at: Option<Instant>,
    /// The epoch of the log that is being consumed now.
    pub following: Option<Epoch>,
    /// Whether the last attempt to read the log failed.
    pub away: bool,
    /// Bytes stored, and the limit.
    pub bytes: (u64, u64),
}

/// Why a pass over the log ended.
enum Interrupted {
    /// The receiver of deliveries is gone.
    Closed,
    /// A new pass can follow at once.
    Restart,
    /// The log cannot be read now.
    Unreadable(ReadError),
}

impl From<ReadError> for Interrupted {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

/// A reader of one log for one consumer.
pub struct Reader {
    log: Arc<dyn EventLog>,
    cursor: Cursor,
    deliveries: mpsc::Sender<Delivery>,
    seen: watch::Sender<ReaderStatus>,
    /// Changes when the connection is re-established: the consumer may be gone.
    reconnected: watch::Receiver<u64>,
    passes: Counter,
    unreadable: LogLimiter,
    gap: LogLimiter,
}

impl Reader {
    /// A reader that delivers the entries after `cursor`. The channel's bound is the backpressure.
    pub fn new(
        log: Arc<dyn EventLog>,
        cursor: Cursor,
        deliveries: mpsc::Sender<Delivery>,
        reconnected: watch::Receiver<u64>,
    ) -> (Self, watch::Receiver<ReaderStatus>) {
        let (seen, watched) = watch::channel(ReaderStatus::default());
        let passes = Counter::default();
        let (unreadable, gap) = (LogLimiter::every(LOG_EVERY), LogLimiter::every(LOG_EVERY));
        (Self { log, cursor, deliveries, seen, reconnected, passes, unreadable, gap }, watched)
    }

    /// Counts its passes here: one at the start, and one after each interruption.
    #[must_use]
    pub fn counting(self, passes: Counter) -> Self {
        Self { passes, ..self }
    }

    /// Reads until the receiver of deliveries is gone.
    pub async fn run(mut self) {
        let mut backoff = BACKOFF.start;
        loop {
            let before = self.cursor.sequence;
            self.passes.inc();
            let begun = Instant::now();
            let interrupted = self.pass().await;
            self.seen.send_modify(|seen| seen.following = None);
            let moved = self.cursor.sequence != before;
            if moved || begun.elapsed() > BACKOFF.end {
                backoff = BACKOFF.start;
            }
            match interrupted {
                Interrupted::Closed => return,
                Interrupted::Restart if moved => continue,
                // Without a pause, a cause that ends each pass at once would make a busy loop.
                Interrupted::Restart => {}
                Interrupted::Unreadable(ReadError::Missing) => self.recreate().await,
                Interrupted::Unreadable(error) => {
                    self.seen.send_modify(|seen| seen.away = true);
                    let error = error.to_string();
                    if self.unreadable.is_due(&error) {
                        warn!(
                            log.sequence = self.cursor.sequence,
                            "cannot read the log now, trying again: {error}"
                        );
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.deliveries.closed() => return,
                () = change(&mut self.reconnected) => {}
                () = sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF.end);
        }
    }

    async fn recreate(&self) {
        error!(
            log.sequence = self.cursor.sequence,
            "the log's stream does not exist any more: it was deleted, or NATS lost its data"
        );
        match self.log.ensure().await {
            Ok(()) => warn!("created the log's stream; it is empty unless a backup is restored"),
            Err(error) => warn!("cannot create the log's stream now, trying again: {error}"),
        }
    }

    async fn pass(&mut self) -> Interrupted {
        match self.try_pass().await {
            Ok(never) => match never {},
            Err(interrupted) => interrupted,
        }
    }

    async fn try_pass(&mut self) -> Result<std::convert::Infallible, Interrupted> {
        self.reconnected.mark_unchanged();
        let info = self.identify().await?;
        let from = self.cursor.sequence.max(1);
        let mut messages = self.log.follow(from).await?.ready_chunks(MAX_BATCH);
        let mut known = self.cursor.last;
        // Sent once the first message has shown that this is the log of the cursor.
        let mut head = Some(info.last_sequence);
        self.note(info);
        if known.is_none() {
            self.send_head(&mut head).await?;
        }
        let mut looks = interval_at(Instant::now() + POLL_INTERVAL, POLL_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut silent, mut batch) = (true, Batch::default());
        loop {
            // Messages are last, so that a continuous stream of them does not starve the other branches.
            let chunk = tokio::select! {
                biased;
                () = self.deliveries.closed() => return Err(Interrupted::Closed),
                () = change(&mut self.reconnected) => return Err(Interrupted::Restart),
                _ = looks.tick() => {
                    self.send_head(&mut head).await?;
                    self.deliver(&mut batch).await?;
                    self.poll(std::mem::replace(&mut silent, true)).await?;
                    // Time spent waiting for the receiver is not silence of the log.
                    looks.reset();
                    continue;
                }
                chunk = messages.next() => chunk,
            };
            let Some(chunk) = chunk else {
                self.deliver(&mut batch).await?;
                return Err(Interrupted::Restart);
            };
            silent = false;
            let mut broken = None;
            for next in chunk {
                match next {
                    Ok(message) => {
                        if let Some(known) = known.take() {
                            self.require_same(known, &message, info.epoch).await?;
                            self.send_head(&mut head).await?;
                        }
                        self.take(message, &mut batch).await?;
                    }
                    Err(error) => broken = Some(error),
                }
            }
            if broken.is_some() || batch.last() >= Some(self.seen.borrow().head) {
                self.deliver(&mut batch).await?;
            }
            if let Some(error) = broken {
                return Err(error.into());
            }
        }
    }

    async fn send_head(&self, head: &mut Option<u64>) -> Result<(), Interrupted> {
        match head.take() {
            Some(head) => self.deliveries.send(Delivery::Head(head)).await.map_err(|_| Interrupted::Closed),
            None => Ok(()),
        }
    }

    /// Requests the log's identity, and starts from sequence 1 when it is not the log of the cursor.
    async fn identify(&mut self) -> Result<LogInfo, Interrupted> {
        let mut info = self.log.info().await?;
        for _ in 1..CONFIRMATIONS {
            if Some(info.epoch) != self.cursor.epoch || info.last_sequence >= self.cursor.sequence {
                break;
            }
            sleep(CONFIRM_SHORTER_EVERY).await;
            info = self.log.info().await?;
        }
        match self.cursor.epoch {
            Some(epoch) if epoch == info.epoch && info.last_sequence >= self.cursor.sequence => {}
            Some(epoch) if epoch == info.epoch => {
                self.begin(info.epoch, "it is shorter than what was read from it").await?;
            }
            Some(_) => self.begin(info.epoch, "its stream has another epoch").await?,
            None => self.begin(info.epoch, "").await?,
        }
        Ok(info)
    }

    async fn begin(&mut self, epoch: Epoch, why: &str) -> Result<(), Interrupted> {
        if !why.is_empty() {
            error!(log.sequence = self.cursor.sequence, log.epoch = %epoch, "the log was replaced: {why}. Reading it from its start");
        }
        self.cursor = Cursor { epoch: Some(epoch), sequence: 0, last: None };
        self.deliveries.send(Delivery::Epoch(epoch)).await.map_err(|_| Interrupted::Closed)
    }

    /// The first message of a pass is the one at the cursor, delivered again: it shows that the log is still the same.
    async fn require_same(
        &mut self,
        known: LastEntry,
        message: &RawMessage,
        epoch: Epoch,
    ) -> Result<(), Interrupted> {
        let cursor = self.cursor.sequence;
        let same = match known {
            LastEntry::Message(leaf) if message.sequence == cursor => message.leaf() == leaf,
            // There may be a gap at the very beginning; the leader has the message at the cursor, if the log has it.
            LastEntry::Message(leaf) => {
                let there = self.first_from(cursor).await?.filter(|found| found.sequence == cursor);
                there.is_some_and(|found| found.leaf() == leaf)
            }
            LastEntry::Hole => message.sequence != cursor,
        };
        if same {
            return Ok(());
        }
        self.begin(epoch, "another message is at the sequence that was read last").await?;
        Err(Interrupted::Restart)
    }

    /// Adds a delivered message to the batch, and before it what was left out.
    async fn take(&mut self, message: RawMessage, batch: &mut Batch) -> Result<(), Interrupted> {
        let next = batch.last().unwrap_or(self.cursor.sequence) + 1;
        if message.sequence > next {
            self.fill(next..message.sequence, usize::MAX, batch).await?;
        }
        // The message at the cursor was handed on by the pass before.
        if message.sequence >= next {
            self.push(LogEntry::Message(message), batch).await?;
        }
        Ok(())
    }

    async fn push(&mut self, entry: LogEntry, batch: &mut Batch) -> Result<(), Interrupted> {
        batch.push(entry);
        if batch.is_full() { self.deliver(batch).await } else { Ok(()) }
    }

    /// Requests the log's state. If no message came since the previous poll although the log was longer already then, its tail is
    /// damaged or the consumer is stuck. What is missing is fetched, up to one batch; a new consumer may deliver the rest.
    async fn poll(&mut self, silent: bool) -> Result<(), Interrupted> {
        let info = self.log.info().await?;
        if Some(info.epoch) != self.cursor.epoch || info.last_sequence < self.cursor.sequence {
            return Err(Interrupted::Restart);
        }
        let known = self.seen.borrow().head;
        self.note(info);
        if silent && known > self.cursor.sequence {
            let mut batch = Batch::default();
            self.fill(self.cursor.sequence + 1..known + 1, MAX_BATCH, &mut batch).await?;
            self.deliver(&mut batch).await?;
            if self.cursor.sequence < known {
                return Err(Interrupted::Restart);
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Batch) -> Result<(), Interrupted> {
        let Some(last) = batch.entries.last() else { return Ok(()) };
        self.cursor.sequence = last.sequence();
        self.cursor.last = Some(last.as_last());
        let head = self.cursor.sequence;
        self.seen.send_if_modified(|seen| {
            let longer = head > seen.head;
            seen.head = seen.head.max(head);
            longer
        });
        self.deliveries
            .send(Delivery::Batch(std::mem::take(batch).entries))
            .await
            .map_err(|_| Interrupted::Closed)
    }

    fn note(&self, info: LogInfo) {
        let nearly_full = |bytes: u64| bytes >= info.max_bytes / 100 * NEARLY_FULL_PERCENT;
        if nearly_full(info.bytes) && !nearly_full(self.seen.borrow().bytes.0) {
            warn!(
                log.bytes = info.bytes,
                log.max_bytes = info.max_bytes,
                "the log is nearly full; at its limit it refuses new events. Raise the limit: `nats stream edit BROADCASTS \
                 --max-bytes …` as tidings-admin, within the max_file_store of every NATS server"
            );
        }
        self.seen.send_modify(|seen| {
            seen.head = info.last_sequence;
            seen.observed_at = Some(Instant::now());
            seen.following = Some(info.epoch);
            seen.away = false;
            seen.bytes = (info.bytes, info.max_bytes);
        });
    }
}

/// Waits for a change; for ever when none can come any more.
async fn change(watched: &mut watch::Receiver<u64>) {
    if watched.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
