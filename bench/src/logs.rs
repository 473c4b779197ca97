//! Logs without a replica: filled as replicas fill them, read as fast as NATS gives them, appended to one by one.

use std::time::{Duration, Instant};

use anyhow::ensure;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use futures_util::{StreamExt as _, TryStreamExt as _, stream as streams};
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::{Acknowledged, Acknowledgement, Broadcast, BroadcastId, Event, Severity, Timestamp};
use tidings::log::NewEvent;
use tidings::log::envelope::encode;
use tidings::log::names::{LOG_STREAM, Subject};
use tidings::log::provision::{Provision, context};
use tokio::runtime::Runtime;

use crate::nats::Nats;

/// How many acknowledgements a broadcast gets.
const USERS: u64 = 20_000;

/// The channel of these logs.
const CHANNEL: &str = "creator";

/// Acknowledgements in an event of a log with two broadcasts.
const TOGETHER: u64 = 500;

/// Publishes that wait for their PubAck at once. The disk syncs one after the other, so more of them only wait longer, and the
/// client gives up after five seconds.
const IN_FLIGHT: usize = 256;

/// Messages asked for at once by who only reads, and bytes: more than 64 MiB under way is more than a nats-server keeps for
/// anybody.
const READ_AHEAD: usize = 4_096;
const READ_AHEAD_BYTES: usize = 16 << 20;

/// The subject of a message that is appended by itself, and as many bytes as the event of one acknowledgement has, with its headers.
pub const APPENDED: (&str, usize) = ("bench", 650);

/// How long an acknowledgement stays in the KV mirror of a replica that reads these logs, in seconds, and how old they are: so
/// old that the mirror leaves them out, and reading alone is measured.
pub const MIRRORED_SECONDS: &str = "60";
const AGE_MS: i64 = 3_600_000;

/// A client of a nats-server.
pub struct Client {
    runtime: Runtime,
    context: jetstream::Context,
}

impl Client {
    /// Connects.
    pub fn of(nats: &Nats) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.block_on(async {
            let client = async_nats::connect(&nats.url).await?;
            Ok::<_, anyhow::Error>(context(&client))
        })?;
        Ok(Self { runtime, context })
    }

    /// Writes a log of so many acknowledgements, so many of them an event, and returns how many events it has.
    pub fn fill(&self, acknowledgements: u64, an_event: u64) -> anyhow::Result<u64> {
        self.publish(events(acknowledgements, an_event))
    }

    /// Writes a log of two broadcasts that so many users acknowledged each, and returns their ids.
    pub fn fill_two(&self, users: u64) -> anyhow::Result<[BroadcastId; 2]> {
        let at = Timestamp::from_unix_ms(SystemClock.now().as_unix_ms() - AGE_MS);
        let ids = [SystemClock.new_id(), SystemClock.new_id()].map(BroadcastId);
        self.publish((0..).zip(ids).flat_map(|(number, id)| of_one(id, number, users, TOGETHER, at)))?;
        Ok(ids)
    }

    fn publish(&self, events: impl Iterator<Item = (NewEvent, bool)>) -> anyhow::Result<u64> {
        let provision = Provision {
            replicas: 1,
            log_max_bytes: 16 << 30,
            acks_max_age: Duration::from_mins(1),
            acks_max_bytes: 64 << 20,
        };
        self.runtime.block_on(async {
            provision.stream(&self.context, LOG_STREAM).await?;
            let mut guard = 0;
            let publishing = events.map(|(new, is_lifecycle)| {
                let (headers, body) = encode(&new)?;
                let mut message = PublishMessage::build().payload(body);
                for (name, value) in headers {
                    message = message.header(name, value.as_str());
                }
                Ok::<_, anyhow::Error>((new.subject.to_string(), message, is_lifecycle))
            });
            let mut sequence = 0;
            let sent = streams::iter(publishing).and_then(|(subject, mut message, is_lifecycle)| {
                sequence += 1;
                if is_lifecycle {
                    message = message.expected_last_subject_sequence(std::mem::replace(&mut guard, sequence));
                }
                async move { Ok(self.context.send_publish(subject, message).await?) }
            });
            let taken = sent.map_ok(|sent| async move { Ok(sent.await?) }).try_buffered(IN_FLIGHT);
            taken.try_fold(0, |events, _| async move { Ok(events + 1) }).await
        })
    }

    /// Has NATS look up the channel's last lifecycle event, as the guard of every post has it do, and returns how long that took.
    pub fn last_lifecycle(&self) -> anyhow::Result<Duration> {
        let subject = Subject::Lifecycle(CHANNEL.parse().map_err(anyhow::Error::msg)?).to_string();
        self.runtime.block_on(async {
            let log = self.context.get_stream(LOG_STREAM).await?;
            let begun = Instant::now();
            log.get_last_raw_message_by_subject(&subject).await?;
            Ok(begun.elapsed())
        })
    }

    /// How many bytes the log has.
    pub fn bytes(&self) -> anyhow::Result<u64> {
        self.runtime
            .block_on(async { Ok(self.context.get_stream(LOG_STREAM).await?.get_info().await?.state.bytes) })
    }

    /// Reads the whole log through a consumer as a replica has one, does nothing with it, and returns how long that took.
    pub fn read(&self, events: u64) -> anyhow::Result<Duration> {
        self.runtime.block_on(async {
            let log = self.context.get_stream(LOG_STREAM).await?;
            let begun = Instant::now();
            let consumer = log
                .create_consumer(pull::Config {
                    deliver_policy: DeliverPolicy::All,
                    ack_policy: AckPolicy::None,
                    memory_storage: true,
                    ..pull::Config::default()
                })
                .await?;
            let reading = consumer.stream().max_messages_per_batch(READ_AHEAD);
            let messages = reading.max_bytes_per_batch(READ_AHEAD_BYTES).messages().await?;
            let mut messages = messages.take(usize::try_from(events)?);
            let mut read = 0;
            while let Some(message) = messages.next().await {
                message?;
                read += 1;
            }
            ensure!(read == events, "the log ended at {read}");
            Ok(begun.elapsed())
        })
    }

    /// Makes the stream that [`Self::append`] appends to.
    pub fn prepare(&self, copies: usize) -> anyhow::Result<()> {
        let config = stream::Config {
            name: "BENCH".to_owned(),
            subjects: vec![APPENDED.0.to_owned()],
            num_replicas: copies,
            ..stream::Config::default()
        };
        self.runtime.block_on(self.context.create_stream(config))?;
        Ok(())
    }

    /// Appends a message to a stream of its own, and returns how long it took until its PubAck.
    pub fn append(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.runtime.block_on(self.append_one())?;
        Ok(begun.elapsed())
    }

    /// How many such appends there are a second, each after the PubAck of the one before.
    pub fn appends_a_second(&self, tried: u32) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.runtime.block_on(async {
            for _ in 0..tried {
                self.append_one().await?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(f64::from(tried) / begun.elapsed().as_secs_f64())
    }

    async fn append_one(&self) -> anyhow::Result<()> {
        let (subject, bytes) = APPENDED;
        self.context.publish(subject, vec![b'x'; bytes].into()).await?.await?;
        Ok(())
    }
}

/// Broadcasts and what acknowledges them, as replicas write them, and whether each stands under the guard of the lifecycle.
fn events(acknowledgements: u64, an_event: u64) -> impl Iterator<Item = (NewEvent, bool)> {
    let at = Timestamp::from_unix_ms(SystemClock.now().as_unix_ms() - AGE_MS);
    (0..acknowledgements.div_ceil(USERS)).flat_map(move |broadcast| {
        let id = BroadcastId(SystemClock.new_id());
        of_one(id, broadcast, USERS.min(acknowledgements - broadcast * USERS), an_event, at)
    })
}

/// The so many-th broadcast, and so many users who acknowledge it, so many of them an event.
fn of_one(
    id: BroadcastId,
    number: u64,
    users: u64,
    an_event: u64,
    at: Timestamp,
) -> impl Iterator<Item = (NewEvent, bool)> {
    let acknowledged = (0..users).step_by(usize::try_from(an_event).unwrap_or(1)).map(move |from| {
        let one = |user| Some(Acknowledgement { user: format!("user-{user}").parse().ok()?, at });
        Event::Acknowledged(Acknowledged {
            broadcast_id: id,
            acknowledgements: (from..users.min(from + an_event)).filter_map(one).collect(),
            salt: Some(SystemClock.new_salt()),
        })
    });
    let events = created(id, number, at).into_iter().chain(acknowledged);
    events.filter_map(move |event| as_new(id, event, at))
}

fn created(id: BroadcastId, number: u64, created_at: Timestamp) -> Option<Event> {
    let message = format!("number {number}").try_into().ok()?;
    Some(Event::Created(Broadcast {
        id,
        message,
        severity: Severity::Info,
        created_by: "ann".parse().ok()?,
        created_at,
    }))
}

fn as_new(about: BroadcastId, event: Event, time: Timestamp) -> Option<(NewEvent, bool)> {
    let channel = CHANNEL.parse().ok()?;
    let (subject, id, is_lifecycle) = match &event {
        Event::Acknowledged(_) => (Subject::Acks(channel, about), SystemClock.new_id(), false),
        Event::Created(_) | Event::Cleared(_) => (Subject::Lifecycle(channel), about.0, true),
    };
    let source = "/tidings/bench".to_owned();
    Some((
        NewEvent { subject, id, event, time, source, expected: None, trace: None, sent_to: None },
        is_lifecycle,
    ))
}
