//! What a replica counts, in the text formats of [`text`] at `/metrics`; `schemas/metrics.md` lists it.

mod labels;
mod process;
mod collector;
mod gauge;
pub mod text;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::domain::Channel;
pub use collector::{
    LogGauges, OutboxGauges, ProjectionGauges, QueueGauges, ScrapeValues, StreamGauges, TokenKeyGauges,
};
pub use gauge::gauge;
pub use labels::{ByChannel, ByCode, ByOutcome, ByReason, ByRequest, ByRoute};

/// Upper bounds of the buckets of durations, in seconds: from a local append to the patience of a client.
const DURATIONS: [f64; 15] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds of the buckets of batches: an event takes a thousand acknowledgements at most.
const SIZES: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

/// How long something took.
#[derive(Clone, Debug)]
pub struct Durations(Histogram);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(DURATIONS))
    }
}

impl Durations {
    /// It took this long once more.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// How much came together.
#[derive(Clone, Debug)]
pub struct Sizes(Histogram);

impl Default for Sizes {
    fn default() -> Self {
        Self(Histogram::new(SIZES))
    }
}

impl Sizes {
    /// So much came together once more.
    pub fn observe(&self, size: usize) {
        self.0.observe(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
    }
}

type DurationsBy<L> = Family<L, Histogram, fn() -> Histogram>;

fn durations<L: Clone + std::hash::Hash + Eq>() -> DurationsBy<L> {
    Family::new_with_constructor(|| Histogram::new(DURATIONS))
}

/// Every count. Cheap to clone: the numbers are shared. Nothing here is touched once a delivery, only once an event.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Answers to HTTP requests.
    pub http_requests: Family<ByRequest, Counter>,
    /// How long these took, up to the head of the answer.
    pub http_durations: DurationsBy<ByRoute>,
    /// Reads that wait for the sequence that they ask for.
    pub reads_waiting: Gauge,
    /// TCP connections to this replica, whatever they are for.
    pub sockets: Gauge,
    /// Rejected TCP connections, by the error's code.
    pub sockets_refused: Family<ByReason, Counter>,

    /// How long each try of an append took, by what the log answered.
    pub append_durations: DurationsBy<ByOutcome>,
    /// Acknowledgements in one event.
    pub ack_commit_size: Sizes,
    /// From when an acknowledgement was queued to when it was confirmed.
    pub ack_confirmation: Durations,

    /// Messages of the log that were folded, skipped ones and holes included.
    pub applied: Counter,
    /// How long a batch of them took.
    pub apply_duration: Durations,
    /// Stores that were quarantined and rebuilt.
    pub rebuilds: Family<ByReason, Counter>,
    /// Passes of the reader over the log.
    pub reader_passes: Counter,

    /// WebSockets and event streams open on this replica.
    pub connections: Family<ByChannel, Gauge>,
    /// Connections that were refused before they began, by the error's code.
    pub connections_refused: Family<ByReason, Counter>,
    /// WebSockets that ended, by the close code that the replica sent, or `client`.
    pub websocket_closes: Family<ByCode, Counter>,
    /// Connections closed because they did not read.
    pub slow_clients: Counter,
    /// Messages queued for the connections of a channel.
    pub messages_waiting: Family<ByChannel, Gauge>,
    /// Connections whose queue is half full or more.
    pub lagging_connections: Family<ByChannel, Gauge>,
    /// Broadcasts that became active, as this replica announced them.
    pub broadcasts: Family<ByChannel, Counter>,
    /// Messages handed to connections.
    pub deliveries: Family<ByChannel, Counter>,
    /// Acknowledgements that were new, as this replica applied them.
    pub acks: Family<ByChannel, Counter>,

    /// Live replicas that this one knows of, itself included.
    pub replicas: Gauge,
    /// When NATS last took this replica's heartbeat, in seconds since 1970.
    pub heartbeat: Gauge,
    /// Heartbeats of another replica whose digest at the same sequence was different.
    pub divergence: Counter,
    /// Keys that this replica signs checkpoints with; 0: it only compares those of others.
    pub checkpoint_keys: Gauge,
    /// Leaves of the newest checkpoint that this replica's tree agrees with.
    pub checkpoint_size: Gauge,
    /// Seconds for which the log has had events that the newest checkpoint does not cover.
    pub checkpoint_age: Gauge,
    /// Checkpoints that this replica signed.
    pub checkpoints_signed: Counter,
    /// Bytes that the stream of checkpoints has stored.
    pub checkpoint_bytes: Gauge,
    /// Bytes that the stream of checkpoints takes; 0: any number.
    pub checkpoint_limit: Gauge,
    /// Seconds by which this replica's clock is ahead of that of NATS.
    clock_offset: Gauge<f64, AtomicU64>,
    /// Events that were accepted without the log and came into it without effect, since something newer was there.
    pub outbox_overruled: Counter,
    /// 1 while this replica writes the KV mirror.
    pub mirroring: Gauge,
    /// Events that the mirror has not written yet, on the replica that mirrors.
    pub mirror_lag: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            http_requests: Family::default(),
            http_durations: durations(),
            reads_waiting: Gauge::default(),
            sockets: Gauge::default(),
            sockets_refused: Family::default(),
            append_durations: durations(),
            ack_commit_size: Sizes::default(),
            ack_confirmation: Durations::default(),
            applied: Counter::default(),
            apply_duration: Durations::default(),
            rebuilds: Family::default(),
            reader_passes: Counter::default(),
            connections: Family::default(),
            connections_refused: Family::default(),
            websocket_closes: Family::default(),
            slow_clients: Counter::default(),
            messages_waiting: Family::default(),
            lagging_connections: Family::default(),
            broadcasts: Family::default(),
            deliveries: Family::default(),
            acks: Family::default(),
            replicas: Gauge::default(),
            heartbeat: Gauge::default(),
            divergence: Counter::default(),
            checkpoint_keys: Gauge::default(),
            checkpoint_size: Gauge::default(),
            checkpoint_age: Gauge::default(),
            checkpoints_signed: Counter::default(),
            checkpoint_bytes: Gauge::default(),
            checkpoint_limit: Gauge::default(),
            clock_offset: Gauge::default(),
            outbox_overruled: Counter::default(),
            mirroring: Gauge::default(),
            mirror_lag: Gauge::default(),
        };
        // Known from the start, so that a rate sees the first one.
        for outcome in ByOutcome::APPENDS {
            drop(metrics.append_durations.get_or_create(&outcome));
        }
        for reason in ByReason::REBUILDS {
            drop(metrics.rebuilds.get_or_create(&reason));
        }
        for code in ByCode::known() {
            drop(metrics.websocket_closes.get_or_create(&code));
        }
        metrics
    }
}

impl Metrics {
    /// This channel's counts begin at zero, for the same reason.
    pub fn begin(&self, channel: &Channel) {
        let label = ByChannel::from(channel);
        for gauges in [&self.connections, &self.messages_waiting, &self.lagging_connections] {
            drop(gauges.get_or_create(&label));
        }
        for counters in [&self.broadcasts, &self.deliveries, &self.acks] {
            drop(counters.get_or_create(&label));
        }
    }

    /// A try of an append came to this, after so long.
    pub fn append(&self, outcome: &ByOutcome, took: Duration) {
        self.append_durations.get_or_create(outcome).observe(took.as_secs_f64());
    }

    /// This replica's clock is ahead of that of NATS by so many milliseconds, or behind it.
    pub fn set_clock_offset(&self, milliseconds: i64) {
        let milliseconds =
            i32::try_from(milliseconds).unwrap_or(if milliseconds < 0 { i32::MIN } else { i32::MAX });
        self.clock_offset.set(f64::from(milliseconds) / 1_000.0);
    }

    /// The metrics as OpenMetrics, with what is read at this moment.
    fn open_metrics(&self, values: &ScrapeValues) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        process::register(&mut registry);
        let r = registry.sub_registry_with_prefix("tidings");
        r.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        values.register(r);
        self.register_requests(r);
        self.register_log(r);
        self.register_push(r);
        self.register_replicas(r);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn register_requests(&self, r: &mut Registry) {
        add(r, "http_requests", "Answers to HTTP requests", &self.http_requests);
        seconds(
            r,
            "http_request_duration",
            "From a request to the head of its answer; of a stream, to its begin",
            &self.http_durations,
        );
        add(r, "reads_waiting", "Reads that wait for the sequence that they ask for", &self.reads_waiting);
        add(r, "sockets", "TCP connections to this replica", &self.sockets);
        add(r, "sockets_refused", "Rejected TCP connections, by error code", &self.sockets_refused);
        seconds(
            r,
            "append_duration",
            "From sending an event to the log's answer, a try each; without an answer, until it was given up",
            &self.append_durations,
        );
        let help = "Accepted events that came into the log without effect, since something newer was there";
        add(r, "outbox_overruled_entries", help, &self.outbox_overruled);
        add(r, "ack_commit_size", "Acknowledgements in one event", &self.ack_commit_size.0);
        seconds(
            r,
            "ack_confirmation_duration",
            "From an acknowledgement's place in the queue to its confirmation",
            &self.ack_confirmation.0,
        );
    }

    fn register_log(&self, r: &mut Registry) {
        add(
            r,
            "projection_applied_messages",
            "Messages of the log folded, skipped ones and holes included",
            &self.applied,
        );
        seconds(
            r,
            "projection_apply_duration",
            "Folding one batch, and storing it until the log has been read once",
            &self.apply_duration.0,
        );
        add(r, "projection_rebuilds", "Stores that were quarantined and rebuilt", &self.rebuilds);
        add(
            r,
            "reader_passes",
            "Times that the log's reader began: at the start, and after each interruption",
            &self.reader_passes,
        );
    }

    fn register_push(&self, r: &mut Registry) {
        add(r, "connections", "WebSockets and event streams open on this replica", &self.connections);
        add(
            r,
            "connections_refused",
            "Connections refused before they began, by error code",
            &self.connections_refused,
        );
        add(
            r,
            "websocket_closes",
            "WebSockets that ended, by the close code sent, or client when the client ended it",
            &self.websocket_closes,
        );
        add(r, "slow_clients", "Connections closed because they did not read", &self.slow_clients);
        add(
            r,
            "messages_waiting",
            "Messages queued for connections, counted every 2 s",
            &self.messages_waiting,
        );
        add(
            r,
            "lagging_connections",
            "Connections whose queue is half full or more, counted every 2 s",
            &self.lagging_connections,
        );
        add(r, "broadcasts", "Broadcasts that became active", &self.broadcasts);
        add(r, "deliveries", "Messages handed to connections of this replica", &self.deliveries);
        add(r, "acks", "Acknowledgements that were new", &self.acks);
    }

    fn register_replicas(&self, r: &mut Registry) {
        add(r, "replicas", "Live replicas that this one knows of, itself included", &self.replicas);
        seconds(
            r,
            "last_heartbeat_timestamp",
            "When NATS last took the heartbeat of this replica; 0 before the first",
            &self.heartbeat,
        );
        add(
            r,
            "divergence",
            "Heartbeats of a replica with another digest at the same sequence",
            &self.divergence,
        );
        add(r, "checkpoint_keys", "Keys that this replica signs checkpoints with", &self.checkpoint_keys);
        let help = "Leaves of the newest checkpoint that this replica's tree agrees with";
        add(r, "checkpoint_size", help, &self.checkpoint_size);
        let help = "For how long the log has had events that the newest checkpoint does not cover";
        seconds(r, "checkpoint_age", help, &self.checkpoint_age);
        add(r, "checkpoints_signed", "Checkpoints that this replica signed", &self.checkpoints_signed);
        let help = "Bytes that the stream of checkpoints has stored";
        r.register_with_unit("checkpoint_stored", help, Unit::Bytes, self.checkpoint_bytes.clone());
        let help = "Bytes that the stream of checkpoints takes; 0 for any number";
        r.register_with_unit("checkpoint_limit", help, Unit::Bytes, self.checkpoint_limit.clone());
        let help =
            "By how much this replica's clock is ahead of that of NATS, at least; negative when it is behind";
        seconds(r, "clock_offset", help, &self.clock_offset);
        add(r, "mirroring", "1 while this replica writes the KV mirror", &self.mirroring);
        add(r, "mirror_lag_events", "Events that the KV mirror does not reflect yet", &self.mirror_lag);
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

fn seconds(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
}

/// Counts in a gauge for as long as it lives.
pub struct Counted(Gauge);

impl Counted {
    /// One more, until this is dropped.
    pub fn on(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
