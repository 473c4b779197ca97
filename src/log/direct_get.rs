//! Read-only access to a stream by direct get, without a consumer.
//!
//! Permission to create a consumer includes choosing the subject that it delivers to, such as one of another stream, and so
//! permission to write there (measured with nats-server 2.15). So auditors use no consumer: they request batches of messages by
//! direct get. Each request includes the last message of the previous batch, which shows that this is still the same log.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{Client, HeaderValue, Message, Subscriber};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::headers::flatten;
use super::names::LOG_STREAM;
use super::time::parse_rfc3339;
use super::{Messages, RawMessage, ReadError};

/// The size of one request in messages and bytes. nats-server closes a connection for which 64 MiB wait.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// The same where many readers share a connection. Some messages of the maximum size fit: the last one is requested again.
const SHARED_BATCH_BYTES: usize = 1 << 20;

/// How often the end of the log is polled for new messages.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long the next message of a batch may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The headers that a direct get adds to a message.
const DIRECT_GET_HEADERS: [&str; 6] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
];

/// Whether a reader has its connection for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionUse {
    /// Yes: the next batch is requested while the previous one is processed.
    Exclusive,
    /// No: batches are small, and the next one is requested when the previous one was consumed.
    Shared,
}

impl ConnectionUse {
    const fn batch_bytes(self) -> usize {
        match self {
            Self::Exclusive => BATCH_BYTES,
            Self::Shared => SHARED_BATCH_BYTES,
        }
    }
}

/// The state of reading a log.
struct DirectGetCursor {
    client: Client,
    connection_use: ConnectionUse,
    from: u64,
    /// The last message that was returned.
    last: Option<RawMessage>,
    /// The request that is under way.
    asked: Option<Subscriber>,
    ended: bool,
}

/// All messages from a sequence on, without an end. The stream ends when the log was replaced, as a consumer's would, and after
/// an error.
pub(super) fn follow(client: Client, from: u64, connection_use: ConnectionUse) -> Messages {
    let cursor = DirectGetCursor { client, connection_use, from, last: None, asked: None, ended: false };
    let batches = stream::unfold(cursor, |mut cursor| async {
        if cursor.ended {
            return None;
        }
        let batch = cursor.next_batch().await.transpose()?;
        cursor.ended = batch.is_err();
        let messages: Vec<_> = match batch {
            Ok(batch) => batch.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(ReadError::Away(error))],
        };
        Some((stream::iter(messages), cursor))
    });
    batches.flatten().boxed()
}

impl DirectGetCursor {
    /// The next messages, once there are any. `None`: the log was replaced.
    async fn next_batch(&mut self) -> anyhow::Result<Option<Vec<RawMessage>>> {
        loop {
            let from = self.last.as_ref().map_or(self.from, |last| last.sequence);
            let answers = match self.asked.take() {
                Some(answers) => answers,
                None => request(&self.client, LOG_STREAM, from, self.connection_use.batch_bytes()).await?,
            };
            let mut batch = collect(answers).await?;
            let full = batch.len() >= BATCH;
            if let Some(last) = &self.last {
                if batch.first() != Some(last) {
                    return Ok(None);
                }
                batch.remove(0);
            }
            if let Some(last) = batch.last() {
                if full && self.connection_use == ConnectionUse::Exclusive {
                    self.asked = Some(request(&self.client, LOG_STREAM, last.sequence, BATCH_BYTES).await?);
                }
                self.last = Some(last.clone());
                return Ok(Some(batch));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// The first messages of a stream from a sequence on, at most 256 or 4 MiB; none at its end. Any node that stores the stream may
/// answer, so the end may be that of a moment ago.
pub async fn batch(client: &Client, stream: &str, from: u64) -> anyhow::Result<Vec<RawMessage>> {
    collect(request(client, stream, from, BATCH_BYTES).await?).await
}

async fn request(client: &Client, stream: &str, from: u64, bytes: usize) -> anyhow::Result<Subscriber> {
    let inbox = client.new_inbox();
    let answers = client.subscribe(inbox.clone()).await?;
    let request = json!({"seq": from.max(1), "batch": BATCH, "max_bytes": bytes}).to_string();
    client
        .publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, request.into())
        .await
        .context("asking for messages")?;
    Ok(answers)
}

async fn collect(mut answers: Subscriber) -> anyhow::Result<Vec<RawMessage>> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let answer = timeout(ANSWER_TIMEOUT, answers.next()).await;
        let answer = answer.context("asking for messages: NATS does not answer")?;
        let answer = answer.context("asking for messages: the connection is closed")?;
        match answer.status.map(|status| status.as_u16()) {
            None => batch.push(raw(&answer)?),
            // The end of the batch, and nothing there.
            Some(204 | 404) => return Ok(batch),
            Some(status) => {
                let why = answer.description.unwrap_or_default();
                bail!("asking for messages: NATS answers {status} {why}")
            }
        }
    }
}

fn raw(answer: &Message) -> anyhow::Result<RawMessage> {
    let headers = answer.headers.as_ref().context("a message without headers")?;
    let header = |name: &str| {
        headers.get_last(name).map(HeaderValue::as_str).with_context(|| format!("a message without {name}"))
    };
    Ok(RawMessage {
        sequence: header("Nats-Sequence")?.parse().context("Nats-Sequence is not a number")?,
        time_ns: parse_rfc3339(header("Nats-Time-Stamp")?)?,
        subject: header("Nats-Subject")?.to_owned(),
        headers: flatten(headers, &DIRECT_GET_HEADERS),
        body: answer.payload.clone(),
    })
}
