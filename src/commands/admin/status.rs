//! `admin status`: what NATS and the replicas report of themselves, and what is wrong with it.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use serde::Serialize;
use serde_json::{Value, json};

use crate::audit::terminal::{Column, Table};
use crate::commands::{connect_read_only, print};
use crate::config::{NatsOptions, StatusFormat};
use crate::domain::{Digest, Timestamp};
use crate::error_log::causes;
use crate::log::Epoch;
use crate::log::health;
use crate::log::jetstream::nanoseconds;
use crate::log::names::{CHECKPOINT_STREAM, LOG_STREAM, MIRROR_LEASE_KEY, REPLICAS_BUCKET, bucket_subject};
use crate::log::provision::{self, NoEpoch, epoch_of, mirrored_streams, replicas_stream};
use crate::log::time::rfc3339;
use crate::push::clock_check::CLOCK_OFFSET_MS;
use crate::push::heartbeat::{self, Heartbeat};
use crate::submit::mode::Mode;
use crate::warnings::Warning;

/// The exit code when NATS could not be asked.
const NATS_UNAVAILABLE: u8 = 3;

/// A replica further behind the log than this many events is reported; heartbeats are up to three seconds old.
const MAX_LAG_EVENTS: u64 = 10_000;

/// Everything that was found.
#[derive(Debug, Serialize)]
struct StatusReport {
    problems: Vec<String>,
    nats: Value,
    streams: BTreeMap<String, Value>,
    mirror: Value,
    replicas: Vec<LiveReplica>,
}

/// A live replica, as its last heartbeat describes it.
#[derive(Debug, Serialize)]
struct LiveReplica {
    #[serde(flatten)]
    heartbeat: Heartbeat,
    /// Its clock minus that of NATS, which recorded the heartbeat.
    clock_offset_ms: i64,
}

/// Exit code 0 when all is well, 1 when something is wrong, 3 when NATS could not be asked.
pub(super) async fn status(nats: &NatsOptions, format: StatusFormat) -> anyhow::Result<ExitCode> {
    let status = match collect(nats).await {
        Ok(status) => status,
        Err(error) => {
            eprintln!("tidings: {}", causes(&error));
            return Ok(ExitCode::from(NATS_UNAVAILABLE));
        }
    };
    let for_people = match format {
        StatusFormat::Auto => stdout().is_terminal(),
        StatusFormat::Table => true,
        StatusFormat::Json => false,
    };
    print(&if for_people {
        status.table()
    } else {
        format!("{}\n", serde_json::to_string_pretty(&status)?)
    })?;
    Ok(ExitCode::from(u8::from(!status.problems.is_empty())))
}

async fn collect(nats: &NatsOptions) -> anyhow::Result<StatusReport> {
    let connection = connect_read_only(nats).await?;
    let context = provision::context(&connection.client);
    let server = connection.client.server_info();
    let cluster = server.cluster.clone().filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    let all = [LOG_STREAM, CHECKPOINT_STREAM].map(str::to_owned).into_iter();
    for name in all.chain(mirrored_streams()).chain([replicas_stream()]) {
        let stream = context.get_stream(&name).await.ok();
        found.insert(name, stream);
    }
    let mut problems = Vec::new();
    for (name, stream) in &found {
        match stream {
            Some(stream) => problems.extend(health::problems(stream.cached_info(), cluster.as_deref())),
            None => problems.push(format!(
                "stream {name} does not exist or cannot be read. A starting replica makes what is missing, and so does \
                 `tidings admin provision`; after a loss, restore it first"
            )),
        }
    }
    let replicas = live(&context).await.unwrap_or_default();
    let log = found[LOG_STREAM].as_ref();
    let head = log.and_then(|log| Some((epoch_of(log.cached_info())?, last(log))));
    if log.is_some() && head.is_none() {
        problems.push(NoEpoch.to_string());
    }
    problems.extend(problems_of_replicas(&replicas, head));
    let mirror = lease(&context).await;
    if mirror.is_null() && !replicas.is_empty() {
        problems.push(
            "no replica holds the lease of the mirror: the KV buckets are not written. Look for `mirroring` in the \
             replicas' diagnostics"
                .to_owned(),
        );
    }
    if let (Some(log), Some(checkpoints)) = (log, &found[CHECKPOINT_STREAM]) {
        let is_said = replicas
            .iter()
            .any(|live| live.heartbeat.warnings.iter().any(|code| code == Warning::LogUnsigned.code()));
        problems.extend(unsigned(last(log), last(checkpoints)).filter(|_| !is_said));
    }
    let streams =
        found.iter().map(|(name, stream)| (name.clone(), stream.as_ref().map_or(Value::Null, describe)));
    Ok(StatusReport {
        problems,
        nats: json!({"version": server.version, "server": server.server_name, "cluster": cluster}),
        streams: streams.collect(),
        mirror,
        replicas,
    })
}

fn last(stream: &Stream) -> u64 {
    stream.cached_info().state.last_sequence
}

fn describe(stream: &Stream) -> Value {
    let info = stream.cached_info();
    json!({
        "epoch": epoch_of(info),
        "created": rfc3339(nanoseconds(info.created.unix_timestamp_nanos())),
        "last_sequence": info.state.last_sequence,
        "messages": info.state.messages,
        "bytes": info.state.bytes,
        "max_bytes": info.config.max_bytes,
        "replicas": info.config.num_replicas,
        "leader": info.cluster.as_ref().and_then(|cluster| cluster.leader.clone()),
    })
}

/// The live replicas, without the hashes of their users.
async fn live(context: &Context) -> anyhow::Result<Vec<LiveReplica>> {
    let bucket = context.get_stream(replicas_stream()).await?;
    let heartbeats = heartbeat::heartbeats(&bucket).await?;
    Ok(heartbeats.into_iter().map(|(heartbeat, recorded)| LiveReplica::new(heartbeat, recorded)).collect())
}

/// Who holds the mirror's lease; null when nobody does.
async fn lease(context: &Context) -> Value {
    let Ok(bucket) = context.get_stream(replicas_stream()).await else { return Value::Null };
    let subject = bucket_subject(REPLICAS_BUCKET, MIRROR_LEASE_KEY);
    let held = bucket.get_last_raw_message_by_subject(&subject).await;
    held.ok()
        .filter(|held| !held.payload.is_empty())
        .map_or(Value::Null, |held| json!({"instance": String::from_utf8_lossy(&held.payload)}))
}

/// The log has had time for a first checkpoint once it has this many events: each takes a thousand, or a minute.
fn unsigned(log: u64, checkpoints: u64) -> Option<String> {
    (log > 1_000 && checkpoints == 0).then(|| {
        "no replica signs checkpoints: an auditor cannot tell whether the log was rewritten. Give each replica \
         --checkpoint-key (`tidings admin keygen` makes one)"
            .to_owned()
    })
}

impl LiveReplica {
    fn new(mut heartbeat: Heartbeat, recorded: Timestamp) -> Self {
        for present in heartbeat.channels.values_mut() {
            (present.user_hashes, present.user_sketch) = (None, None);
        }
        let clock_offset_ms = heartbeat.at.as_unix_ms() - recorded.as_unix_ms();
        Self { heartbeat, clock_offset_ms }
    }
}

fn problems_of_replicas(replicas: &[LiveReplica], log: Option<(Epoch, u64)>) -> Vec<String> {
    if replicas.is_empty() {
        return vec!["no replica is connected to this NATS: nobody is served from it".to_owned()];
    }
    let mut found: Vec<_> = replicas.iter().flat_map(|live| problems_of(live, log)).collect();
    found.extend(divergence(replicas));
    found
}

fn problems_of(
    LiveReplica { heartbeat, clock_offset_ms }: &LiveReplica,
    log: Option<(Epoch, u64)>,
) -> Vec<String> {
    let name = &heartbeat.replica;
    let mut found = Vec::new();
    if heartbeat.mode != Mode::Cluster.as_str() {
        found.push(format!(
            "replica {name} is in mode {}: it serves its own view, and what it accepted waits in its outbox. It \
             returns by itself when it reaches NATS; its /readyz and diagnostics have the cause",
            heartbeat.mode
        ));
    }
    if !heartbeat.serving {
        found.push(format!(
            "replica {name} does not show what the log has: its disk is full, or it is catching up. Its /readyz has the \
             cause"
        ));
    }
    if let Some((epoch, head)) = log {
        let behind = head.saturating_sub(heartbeat.sequence);
        if heartbeat.epoch.is_some_and(|own| own != epoch) {
            found.push(format!("replica {name} follows another log than the one that is here; restart it"));
        } else if behind > MAX_LAG_EVENTS {
            found.push(format!(
                "replica {name} is {behind} events behind the log. It catches up by itself unless its disk is full"
            ));
        }
    }
    if clock_offset_ms.abs() > CLOCK_OFFSET_MS {
        found.push(format!(
            "the clock of replica {name} is {clock_offset_ms} ms off that of NATS: set both by NTP"
        ));
    }
    // What is wrong with the log is seen in its stream, and the clock by the heartbeat itself.
    let warnings = heartbeat.warnings.iter().filter_map(|code| Warning::of_code(code));
    let own = warnings.filter(|warning| !warning.is_of_log() && *warning != Warning::ClockOffset);
    found.extend(own.map(|warning| format!("replica {name} {}", warning.advice())));
    found
}

/// Replicas that have different digests at one sequence of one log.
fn divergence(replicas: &[LiveReplica]) -> Vec<String> {
    let mut known: BTreeMap<(String, u64), (&str, Digest)> = BTreeMap::new();
    let mut found = Vec::new();
    for LiveReplica { heartbeat, .. } in replicas {
        let Some(epoch) = heartbeat.epoch else { continue };
        for (sequence, digest) in [(heartbeat.sequence, heartbeat.digest), heartbeat.milestone] {
            let entry = known.entry((epoch.to_string(), sequence));
            let (other, first) = *entry.or_insert((&heartbeat.replica, digest));
            if first != digest && other != heartbeat.replica {
                found.push(format!(
                    "replicas {other} and {} have different states at sequence {sequence}: stop the wrong one (compare \
                     with `tidings audit verify`), run `tidings admin rebuild` in its data directory, and start it",
                    heartbeat.replica
                ));
            }
        }
    }
    found.dedup();
    found
}

const STREAMS: [Column; 5] = [
    Column::text("STREAM", 22),
    Column::number("LAST", 10),
    Column::number("BYTES", 14),
    Column::number("LIMIT", 14),
    Column::text("LEADER", 12),
];

const REPLICAS: [Column; 5] = [
    Column::text("REPLICA", 22),
    Column::text("MODE", 10),
    Column::number("SEQUENCE", 10),
    Column::number("CONNECTIONS", 11),
    Column::number("CLOCK OFFSET", 12),
];

impl StatusReport {
    /// For people.
    fn table(&self) -> String {
        let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let streams = self.streams.iter().map(|(name, stream)| {
            let cell =
                |key: &str| stream.get(key).filter(|value| !value.is_null()).map_or("-".to_owned(), word);
            // JetStream writes -1 for a stream without a limit.
            let limit = if stream["max_bytes"] == -1 { "none".to_owned() } else { cell("max_bytes") };
            [name.clone(), cell("last_sequence"), cell("bytes"), limit, cell("leader")]
        });
        let replicas = self.replicas.iter().map(|LiveReplica { heartbeat, clock_offset_ms }| {
            let connections: u64 = heartbeat.channels.values().map(|present| present.connections).sum();
            [
                heartbeat.replica.clone(),
                heartbeat.mode.clone(),
                heartbeat.sequence.to_string(),
                connections.to_string(),
                format!("{clock_offset_ms} ms"),
            ]
        });
        let verdict = match &self.problems[..] {
            [] => "Nothing is wrong.\n".to_owned(),
            problems => format!("PROBLEM: {}\n", problems.join("\nPROBLEM: ")),
        };
        format!("{}\n{}\n{verdict}", rows(&STREAMS, streams), rows(&REPLICAS, replicas))
    }
}

fn rows(columns: &'static [Column], rows: impl Iterator<Item = [String; 5]>) -> String {
    let table = Table { columns, width: 100 };
    let lines = std::iter::once(table.heading()).chain(rows.map(|row| table.row(&row)));
    let lines: Vec<_> = lines.map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    fn live(replica: &str, mode: Mode, sequence: u64, digest: u8, clock_offset_ms: i64) -> LiveReplica {
        let now = SystemClock.now();
        let heartbeat = Heartbeat {
            replica: replica.to_owned(),
            instance: SystemClock.new_id(),
            started_at: now,
            at: now,
            mode: mode.as_str().to_owned(),
            serving: true,
            epoch: Some(epoch()),
            sequence,
            digest: serde_json::from_value(json!(format!("{digest:02x}").repeat(16))).unwrap(),
            milestone: (0, Digest::default()),
            warnings: Vec::new(),
            channels: BTreeMap::new(),
        };
        LiveReplica { heartbeat, clock_offset_ms }
    }

    fn epoch() -> Epoch {
        "0123456789abcdef".parse().unwrap()
    }

    #[test]
    fn a_replica_alone_behind_diverged_or_with_a_wrong_clock_is_a_problem() {
        let said =
            |replicas: &[LiveReplica]| problems_of_replicas(replicas, Some((epoch(), 20_000))).join("\n");
        let sound = || live("a", Mode::Cluster, 20_000, 1, 999);
        assert_eq!(said(&[sound(), live("b", Mode::Cluster, 19_000, 2, -999)]), "");
        for (other, problem) in [
            (live("b", Mode::Local, 20_000, 1, 0), "b is in mode local"),
            (live("b", Mode::Cluster, 1, 1, 0), "b is 19999 events behind"),
            (
                live("b", Mode::Cluster, 20_000, 2, 0),
                "replicas a and b have different states at sequence 20000",
            ),
            (live("b", Mode::Cluster, 20_000, 1, -3_600_000), "clock of replica b is -3600000 ms off"),
        ] {
            let text = said(&[sound(), other]);
            assert!(text.contains(problem) && text.lines().count() == 1, "{text}");
        }
        assert!(said(&[]).contains("no replica"));
    }
}
