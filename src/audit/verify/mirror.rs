//! The KV mirror, held to the log: what it says is active, and who it says has acknowledged.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderValue};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Verified, bucket};
use crate::audit::finding::{Finding, FindingKind};
use crate::domain::{BroadcastId, ByUser, Channel, Timestamp};
use crate::log::names::{
    ACKS_BUCKET, ACTIVE_BUCKET, POSITION_KEY, UserToken, bucket_stream, bucket_subject, header,
};
use crate::log::{Epoch, RawMessage, direct_get};

/// The mirror may take this long to write what the log has, and is asked this often.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Broadcasts whose acknowledgements are kept at hand.
const CACHED_BROADCASTS: usize = 16;

/// Acknowledgements that are about to be forgotten for their age may be there or not.
const EXPIRY_MARGIN_MS: i64 = 5 * 60 * 1_000;

/// What stands at a key: where in the log it comes from, and a value unless it was deleted.
struct KvEntry {
    epoch: Option<Epoch>,
    sequence: u64,
    value: Option<Value>,
}

impl KvEntry {
    fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, payload: &[u8]) -> Self {
        let deleted = header("KV-Operation").is_some();
        Self {
            epoch: header(header::EPOCH).and_then(|epoch| epoch.parse().ok()),
            sequence: header(header::SEQUENCE).and_then(|number| number.parse().ok()).unwrap_or(0),
            value: (!deleted).then(|| serde_json::from_slice(payload).unwrap_or(Value::Null)),
        }
    }
}

#[derive(Deserialize)]
struct MirrorPosition {
    epoch: Epoch,
    sequence: u64,
}

/// Holds both buckets to the log that was verified. `now` is the time, since the bucket forgets by age.
pub async fn compare(
    context: &jetstream::Context,
    verified: &Verified,
    now: Timestamp,
    report: &mut impl FnMut(Finding),
) -> anyhow::Result<()> {
    for name in [ACTIVE_BUCKET, ACKS_BUCKET] {
        let found = bucket::find(context, bucket_stream(name)).await;
        let Some(bucket) = found.with_context(|| format!("looking for the bucket {name}"))? else {
            report(Finding::of_all(FindingKind::Mirror, format!("there is no bucket {name}")));
            continue;
        };
        if !caught_up(&bucket, name, verified, report).await? {
            continue;
        }
        if name == ACTIVE_BUCKET {
            compare_active(&bucket, verified, report).await?;
        } else {
            compare_acks(&context.client(), &bucket, verified, now, report).await?;
        }
    }
    Ok(())
}

async fn entry(bucket: &Stream, name: &str, key: &str) -> anyhow::Result<Option<KvEntry>> {
    match bucket.get_last_raw_message_by_subject(&bucket_subject(name, key)).await {
        Ok(found) => {
            let header = |name: &str| found.headers.get(name).map(HeaderValue::as_str);
            Ok(Some(KvEntry::read(header, &found.payload)))
        }
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {key} of the bucket {name}")),
    }
}

/// Waits until the mirror has written everything up to the end of what was verified.
async fn caught_up(
    bucket: &Stream,
    name: &str,
    verified: &Verified,
    report: &mut impl FnMut(Finding),
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        let position = entry(bucket, name, POSITION_KEY).await?.and_then(|entry| entry.value);
        let position = position.and_then(|value| serde_json::from_value::<MirrorPosition>(value).ok());
        let position = position.filter(|position| position.epoch == verified.epoch);
        if position.as_ref().is_some_and(|position| position.sequence >= verified.size) {
            return Ok(true);
        }
        if begun.elapsed() > MIRROR_TIMEOUT {
            let at = position.map_or(0, |position| position.sequence);
            let what =
                format!("the bucket {name} is at {at}, and the log at {}: nobody mirrors it", verified.size);
            report(Finding::of_all(FindingKind::Mirror, what));
            return Ok(false);
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn compare_active(
    bucket: &Stream,
    verified: &Verified,
    report: &mut impl FnMut(Finding),
) -> anyhow::Result<()> {
    let mut channels: BTreeSet<Channel> = verified.state().channels.keys().cloned().collect();
    let prefix = bucket_subject(ACTIVE_BUCKET, "");
    let mut subjects = bucket.info_with_subjects(bucket_subject(ACTIVE_BUCKET, ">")).await?;
    while let Some(subject) = subjects.next().await {
        channels.extend(subject?.0.strip_prefix(&prefix).and_then(|key| key.parse().ok()));
    }
    for channel in channels {
        let found = entry(bucket, ACTIVE_BUCKET, channel.as_str()).await?;
        if found
            .as_ref()
            .is_some_and(|entry| entry.epoch == Some(verified.epoch) && entry.sequence > verified.size)
        {
            // Something happened since.
            continue;
        }
        let active = verified.state().active(&channel).map(|known| {
            let mut value = serde_json::to_value(&known.broadcast).unwrap_or_default();
            value["sequence"] = known.sequence.into();
            value
        });
        let found = found.and_then(|entry| entry.value);
        if found != active {
            let shown =
                |value: Option<Value>| value.map_or_else(|| "nothing".to_owned(), |value| value.to_string());
            let what = format!(
                "for {channel} the bucket has {}, and by the log it is {}",
                shown(found),
                shown(active)
            );
            report(Finding::of_all(FindingKind::Mirror, what));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct AckRecord {
    at: Timestamp,
    sequence: u64,
}

async fn compare_acks(
    client: &Client,
    bucket: &Stream,
    verified: &Verified,
    now: Timestamp,
    report: &mut impl FnMut(Finding),
) -> anyhow::Result<()> {
    let info = bucket.get_info().await?;
    let max_age_ms = i64::try_from(info.config.max_age.as_millis()).unwrap_or(i64::MAX);
    let since = now.as_unix_ms().saturating_sub(max_age_ms).saturating_add(EXPIRY_MARGIN_MS);
    let since = Timestamp::from_unix_ms(since);
    let mut logged = LogAcks { verified, cache: VecDeque::new() };
    let mut matching = 0_u64;
    let mut next = 1;
    // Up to the last one that was there when it was asked how many there are.
    while next <= info.state.last_sequence {
        let batch = direct_get::batch(client, &info.config.name, next).await;
        let batch = batch.context("reading the acknowledgements")?;
        let Some(last) = batch.last() else { break };
        next = last.sequence + 1;
        for message in &batch {
            matching += u64::from(agrees(message, &mut logged, since, report)?);
        }
    }
    let mut expected = 0_u64;
    verified.store().each_ack_after(0, since, |_, _, _| {
        expected += 1;
        Ok(())
    })?;
    if matching < expected {
        let what = format!(
            "the bucket has {matching} of the {expected} acknowledgements that are young enough for it"
        );
        report(Finding::of_all(FindingKind::Mirror, what));
    }
    Ok(())
}

/// Whether it is an acknowledgement that the log has, and young enough to count. Another one is told of.
fn agrees(
    message: &RawMessage,
    logged: &mut LogAcks<'_>,
    since: Timestamp,
    report: &mut impl FnMut(Finding),
) -> anyhow::Result<bool> {
    let entry = KvEntry::read(|name| message.header(name), &message.body);
    let key = message.subject.strip_prefix(&bucket_subject(ACKS_BUCKET, ""));
    let Some(key) = key.filter(|key| *key != POSITION_KEY) else { return Ok(false) };
    let verified = logged.verified;
    let of_this_log = entry.epoch == Some(verified.epoch) && entry.sequence <= verified.size;
    let Some(value) = entry.value.filter(|_| of_this_log || entry.epoch.is_none()) else { return Ok(false) };
    match logged.fault(key, value)? {
        Some(fault) => {
            report(Finding::of_all(FindingKind::Mirror, format!("the key {key} {fault}")));
            Ok(false)
        }
        None => Ok(logged.at(key)? >= Some(since)),
    }
}

/// Where and when each user acknowledged a broadcast, by their fingerprints.
type AcksByUser = ByUser<(u64, Timestamp)>;

/// The acknowledgements of the log, by broadcast, those asked for last at hand.
struct LogAcks<'a> {
    verified: &'a Verified,
    cache: VecDeque<(BroadcastId, AcksByUser)>,
}

impl LogAcks<'_> {
    fn of(&mut self, id: BroadcastId) -> anyhow::Result<&AcksByUser> {
        if let Some(at) = self.cache.iter().position(|(known, _)| *known == id) {
            return Ok(&self.cache[at].1);
        }
        let mut acks = AcksByUser::default();
        self.verified.store().each_ack(id, |sequence, ack| {
            acks.entry(ack.user.fingerprint()).or_insert((sequence, ack.at));
            Ok(())
        })?;
        self.cache.truncate(CACHED_BROADCASTS - 1);
        self.cache.push_front((id, acks));
        Ok(&self.cache[0].1)
    }

    fn logged(&mut self, key: &str) -> anyhow::Result<Option<(u64, Timestamp)>> {
        let parsed =
            key.split_once('.').and_then(|(id, user)| Some((id.parse().ok()?, UserToken::parse(user)?)));
        let Some((id, user)) = parsed else { return Ok(None) };
        Ok(self.of(id)?.get(&user.fingerprint()).copied())
    }

    fn at(&mut self, key: &str) -> anyhow::Result<Option<Timestamp>> {
        Ok(self.logged(key)?.map(|(_, at)| at))
    }

    /// In what a key is not as the log has it.
    fn fault(&mut self, key: &str, value: Value) -> anyhow::Result<Option<String>> {
        let Some((sequence, at)) = self.logged(key)? else {
            return Ok(Some("is an acknowledgement that the log does not have".to_owned()));
        };
        let Ok(value) = serde_json::from_value::<AckRecord>(value) else {
            return Ok(Some("has a value that is none".to_owned()));
        };
        let matching = value.sequence == sequence && value.at == at;
        Ok((!matching)
            .then(|| format!("says {} at {}; the log has {at} at {sequence}", value.at, value.sequence)))
    }
}
