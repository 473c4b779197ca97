//! Reading the log without a consumer, for those who only look.
//!
//! Who may create a consumer may name a subject that it delivers to, such as one of another stream, and so write what they
//! must not (measured with nats-server 2.15). An auditor therefore needs no consumer: a batch of messages is asked for by
//! direct get, again and again. The last message of the batch before is asked for once more each time: it shows that this
//! is still the same log.

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

/// Messages asked for at once, and bytes. nats-server closes a connection for which 64 MiB wait.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// The same where many read over one connection. Some messages of the largest size fit: the last one is asked for again.
const SHARED_BATCH_BYTES: usize = 1 << 20;

/// How often a log that ends here is asked for more.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A server that has said nothing more of a batch for so long does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What a direct get adds to a message to say where it stands.
const DIRECT_GET_HEADERS: [&str; 6] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
];

/// How much of a connection a reader may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionUse {
    /// All of it: the next batch comes while the one before is looked at.
    Exclusive,
    /// A part: little at a time, and the next batch only when the one before was taken.
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

/// Where a look stands.
struct DirectGetCursor {
    client: Client,
    connection_use: ConnectionUse,
    from: u64,
    /// What was handed on last.
    last: Option<RawMessage>,
    /// What was asked for already: the next batch comes while the one before is looked at.
    asked: Option<Subscriber>,
    ended: bool,
}

/// Every message from a sequence on, for ever. It ends when another log is met, as a consumer would, and with an error.
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
    /// What comes next, once there is something. `None`: it is not the same log any more.
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

/// The first messages of a stream from a sequence on, 256 or 4 MiB of them at most; none at its end. Any node that has the
/// stream may answer, so that its end may be one of a moment ago.
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
    let headers = answer.headers.as_ref().context("a message without its place")?;
    let place = |name: &str| {
        headers.get_last(name).map(HeaderValue::as_str).with_context(|| format!("a message without {name}"))
    };
    Ok(RawMessage {
        sequence: place("Nats-Sequence")?.parse().context("a place is a number")?,
        time_ns: parse_rfc3339(place("Nats-Time-Stamp")?)?,
        subject: place("Nats-Subject")?.to_owned(),
        headers: flatten(headers, &DIRECT_GET_HEADERS),
        body: answer.payload.clone(),
    })
}
