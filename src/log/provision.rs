//! Provisioning: the streams and buckets that Tidings needs, as files under `nats/`, created when they are missing.
//!
//! What exists with other settings is reported, never changed.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::Client;
use async_nats::jetstream::context::{
    ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, ErrorCode};
use thiserror::Error;

use super::Epoch;
use super::names::{
    ACKS_BUCKET, ACTIVE_BUCKET, CHECKPOINT_STREAM, EPOCH_METADATA, LOG_STREAM, REPLICAS_BUCKET, bucket_stream,
};

/// How long a PubAck may take before the outcome is unknown.
const PUB_ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// The definitions, in the form of the JetStream API (`nats stream add --config` reads them too).
const DEFINITIONS: [&str; 5] = [
    include_str!("../../nats/streams/BROADCASTS.json"),
    include_str!("../../nats/streams/BROADCAST_CHECKPOINTS.json"),
    include_str!("../../nats/buckets/broadcast_active.json"),
    include_str!("../../nats/buckets/broadcast_acks.json"),
    include_str!("../../nats/buckets/broadcast_replicas.json"),
];

/// What a deployment may choose about the definitions.
#[derive(Clone, Debug)]
pub struct Provision {
    /// Copies of each stream over the cluster: 1 or 3.
    pub replicas: usize,
    /// The limit of the log in bytes; at the limit it refuses appends.
    pub log_max_bytes: u64,
    /// How long the mirror keeps an acknowledgement.
    pub acks_max_age: Duration,
    /// The limit of the bucket of acknowledgements in bytes; at the limit it drops the oldest. NATS reserves them in its memory store.
    pub acks_max_bytes: u64,
}

/// A setting of an existing stream that differs from its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The stream.
    pub stream: String,
    /// The setting, as the JetStream API names it.
    pub setting: &'static str,
    /// What Tidings needs.
    pub wanted: String,
    /// What is there.
    pub found: String,
    /// Whether a guarantee depends on it; the others are matters of size.
    pub guarding: bool,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, setting, wanted, found, .. } = self;
        write!(f, "stream {stream} has {setting} = {found}, where Tidings expects {wanted}")
    }
}

/// A JetStream context with the timeouts that provisioning, appending and reading share.
pub fn context(client: &Client) -> jetstream::Context {
    ContextBuilder::new().timeout(Duration::from_secs(3)).ack_timeout(PUB_ACK_TIMEOUT).build(client.clone())
}

impl Provision {
    /// The [`context`] in which it creates.
    pub fn context(&self, client: &Client) -> jetstream::Context {
        context(client)
    }

    /// Creates everything that is missing, and returns what differs in what exists.
    pub async fn everything(&self, context: &jetstream::Context) -> anyhow::Result<Vec<Drift>> {
        let mut drifts = Vec::new();
        for wanted in self.definitions()? {
            let found = self.stream(context, &wanted.name).await?;
            if wanted.name == LOG_STREAM && epoch_of(found.cached_info()).is_none() {
                return Err(NoEpoch.into());
            }
            drifts.extend(differences(&wanted, &found.cached_info().config));
        }
        Ok(drifts)
    }

    /// A warning for a cluster in which one node alone stores the log. `None` otherwise, or when NATS does not answer.
    pub async fn one_copy_in_a_cluster(&self, context: &jetstream::Context) -> Option<String> {
        let stream = context.get_stream(LOG_STREAM).await.ok()?;
        let info = stream.cached_info();
        // A single server reports a leader, but no cluster name.
        let cluster = info.cluster.as_ref().and_then(|cluster| cluster.name.as_deref());
        let is_alone = cluster.is_some_and(|name| !name.is_empty()) && info.config.num_replicas == 1;
        is_alone.then(|| {
            format!(
                "NATS is a cluster, and one node alone keeps the stream {LOG_STREAM}: while it is away nothing can be appended, \
                 and with its disk the log is lost. --stream-replicas 3 keeps it on three nodes"
            )
        })
    }

    /// The stream of this name, created from its definition when it is missing. The log's stream is created with a new
    /// epoch in its metadata.
    pub async fn stream(&self, context: &jetstream::Context, name: &str) -> anyhow::Result<Stream> {
        match context.get_stream(name).await {
            Ok(stream) => return Ok(stream),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                _ => return Err(error).with_context(|| format!("asking NATS for the stream {name}")),
            },
        }
        let definition = self.definitions()?.into_iter().find(|known| known.name == name);
        let mut definition =
            definition.with_context(|| format!("there is no definition of a stream {name}"))?;
        if name == LOG_STREAM {
            definition.metadata.insert(EPOCH_METADATA.to_owned(), Epoch::random()?.to_string());
        }
        tracing::info!(nats.stream = name, "creating the stream, which does not exist");
        match context.create_stream(definition).await {
            Ok(stream) => Ok(stream),
            // Another replica was faster, with another epoch and perhaps with other choices: what it made counts.
            Err(error) => context.get_stream(name).await.map_err(|_| not_created(name, error)),
        }
    }

    /// Gives the log's stream an epoch, if it is there and has none. Returns the new epoch; `None` when there was nothing to
    /// do. JetStream has no guard on updates: two administrators who do this at the same moment leave the later epoch.
    pub async fn adopt(&self, context: &jetstream::Context) -> anyhow::Result<Option<Epoch>> {
        let found = match context.get_stream(LOG_STREAM).await {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    return Ok(None);
                }
                _ => return Err(error).context("asking NATS for the log's stream"),
            },
        };
        if epoch_of(found.cached_info()).is_some() {
            return Ok(None);
        }
        let epoch = Epoch::random()?;
        let mut config = found.cached_info().config.clone();
        config.metadata.insert(EPOCH_METADATA.to_owned(), epoch.to_string());
        context
            .update_stream(config)
            .await
            .context("writing the epoch into the metadata of the log's stream")?;
        Ok(Some(epoch))
    }

    /// The definitions with this deployment's choices in them.
    pub fn definitions(&self) -> anyhow::Result<Vec<Config>> {
        DEFINITIONS.into_iter().map(|json| self.definition(json)).collect()
    }

    fn definition(&self, json: &str) -> anyhow::Result<Config> {
        let mut config: Config = serde_json::from_str(json).context("reading a stream definition")?;
        config.num_replicas = self.replicas;
        if config.name == LOG_STREAM {
            config.max_bytes = i64::try_from(self.log_max_bytes).unwrap_or(i64::MAX);
        }
        if config.name == bucket_stream(ACKS_BUCKET) {
            config.max_age = self.acks_max_age;
            config.max_bytes = i64::try_from(self.acks_max_bytes).unwrap_or(i64::MAX);
            config.duplicate_window = config.duplicate_window.min(self.acks_max_age);
        }
        Ok(config)
    }
}

/// The log's stream has no epoch, or an unreadable one: it was not provisioned by Tidings.
#[derive(Clone, Copy, Debug, Error)]
#[error(
    "the stream {LOG_STREAM} has no epoch: its metadata has no {EPOCH_METADATA} with 16 lower-case hexadecimal digits, so it \
     was not created by Tidings. To use it as the log, run `tidings admin provision --adopt` once"
)]
pub struct NoEpoch;

/// The epoch in the metadata of the log's stream, if it has one.
pub fn epoch_of(stream: &Info) -> Option<Epoch> {
    stream.config.metadata.get(EPOCH_METADATA)?.parse().ok()
}

/// The epoch of the log that NATS has at this moment.
pub async fn epoch_now(context: &jetstream::Context) -> anyhow::Result<Epoch> {
    let stream = context.get_stream(LOG_STREAM).await.context("asking for the log's epoch")?;
    epoch_of(stream.cached_info()).ok_or_else(|| NoEpoch.into())
}

/// NATS refuses to create a stream, for a reason that does not go away by itself.
#[derive(Debug, Error)]
#[error("creating the stream {stream}: NATS refuses it; {advice}")]
pub struct Refused {
    stream: String,
    advice: &'static str,
    source: CreateStreamError,
}

/// How to fix a refusal; `None` for one that may pass by itself, such as a cluster without a leader.
fn advice(error: &CreateStreamError) -> Option<&'static str> {
    let CreateStreamErrorKind::JetStream(refusal) = error.kind() else { return None };
    match refusal.error_code() {
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
            Some("a single server stores one copy: use --stream-replicas 1, or a cluster")
        }
        ErrorCode::STORAGE_RESOURCES_EXCEEDED => Some(
            "it needs more disk than NATS may use: lower --log-max-bytes, or raise the server's max_file_store",
        ),
        ErrorCode::MEMORY_RESOURCES_EXCEEDED => Some(
            "it needs more memory than NATS may use for streams: lower --acks-max-bytes, or raise the server's \
             max_memory_store",
        ),
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            Some("another stream already has its subjects: use another NATS account, or remove that stream")
        }
        ErrorCode::STREAM_INVALID_CONFIG => Some("this server does not accept its definition"),
        _ => None,
    }
}

fn not_created(name: &str, source: CreateStreamError) -> anyhow::Error {
    match advice(&source) {
        Some(advice) => Refused { stream: name.to_owned(), advice, source }.into(),
        None => anyhow::Error::from(source).context(format!("creating the stream {name}")),
    }
}

/// The names of the streams behind the buckets whose content the mirror owns.
pub fn mirrored_streams() -> [String; 2] {
    [bucket_stream(ACTIVE_BUCKET), bucket_stream(ACKS_BUCKET)]
}

/// The name of the stream behind the bucket of heartbeats.
pub fn replicas_stream() -> String {
    bucket_stream(REPLICAS_BUCKET)
}

/// What differs in an existing stream from its definition and breaks a guarantee. Nothing of a stream that Tidings does not
/// know.
pub fn broken_settings(found: &Config) -> Vec<Drift> {
    static DEFINED: LazyLock<Vec<Config>> = LazyLock::new(|| {
        DEFINITIONS.iter().filter_map(|definition| serde_json::from_str(definition).ok()).collect()
    });
    let wanted = DEFINED.iter().find(|wanted| wanted.name == found.name);
    let drifts = wanted.map_or_else(Vec::new, |wanted| differences(wanted, found));
    drifts.into_iter().filter(|drift| drift.guarding).collect()
}

fn differences(wanted: &Config, found: &Config) -> Vec<Drift> {
    let mut drifts = Vec::new();
    let mut compare = |setting, guarding, wanted_value: String, found_value: String| {
        if wanted_value != found_value {
            let stream = wanted.name.clone();
            drifts.push(Drift { stream, setting, wanted: wanted_value, found: found_value, guarding });
        }
    };
    let is_log = [LOG_STREAM, CHECKPOINT_STREAM].contains(&wanted.name.as_str());
    let retention = |c: &Config| match c.retention {
        RetentionPolicy::Limits => "limits",
        RetentionPolicy::Interest => "interest",
        RetentionPolicy::WorkQueue => "workqueue",
    };
    let discard = |c: &Config| if c.discard == DiscardPolicy::New { "new" } else { "old" };
    let storage = |c: &Config| if c.storage == StorageType::File { "file" } else { "memory" };
    compare("subjects", true, wanted.subjects.join(" "), found.subjects.join(" "));
    compare("retention", true, retention(wanted).into(), retention(found).into());
    compare("storage", true, storage(wanted).into(), storage(found).into());
    compare("discard", is_log, discard(wanted).into(), discard(found).into());
    compare("deny_delete", is_log, wanted.deny_delete.to_string(), found.deny_delete.to_string());
    compare("deny_purge", is_log, wanted.deny_purge.to_string(), found.deny_purge.to_string());
    compare("allow_rollup_hdrs", true, wanted.allow_rollup.to_string(), found.allow_rollup.to_string());
    compare("max_msgs", is_log, wanted.max_messages.to_string(), found.max_messages.to_string());
    compare(
        "max_msgs_per_subject",
        true,
        wanted.max_messages_per_subject.to_string(),
        found.max_messages_per_subject.to_string(),
    );
    compare("max_age", is_log, format!("{:?}", wanted.max_age), format!("{:?}", found.max_age));
    compare("persist_mode", is_log, persistence(wanted).into(), persistence(found).into());
    compare("max_bytes", false, wanted.max_bytes.to_string(), found.max_bytes.to_string());
    compare("max_msg_size", false, wanted.max_message_size.to_string(), found.max_message_size.to_string());
    compare("num_replicas", false, wanted.num_replicas.to_string(), found.num_replicas.to_string());
    drifts
}

/// `async` acknowledges before anything is written, which the log must never do.
const fn persistence(config: &Config) -> &'static str {
    if matches!(config.persist_mode, Some(PersistenceMode::Async)) { "async" } else { "default" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provision() -> Provision {
        Provision {
            replicas: 3,
            log_max_bytes: 1 << 20,
            acks_max_age: Duration::from_hours(1),
            acks_max_bytes: 1 << 21,
        }
    }

    #[test]
    fn the_definitions_are_readable_and_take_the_deployments_choices() {
        let definitions = provision().definitions().unwrap();
        let names: Vec<_> = definitions.iter().map(|d| d.name.as_str()).collect();
        let buckets = [ACTIVE_BUCKET, ACKS_BUCKET, REPLICAS_BUCKET].map(bucket_stream);
        assert_eq!(names, [LOG_STREAM, CHECKPOINT_STREAM, &buckets[0], &buckets[1], &buckets[2]]);
        let log = &definitions[0];
        assert_eq!((log.max_bytes, log.num_replicas, log.max_age), (1 << 20, 3, Duration::ZERO));
        assert!(log.deny_delete && log.deny_purge && !log.allow_rollup && log.persist_mode.is_none());
        let acks = &definitions[3];
        assert_eq!((acks.max_age, acks.max_bytes), (Duration::from_hours(1), 1 << 21));
        assert_eq!(acks.discard, DiscardPolicy::Old, "the log still knows what the bucket forgets");
    }

    #[test]
    fn a_weaker_setting_is_a_guarding_difference_and_a_smaller_one_is_not() {
        let wanted = provision().definitions().unwrap().remove(0);
        assert_eq!(differences(&wanted, &wanted), []);
        let found = Config { deny_purge: false, max_bytes: 5, ..wanted.clone() };
        let drifts = differences(&wanted, &found);
        let seen: Vec<_> = drifts.iter().map(|d| (d.setting, d.guarding)).collect();
        assert_eq!(seen, [("deny_purge", true), ("max_bytes", false)]);
        assert!(drifts[0].to_string().contains("deny_purge = false"));
    }
}
