//! The stream of checkpoints: appended to under a guard, so that two signers never fork, and read in order.

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError, Stream};
use async_nats::jetstream::{self, ErrorCode};

use super::checkpoint::SignedCheckpoint;
use super::note::{Note, PublicKey};
use crate::log::jetstream::{is_conflict, nanoseconds};
use crate::log::names::{CHECKPOINT_STREAM, CHECKPOINT_SUBJECT};
use crate::log::{Epoch, direct_get};

/// Messages that are read at once from the end of the stream back.
pub(super) const BATCH: u64 = 256;

/// A message of the stream of checkpoints. Its text may be anything: NATS controls who may publish there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Its sequence in the stream of checkpoints, from 1.
    pub number: u64,
    /// When the stream recorded it, in nanoseconds since 1970-01-01.
    pub time_ns: i64,
    /// Its text: a signed note, if it is valid.
    pub text: String,
}

impl StoredCheckpoint {
    /// The checkpoint, if it is one of this log that one of these keys has signed; without any keys, that anybody has.
    pub fn read(&self, epoch: Epoch, trusted: &[PublicKey]) -> Option<SignedCheckpoint> {
        SignedCheckpoint::read(&self.text, trusted).ok().filter(|signed| signed.checkpoint.epoch == epoch)
    }
}

/// The identity and the extent of the stream of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamExtent {
    /// When it was created, in nanoseconds since 1970-01-01: one that was deleted and made again counts from 1 anew.
    pub created_ns: i64,
    /// The first sequence.
    pub first: u64,
    /// The last sequence; 0 when it never had a message.
    pub last: u64,
    /// When that was recorded, in nanoseconds since 1970-01-01: a stream that was restored from a backup is told by it.
    pub last_time_ns: i64,
    /// Bytes stored.
    pub bytes: u64,
    /// Its limit in bytes; 0: none.
    pub max_bytes: u64,
}

/// The stream, as it is reached over a connection.
#[derive(Clone, Debug)]
pub struct CheckpointStream {
    context: jetstream::Context,
    stream: Stream<()>,
}

impl CheckpointStream {
    /// The stream; nothing is asked of the server yet.
    pub async fn of(context: jetstream::Context) -> anyhow::Result<Self> {
        let stream = context.get_stream_no_info(CHECKPOINT_STREAM).await?;
        Ok(Self { context, stream })
    }

    /// The stream, if it is there.
    pub async fn find(context: jetstream::Context) -> anyhow::Result<Option<Self>> {
        match context.get_stream(CHECKPOINT_STREAM).await {
            Ok(_) => Self::of(context).await.map(Some),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => Err(error).context("looking for the checkpoints"),
            },
        }
    }

    /// The current extent, from its leader.
    pub async fn extent(&self) -> anyhow::Result<StreamExtent> {
        let found = self.context.get_stream(CHECKPOINT_STREAM).await.context("asking for the checkpoints")?;
        let info = found.cached_info();
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        let last_time_ns = nanoseconds(info.state.last_timestamp.unix_timestamp_nanos());
        let (bytes, max_bytes) = (info.state.bytes, u64::try_from(info.config.max_bytes).unwrap_or(0));
        Ok(StreamExtent {
            created_ns: nanoseconds(info.created.unix_timestamp_nanos()),
            first,
            last,
            last_time_ns,
            bytes,
            max_bytes,
        })
    }

    /// The message with a sequence, if it was not lost.
    pub async fn at(&self, number: u64) -> anyhow::Result<Option<StoredCheckpoint>> {
        stored(self.stream.get_raw_message(number).await)
    }

    /// The first message after a sequence; 0 is before the first.
    pub async fn after(&self, number: u64) -> anyhow::Result<Option<StoredCheckpoint>> {
        stored(self.stream.get_first_raw_message_by_subject(CHECKPOINT_SUBJECT, number + 1).await)
    }

    /// The newest checkpoint of a log that one of these keys has signed; without any keys, that anybody has. However much
    /// stands behind it that is of no use, it is found.
    pub async fn newest_of(
        &self,
        epoch: Epoch,
        trusted: &[PublicKey],
    ) -> anyhow::Result<Option<SignedCheckpoint>> {
        if let Some(signed) = self.last_of(epoch, trusted).await? {
            return Ok(Some(signed));
        }
        let is_it = |stored: &StoredCheckpoint| stored.read(epoch, trusted);
        let StreamExtent { first, mut last, .. } = self.extent().await?;
        while last >= first && last > 0 {
            let batch = self.up_to(last, first).await?;
            if let Some(signed) = batch.iter().rev().find_map(is_it) {
                return Ok(Some(signed));
            }
            last = last.saturating_sub(BATCH);
        }
        Ok(None)
    }

    /// The last message of the stream, if it is such a checkpoint, as it nearly always is.
    pub async fn last_of(
        &self,
        epoch: Epoch,
        trusted: &[PublicKey],
    ) -> anyhow::Result<Option<SignedCheckpoint>> {
        let last = stored(self.stream.get_last_raw_message_by_subject(CHECKPOINT_SUBJECT).await)?;
        Ok(last.and_then(|last| last.read(epoch, trusted)))
    }

    /// What stands at a place and at the 255 before it, in order, from `first` on.
    pub(super) async fn up_to(&self, last: u64, first: u64) -> anyhow::Result<Vec<StoredCheckpoint>> {
        let mut number = last.saturating_sub(BATCH).max(first.saturating_sub(1));
        if number + 1 == last {
            return Ok(self.at(last).await?.into_iter().collect());
        }
        let mut found = Vec::new();
        loop {
            let more = self.several_after(number, last).await?;
            let Some(newest) = more.last() else { return Ok(found) };
            number = newest.number;
            found.extend(more);
        }
    }

    /// Visits everything that stands there, in order, up to where the stream ends now. One batch at a time is in memory.
    pub async fn each(
        &self,
        mut visit: impl FnMut(Vec<StoredCheckpoint>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut number, last) = (0, self.extent().await?.last);
        loop {
            let batch = self.several_after(number, last).await?;
            let Some(newest) = batch.last() else { return Ok(()) };
            number = newest.number;
            visit(batch)?;
        }
    }

    /// Some of what stands after one place and up to another, in order and without a gap but for what the stream has lost.
    /// None when there is no more.
    async fn several_after(&self, number: u64, last: u64) -> anyhow::Result<Vec<StoredCheckpoint>> {
        if number >= last {
            return Ok(Vec::new());
        }
        let batch = direct_get::batch(&self.context.client(), CHECKPOINT_STREAM, number + 1).await?;
        let mut found = Vec::with_capacity(batch.len());
        let mut next = number + 1;
        for message in batch.into_iter().filter(|message| message.sequence <= last) {
            // The node that answered may have lost what the leader has.
            for missing in next..message.sequence {
                found.extend(self.at(missing).await?);
            }
            next = message.sequence + 1;
            found.push(StoredCheckpoint {
                number: message.sequence,
                time_ns: message.time_ns,
                text: String::from_utf8_lossy(&message.body).into_owned(),
            });
        }
        if found.is_empty() {
            // It may also be behind the leader.
            found.extend(self.after(number).await?.filter(|stored| stored.number <= last));
        }
        Ok(found)
    }

    /// Appends a note behind the place `last`. `None` when the stream does not end there any more.
    pub async fn append(&self, note: &Note, last: u64) -> anyhow::Result<Option<u64>> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", last.to_string());
        headers.insert("Content-Type", "text/plain; charset=utf-8");
        let text = note.to_string().into();
        match self.context.publish_with_headers(CHECKPOINT_SUBJECT, headers, text).await?.await {
            Ok(placed) => Ok(Some(placed.sequence)),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(error).context("appending a checkpoint"),
        }
    }
}

/// A message from the leader's answer.
fn stored(answer: Result<StreamMessage, RawMessageError>) -> anyhow::Result<Option<StoredCheckpoint>> {
    match answer {
        Ok(found) => Ok(Some(StoredCheckpoint {
            number: found.sequence,
            time_ns: nanoseconds(found.time.unix_timestamp_nanos()),
            text: String::from_utf8_lossy(&found.payload).into_owned(),
        })),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(error).context("reading the checkpoints"),
    }
}
