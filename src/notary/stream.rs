//! The stream of checkpoints: appended to under a guard, so that two signers never fork, and read in order.

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError, Stream};
use async_nats::jetstream::{self, ErrorCode};

use super::checkpoint::Signed;
use super::note::{Note, PublicKey};
use crate::log::Epoch;
use crate::log::jetstream::{is_conflict, nanoseconds};
use crate::log::names::{CHECKPOINT_STREAM, CHECKPOINT_SUBJECT};

/// Places of the stream that a look for the newest checkpoint passes over at most: what is of no use there was written by
/// somebody who should not.
const LOOKED_BACK: usize = 64;

/// What stands at a place of the stream. It may be anything: who writes there is for NATS to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Its place in the stream of checkpoints, from 1.
    pub number: u64,
    /// When the stream recorded it, in nanoseconds since 1970-01-01.
    pub time_ns: i64,
    /// What it says: a signed note, if it is one.
    pub text: String,
}

/// Which stream of checkpoints it is, and which places it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// When it was created, in nanoseconds since 1970-01-01: one that was deleted and made again counts from 1 anew.
    pub created_ns: i64,
    /// The first place.
    pub first: u64,
    /// The last place; 0 when nothing ever stood there.
    pub last: u64,
    /// When that was recorded, in nanoseconds since 1970-01-01: a stream that was restored from a backup is told by it.
    pub last_time_ns: i64,
}

/// The stream, as it is reached over a connection.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    context: jetstream::Context,
    stream: Stream<()>,
}

impl Checkpoints {
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

    /// Which stream it is now, and how far it goes, as its leader says.
    pub async fn reach(&self) -> anyhow::Result<Reach> {
        let found = self.context.get_stream(CHECKPOINT_STREAM).await.context("asking for the checkpoints")?;
        let info = found.cached_info();
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        let last_time_ns = nanoseconds(info.state.last_timestamp);
        Ok(Reach { created_ns: nanoseconds(info.created), first, last, last_time_ns })
    }

    /// What stands at a place, if it was not lost.
    pub async fn at(&self, number: u64) -> anyhow::Result<Option<Noted>> {
        noted(self.stream.get_raw_message(number).await)
    }

    /// What stands first after a place; 0 is before the first.
    pub async fn after(&self, number: u64) -> anyhow::Result<Option<Noted>> {
        noted(self.stream.get_first_raw_message_by_subject(CHECKPOINT_SUBJECT, number + 1).await)
    }

    /// The newest checkpoint of a log that one of these keys has signed; without any keys, that anybody has.
    pub async fn newest_of(&self, epoch: Epoch, trusted: &[PublicKey]) -> anyhow::Result<Option<Signed>> {
        let mut found = self.stream.get_last_raw_message_by_subject(CHECKPOINT_SUBJECT).await;
        for _ in 0..LOOKED_BACK {
            let noted = match found {
                Ok(found) => found,
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => break,
                Err(error) => return Err(error).context("reading the checkpoints"),
            };
            match Signed::read(&String::from_utf8_lossy(&noted.payload), trusted) {
                Ok(signed) if signed.checkpoint.epoch == epoch => return Ok(Some(signed)),
                _ if noted.sequence <= 1 => break,
                _ => found = self.stream.get_raw_message(noted.sequence - 1).await,
            }
        }
        Ok(None)
    }

    /// Everything that stands there.
    pub async fn all(&self) -> anyhow::Result<Vec<Noted>> {
        let mut all = Vec::new();
        while let Some(noted) = self.after(all.last().map_or(0, |last: &Noted| last.number)).await? {
            all.push(noted);
        }
        Ok(all)
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

/// What the leader answered about one place.
fn noted(answer: Result<StreamMessage, RawMessageError>) -> anyhow::Result<Option<Noted>> {
    match answer {
        Ok(found) => Ok(Some(Noted {
            number: found.sequence,
            time_ns: nanoseconds(found.time),
            text: String::from_utf8_lossy(&found.payload).into_owned(),
        })),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(error).context("reading the checkpoints"),
    }
}
