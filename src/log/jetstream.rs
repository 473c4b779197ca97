//! The log on NATS JetStream: the one place that knows its error codes and the client's habits.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, ErrorCode};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, future};
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

use super::direct_get::ConnectionUse;
use super::headers::flatten;
use super::names::{LOG_STREAM, Subject};
use super::provision::{NoEpoch, Provision, context, epoch_of};
use super::stream_report::StreamReport;
use super::{
    AppendError, Appended, EventLog, LogInfo, Messages, NewEvent, RawMessage, ReadError, direct_get,
    envelope, health, message_get,
};

/// How often a silent consumer is asked for a sign of life; after about twice that it counts as gone.
const READER_HEARTBEAT: Duration = Duration::from_secs(2);

/// An ephemeral consumer that nobody pulls from is removed by the server after this.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(30);

/// Messages asked for at once, and bytes. The next are asked for when half of either has come: with fewer, the server waits for the
/// reader; with more bytes than 64 MiB, it would take the reader for one that does not read.
const READ_BATCH: usize = 2_048;
const READ_BATCH_BYTES: usize = 8 << 20;

/// How often "not found" is asked, and how wide apart, while the stream may only be electing a leader.
const MISSING_CONFIRMATIONS: u32 = 3;
const CONFIRM_MISSING_EVERY: Duration = Duration::from_millis(300);

/// The client takes the order to connect anew within this time; its queue may be full of what does not go out.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The JetStream API's error codes that the guard and the reader turn on, as nats-server 2.15 answers them.
mod code {
    use async_nats::jetstream::ErrorCode;

    pub(super) const WRONG_LAST_SEQUENCE: ErrorCode = ErrorCode::STREAM_WRONG_LAST_SEQUENCE;
    /// On several nodes, the same without the sequence; the client files it under `Other`.
    pub(super) const WRONG_LAST_SEQUENCE_CONSTANT: ErrorCode = ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT;
    pub(super) const DUPLICATE_IN_PROCESS: ErrorCode = ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT;
    pub(super) const MESSAGE_TOO_LARGE: ErrorCode = ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM;
    /// The store did not take it: because of a limit, which it says in words, or of anything else.
    pub(super) const STORE_FAILED: ErrorCode = ErrorCode(10077);
    /// The account's or the server's storage limit.
    pub(super) const RESOURCES_EXCEEDED: ErrorCode = ErrorCode::INSUFFICIENT_RESOURCES;
}

/// The real log.
#[derive(Clone)]
pub struct JetStreamLog {
    client: Client,
    context: jetstream::Context,
    /// How to create the stream; `None`: not at all.
    provision: Option<Provision>,
    /// How those read who do not create a consumer.
    connection_use: ConnectionUse,
}

impl JetStreamLog {
    /// A log over a connection. Nothing is asked of the server yet.
    pub fn new(client: Client, provision: Provision) -> Self {
        Self {
            context: context(&client),
            client,
            provision: Some(provision),
            connection_use: ConnectionUse::Exclusive,
        }
    }

    /// The same as [`JetStreamLog::read_only`] over a connection that many read over at once: each asks for little, and for more
    /// only when that is taken.
    pub fn shared(client: Client) -> Self {
        Self { connection_use: ConnectionUse::Shared, ..Self::read_only(client) }
    }

    /// A log for those who only look: a stream that is not there is not created, and no consumer is.
    pub fn read_only(client: Client) -> Self {
        Self { context: context(&client), client, provision: None, connection_use: ConnectionUse::Exclusive }
    }

    /// Whether it makes sense to ask. What is asked while the connection is down waits for it, and for ever on.
    fn connected(&self) -> anyhow::Result<()> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(anyhow!("not connected to NATS")),
        }
    }

    async fn stream(&self) -> Result<Stream, ReadError> {
        self.connected().map_err(ReadError::Away)?;
        for asked in 1.. {
            match self.context.get_stream(LOG_STREAM).await {
                Ok(stream) => return Ok(stream),
                Err(error) => match error.kind() {
                    GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                        // A cluster that has just lost its leader may say so once.
                        if asked >= MISSING_CONFIRMATIONS {
                            return Err(ReadError::Missing);
                        }
                        tokio::time::sleep(CONFIRM_MISSING_EVERY).await;
                    }
                    _ => return Err(away(error)),
                },
            }
        }
        unreachable!("the loop returns")
    }
}

fn away(error: impl std::error::Error + Send + Sync + 'static) -> ReadError {
    ReadError::Away(error.into())
}

/// What the server said when it refused a publish.
fn refusal(error: &PublishError) -> Option<&jetstream::Error> {
    use std::error::Error as _;
    error.source()?.downcast_ref()
}

/// Whether a guarded publish was refused because another message came first.
pub fn is_conflict(error: &PublishError) -> bool {
    let codes = [code::WRONG_LAST_SEQUENCE, code::WRONG_LAST_SEQUENCE_CONSTANT];
    refusal(error).is_some_and(|refused| codes.contains(&refused.error_code()))
}

/// What a failed publish means. Whatever is not a clear no is unknown: the message may still land.
fn append_error(error: PublishError) -> AppendError {
    let refused = refusal(&error).map(|refused| (refused.error_code(), refused.to_string()));
    match (error.kind(), refused) {
        _ if is_conflict(&error) => AppendError::Conflict,
        (PublishErrorKind::MaxPayloadExceeded, _) | (_, Some((code::MESSAGE_TOO_LARGE, _))) => {
            AppendError::TooLarge
        }
        (_, Some((code::DUPLICATE_IN_PROCESS, _))) => AppendError::InProcess,
        (_, Some((code::STORE_FAILED, why))) if why.contains("maximum") => AppendError::Full,
        (_, Some((code::RESOURCES_EXCEEDED, _))) => AppendError::Full,
        _ => AppendError::Unknown(error.into()),
    }
}

fn raw(message: &async_nats::Message, sequence: u64, time_ns: i64) -> RawMessage {
    RawMessage {
        sequence,
        time_ns,
        subject: message.subject.as_str().to_owned(),
        headers: message.headers.as_ref().map(|headers| flatten(headers, &[])).unwrap_or_default(),
        body: message.payload.clone(),
    }
}

/// Nanoseconds since 1970-01-01, in the 64 bits in which JetStream counts them.
pub fn nanoseconds(unix_ns: i128) -> i64 {
    i64::try_from(unix_ns).unwrap_or(i64::MAX)
}

impl EventLog for JetStreamLog {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        async move {
            self.connected().map_err(AppendError::Unknown)?;
            let (headers, body) = envelope::encode(&event).map_err(|e| AppendError::Unknown(e.into()))?;
            let mut message = PublishMessage::build().payload(body).expected_stream(LOG_STREAM);
            for (name, value) in headers {
                message = message.header(name, value.as_str());
            }
            if let Some(expected) = event.expected {
                message = message.expected_last_subject_sequence(expected);
            }
            let sent =
                self.context.send_publish(event.subject.to_string(), message).await.map_err(append_error)?;
            let ack = sent.await.map_err(append_error)?;
            Ok(Appended { sequence: ack.sequence, duplicate: ack.duplicate })
        }
        .boxed()
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        async move { Ok(self.report().await?.0) }.boxed()
    }

    fn report(&self) -> BoxFuture<'_, Result<(LogInfo, StreamReport), ReadError>> {
        async move {
            let stream = self.stream().await?;
            let info = stream.cached_info();
            // A node without a leader to ask answers too, with what it knows itself.
            if info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_none()) {
                return Err(ReadError::NoLeader);
            }
            let log = LogInfo {
                epoch: epoch_of(info).ok_or(NoEpoch)?,
                last_sequence: info.state.last_sequence,
                bytes: info.state.bytes,
                max_bytes: u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX),
            };
            let copies_wanted = self.provision.as_ref().map_or(1, |provision| provision.replicas);
            Ok((log, health::report(info, copies_wanted)))
        }
        .boxed()
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        async move { message_get::get(&self.context, &json!({"seq": sequence})).await }.boxed()
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        async move { message_get::get(&self.context, &json!({"seq": sequence.max(1), "next_by_subj": ">"})).await }
            .boxed()
    }

    fn batch_from(&self, sequence: u64) -> BoxFuture<'_, Result<Vec<RawMessage>, ReadError>> {
        async move {
            self.connected().map_err(ReadError::Away)?;
            direct_get::batch(&self.client, LOG_STREAM, sequence).await.map_err(ReadError::Away)
        }
        .boxed()
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        async move {
            let stream = self.context.get_stream_no_info(LOG_STREAM).await.map_err(away)?;
            match stream.get_last_raw_message_by_subject(&subject.to_string()).await {
                Ok(found) => Ok(found.sequence),
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(0),
                Err(error) => Err(away(error)),
            }
        }
        .boxed()
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        async move {
            if self.provision.is_none() {
                self.connected().map_err(ReadError::Away)?;
                return Ok(direct_get::follow(self.client.clone(), from, self.connection_use));
            }
            let consumer = self
                .stream()
                .await?
                .create_consumer(pull::Config {
                    deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
                    ack_policy: AckPolicy::None,
                    memory_storage: true,
                    num_replicas: 1,
                    inactive_threshold: CONSUMER_INACTIVE,
                    ..pull::Config::default()
                })
                .await
                .map_err(away)?;
            let pulled = consumer
                .stream()
                .max_messages_per_batch(READ_BATCH)
                .max_bytes_per_batch(READ_BATCH_BYTES)
                .heartbeat(READER_HEARTBEAT)
                .expires(Duration::from_secs(30))
                .messages()
                .await
                .map_err(away)?;
            // After an error the client's stream may stay silent or repeat: the first one ends it.
            let messages = pulled.map(|next| {
                let message = next.map_err(away)?;
                let info = message.info().map_err(|e| anyhow!(e)).context("reading a delivery's place");
                let info = info.map_err(ReadError::Away)?;
                Ok(raw(
                    &message.message,
                    info.stream_sequence,
                    nanoseconds(info.published.unix_timestamp_nanos()),
                ))
            });
            let messages = messages.scan(false, |ended, next: Result<RawMessage, ReadError>| {
                let last = *ended;
                *ended = next.is_err();
                future::ready((!last).then_some(next))
            });
            Ok(messages.boxed())
        }
        .boxed()
    }

    fn connection(&self) -> Option<String> {
        self.connected().ok()?;
        let info = self.client.server_info();
        Some(format!("{}/{}", info.server_id, info.client_id))
    }

    fn force_reconnect(&self) -> BoxFuture<'_, ()> {
        async move {
            if self.client.connection_state() == State::Connected {
                warn!("NATS is connected and answers nothing: giving the connection up for another one");
                let _ = timeout(RECONNECT_TIMEOUT, self.client.force_reconnect()).await;
            }
        }
        .boxed()
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        async move {
            let provision = self.provision.as_ref().ok_or(ReadError::Missing)?;
            match provision.stream(&self.context, LOG_STREAM).await {
                Ok(_) => Ok(()),
                Err(error) => Err(ReadError::Away(error)),
            }
        }
        .boxed()
    }
}
