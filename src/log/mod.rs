//! The log: append under a guard, read in order. One trait, two implementations that keep the same contract.
//!
//! The log is the only thing that a command ever writes. [`jetstream`] is the real one; [`memory`] has the same guard and the
//! same answers, for tests. One test suite runs over both.

pub mod stream_monitor;
pub mod stream_report;
pub mod connection;
pub mod embedded;
pub mod envelope;
pub mod epoch;
pub mod facts;
mod headers;
pub mod health;
pub mod jetstream;
pub mod leaf;
pub mod direct_get;
pub mod memory;
pub mod merkle;
pub mod time;
pub mod names;
mod position;
pub mod provision;
pub mod reader;
mod message_get;
pub mod trace;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use thiserror::Error;
use uuid::Uuid;

use crate::domain::{Event, SentTo, Timestamp};
use crate::error_log::causes;
pub use epoch::Epoch;
use merkle::Hash;
use names::Subject;
pub use position::Position;
use stream_report::StreamReport;
pub use trace::TraceParent;

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its subject.
    pub subject: Subject,
    /// Its id, the same over all retries, so that the log has it once.
    pub id: Uuid,
    /// The event.
    pub event: Event,
    /// When the service accepted it.
    pub time: Timestamp,
    /// The replica that accepted it: `/tidings/{replica}`; with `/outbox` behind it when it waited there.
    pub source: String,
    /// The guard: the log appends it only if this is the last sequence of the subject (0: none yet). `None`: no guard.
    pub expected: Option<u64>,
    /// The trace of the request. No state depends on it.
    pub trace: Option<TraceParent>,
    /// How many users and connections it is sent to, when its request had an idempotency key: the answer to every retry, by every
    /// replica.
    pub sent_to: Option<SentTo>,
}

/// The result of a confirmed append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The sequence of the event.
    pub sequence: u64,
    /// A message of this id was there already, within the log's duplicate window. Only the id was compared.
    pub duplicate: bool,
}

/// Why an append was not confirmed.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The guard failed: another message was appended first, or this one was appended before. A single node checks the guard
    /// before the message ids and answers a retry with this; a cluster checks the ids first and answers `duplicate`.
    #[error("another event was appended first")]
    Conflict,
    /// A message with this id is being written at this moment: ask again.
    #[error("an event with this id is being written")]
    InProcess,
    /// The stream has reached its configured size.
    #[error("the log is full: raise its limit with `nats stream edit {LOG_STREAM} --max-bytes …`", LOG_STREAM = names::LOG_STREAM)]
    Full,
    /// The event exceeds the stream's maximum message size.
    #[error("the event is larger than the log accepts")]
    TooLarge,
    /// Any other answer, or none. The event may be in the log, or may still be appended.
    #[error("no answer from the log: {}", causes(.0))]
    Unknown(anyhow::Error),
}

/// A message of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// Its sequence, from 1.
    pub sequence: u64,
    /// When the log recorded it, in nanoseconds since 1970-01-01.
    pub time_ns: i64,
    /// Its subject.
    pub subject: String,
    /// Its headers, one entry a value.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

impl RawMessage {
    /// The first value of a header. Names are case-sensitive, as in NATS.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Its leaf in the Merkle tree. The reader compares it to see that the log under its cursor is still the same.
    pub fn leaf(&self) -> Hash {
        leaf::of_message(self)
    }
}

/// The identity and size of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Its identity.
    pub epoch: Epoch,
    /// The last sequence; 0 when empty.
    pub last_sequence: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Its limit in bytes.
    pub max_bytes: u64,
}

/// Why the log could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The stream does not exist.
    #[error("the stream {LOG_STREAM} does not exist", LOG_STREAM = names::LOG_STREAM)]
    Missing,
    /// The stream exists, but its metadata has no epoch: it was not provisioned by Tidings.
    #[error(transparent)]
    NoEpoch(#[from] provision::NoEpoch),
    /// Too few nodes of the cluster are up to elect a leader for the stream, so nothing can be appended.
    #[error(
        "NATS has no leader for the stream {LOG_STREAM}: more than half of the nodes that store it must be up",
        LOG_STREAM = names::LOG_STREAM
    )]
    NoLeader,
    /// More messages in a row are missing than a damaged disk explains.
    #[error(
        "the messages {from} to {to} are missing from the stream {LOG_STREAM}: it was created with a later first sequence, or \
         was purged. Restore a backup that has them",
        LOG_STREAM = names::LOG_STREAM
    )]
    Lost {
        /// The first missing sequence.
        from: u64,
        /// The last missing sequence.
        to: u64,
    },
    /// NATS did not answer, or the connection broke.
    #[error("{}", causes(.0))]
    Away(anyhow::Error),
}

/// Messages in the order of the log. The stream ends, or yields one error, when it cannot continue; the caller opens a new one.
pub type Messages = BoxStream<'static, Result<RawMessage, ReadError>>;

/// An append-only sequence of messages with optimistic concurrency by subject.
///
/// Reads are answered by the leader, so that a read after an append sees it.
pub trait EventLog: Send + Sync + 'static {
    /// Appends one event. Never sends it while the connection is known to be down.
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>>;

    /// The log's identity and size.
    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>>;

    /// The same, with what NATS reports of the stream.
    fn report(&self) -> BoxFuture<'_, Result<(LogInfo, StreamReport), ReadError>> {
        Box::pin(async move { Ok((self.info().await?, StreamReport::default())) })
    }

    /// The message at a sequence; `None` when the log has none there.
    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>>;

    /// The first message at a sequence or after it; `None` when the log has none there any more.
    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>>;

    /// The first messages at a sequence or after it, in one answer, without a gap except where the log has holes. Empty when the
    /// log has none there. Any NATS node may answer, not only the leader, so the answer may end too early.
    fn batch_from(&self, sequence: u64) -> BoxFuture<'_, Result<Vec<RawMessage>, ReadError>> {
        Box::pin(async move { Ok(self.first_from(sequence).await?.into_iter().collect()) })
    }

    /// The last sequence on a subject; 0 when there is none.
    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// Follows the log from a sequence on.
    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>>;

    /// A unique name of the connection to the log. `None` while it is down, or if the log has no connection.
    fn connection(&self) -> Option<String> {
        None
    }

    /// Reconnects, when the connection counts as up but nothing is answered over it. Does nothing if the log has no connection.
    fn force_reconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Creates the log when it does not exist; an error for a read-only log.
    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>>;
}
