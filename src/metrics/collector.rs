//! Gauges that are read at each scrape: of the log, the projection and the queues.

use std::time::Duration;

use prometheus_client::encoding::{EncodeCounterValue, EncodeGaugeValue};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::gauge::gauge;
use super::labels::{ByChannel, ByReason, ByState, ByWarning};
use crate::domain::Channel;
use crate::warnings::Warning;

/// The values of a replica at a scrape.
#[derive(Clone, Debug, Default)]
pub struct ScrapeValues {
    /// What `/readyz` says.
    pub ready: bool,
    /// How the log stands, as far as this replica sees it.
    pub log: LogGauges,
    /// How the projection stands.
    pub projection: ProjectionGauges,
    /// What waits.
    pub queues: QueueGauges,
    /// How it does without the log.
    pub outage: OutboxGauges,
    /// The published keys of tokens, where tokens are signed with such.
    pub keys: Option<TokenKeyGauges>,
    /// What is wrong although the replica serves.
    pub warnings: Vec<Warning>,
}

/// The published keys of tokens (JWKS).
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenKeyGauges {
    /// How many there were when they were last read.
    pub keys: usize,
    /// How long ago that was; none: they were never read.
    pub age: Option<Duration>,
}

/// How the log stands.
#[derive(Clone, Debug, Default)]
pub struct LogGauges {
    /// Whether NATS is connected.
    pub connected: bool,
    /// Times that a connection to NATS was made.
    pub connections: u64,
    /// Whether the log is being followed.
    pub following: bool,
    /// Its epoch, as text.
    pub epoch: Option<String>,
    /// Its last sequence.
    pub head: u64,
    /// Bytes that it has stored.
    pub bytes: u64,
    /// Bytes that it takes.
    pub max_bytes: u64,
    /// Messages that its stream had and has no more.
    pub missing: u64,
    /// How it is kept in NATS.
    pub stream: StreamGauges,
}

/// How NATS keeps the log's stream.
#[derive(Clone, Debug, Default)]
pub struct StreamGauges {
    /// Whether it has a leader.
    pub has_leader: bool,
    /// How many of its servers are in each state.
    pub servers: Vec<(&'static str, usize)>,
    /// Copies that it is configured to have.
    pub copies: usize,
    /// Copies that this replica would give it.
    pub copies_wanted: usize,
}

/// How the projection stands.
#[expect(clippy::struct_excessive_bools, reason = "each is a gauge of its own")]
#[derive(Clone, Copy, Debug, Default)]
pub struct ProjectionGauges {
    /// The last sequence that was applied.
    pub sequence: u64,
    /// Messages skipped because a newer build may know them.
    pub skipped_future: u64,
    /// Messages skipped because they are not events of Tidings.
    pub skipped_foreign: u64,
    /// Sequences whose message the log has lost.
    pub holes: u64,
    /// Times that the log turned out to be another one.
    pub epoch_changes: u64,
    /// Whether the projection has caught up with the log.
    pub caught_up: bool,
    /// Whether its disk is full or cannot be written to.
    pub stalled: bool,
    /// Whether it was damaged again and again and is not rebuilt any more.
    pub gave_up: bool,
    /// Whether its tree is not the one of a checkpoint, although it was begun anew for that.
    pub diverged: bool,
}

/// What waits, and for whom.
#[derive(Clone, Debug, Default)]
pub struct QueueGauges {
    /// Acknowledgements for the next commit.
    pub acks: usize,
    /// Lifecycle commands of each channel, the one under way included.
    pub commands: Vec<(Channel, usize)>,
    /// Announcements of the projection for the hub.
    pub announcements: usize,
    /// Requests of connections for the hub.
    pub hub_requests: usize,
}

/// How a replica does without the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutboxGauges {
    /// Whether it works without the log, brings its outbox to it, or cannot follow it.
    pub degraded: bool,
    /// Entries of the outbox.
    pub entries: usize,
    /// Bytes of the outbox.
    pub bytes: u64,
    /// Entries that the log will never take.
    pub rejected: u64,
}

impl ScrapeValues {
    pub(super) fn register(&self, r: &mut Registry) {
        now(r, "ready", "1 while the replica is ready for traffic", u64::from(self.ready));
        self.log.register(r);
        self.projection.register(r, self.log.head);
        self.queues.register(r);
        self.outage.register(r);
        if let Some(keys) = self.keys {
            keys.register(r);
        }
        let warnings = Family::<ByWarning, Gauge>::default();
        for warning in Warning::ALL {
            warnings.get_or_create(&warning.into()).set(i64::from(self.warnings.contains(&warning)));
        }
        r.register("warning", "1 while this is wrong although the replica serves", warnings);
    }
}

impl LogGauges {
    fn register(&self, r: &mut Registry) {
        now(r, "nats_connected", "1 while NATS is connected", u64::from(self.connected));
        total(r, "nats_connections", "Times that a connection to NATS was made", self.connections);
        now(r, "log_followed", "1 while the log is being followed", u64::from(self.following));
        if let Some(epoch) = &self.epoch {
            r.register("log", "The epoch of the log that is followed", Info::new([("epoch", epoch.clone())]));
        }
        now(r, "log_sequence", "Last sequence of the log", self.head);
        bytes(r, "log_stored", "Bytes that the log has stored", self.bytes);
        bytes(r, "log_limit", "Bytes that the log takes", self.max_bytes);
        let help = "Messages that the log's stream had and has no more";
        now(r, "log_missing_messages", help, self.missing);
        self.stream.register(r);
    }
}

impl StreamGauges {
    fn register(&self, r: &mut Registry) {
        let has_leader = u64::from(self.has_leader);
        now(r, "nats_stream_leader", "1 while NATS has a leader for the log's stream", has_leader);
        let peers = Family::<ByState, Gauge>::default();
        for (state, count) in &self.servers {
            peers.get_or_create(&ByState { state }).set(gauge(*count));
        }
        let help = "NATS servers that keep a copy of the log's stream, as its leader last reported them";
        r.register("nats_stream_peers", help, peers);
        let help = "Copies that the log's stream is configured to have";
        now(r, "nats_stream_copies", help, self.copies as u64);
        let help = "Copies that the log's stream should have, by --stream-replicas";
        now(r, "nats_stream_copies_wanted", help, self.copies_wanted as u64);
    }
}

impl ProjectionGauges {
    fn register(&self, r: &mut Registry, head: u64) {
        now(r, "projection_sequence", "Last sequence of the log that was applied", self.sequence);
        let lag = head.saturating_sub(self.sequence);
        now(r, "projection_lag_events", "Events of the log that were not applied yet", lag);
        let caught_up = u64::from(self.caught_up);
        now(r, "projection_caught_up", "1 once the projection has caught up with the log", caught_up);
        let stalled = u64::from(self.stalled);
        now(
            r,
            "projection_stalled",
            "1 while the projection's disk is full or cannot be written to",
            stalled,
        );
        let gave_up = u64::from(self.gave_up);
        now(r, "projection_gave_up", "1 when the projection is not rebuilt any more", gave_up);
        let diverged = u64::from(self.diverged);
        now(r, "projection_diverged", "1 when the tree is not the one of a checkpoint", diverged);
        // Gauges: they describe what lies before the position, and begin anew with another log or another build.
        now(r, "projection_holes", "Sequences up to the position whose message the log has lost", self.holes);
        let skipped = Family::<ByReason, Gauge>::default();
        skipped.get_or_create(&ByReason::FUTURE).set(gauge(self.skipped_future));
        skipped.get_or_create(&ByReason::FOREIGN).set(gauge(self.skipped_foreign));
        r.register(
            "projection_skipped_messages",
            "Messages up to the position that are not understood",
            skipped,
        );
        total(
            r,
            "projection_epoch_changes",
            "Times that the log turned out to be another one",
            self.epoch_changes,
        );
    }
}

impl TokenKeyGauges {
    fn register(&self, r: &mut Registry) {
        now(r, "token_keys", "Published keys that verify tokens, as last read", self.keys);
        if let Some(age) = self.age {
            let help = "Time since the published keys of tokens were last read";
            r.register_with_unit("token_keys_age", help, Unit::Seconds, ConstGauge::new(age.as_secs_f64()));
        }
    }
}

impl QueueGauges {
    fn register(&self, r: &mut Registry) {
        now(r, "acks_waiting", "Acknowledgements that wait for a look-up or for the next commit", self.acks);
        let commands = Family::<ByChannel, Gauge>::default();
        for (channel, waiting) in &self.commands {
            commands.get_or_create(&channel.into()).set(gauge(*waiting));
        }
        let help = "Commands to create or clear that wait for their turn or have it";
        r.register("commands_waiting", help, commands);
        let help = "Announcements of the projection that wait for the hub";
        now(r, "announcements_waiting", help, self.announcements);
        now(r, "hub_requests_waiting", "Requests of connections that wait for the hub", self.hub_requests);
    }
}

impl OutboxGauges {
    fn register(&self, r: &mut Registry) {
        let help =
            "1 while the replica works without the log, brings its outbox to it, or cannot write to its disk";
        now(r, "degraded", help, u64::from(self.degraded));
        now(r, "outbox_entries", "Events that were accepted and wait for the log", self.entries);
        bytes(r, "outbox_stored", "Bytes of the outbox's file", self.bytes);
        total(r, "outbox_rejected_entries", "Accepted events that the log will never take", self.rejected);
    }
}

/// A gauge with the value of this moment.
pub(super) fn now<N>(r: &mut Registry, name: &str, help: &str, value: N)
where
    N: EncodeGaugeValue + std::fmt::Debug + Send + Sync + 'static,
{
    r.register(name, help, ConstGauge::new(value));
}

/// A counter that something else keeps.
fn total<N>(r: &mut Registry, name: &str, help: &str, value: N)
where
    N: EncodeCounterValue + std::fmt::Debug + Send + Sync + 'static,
{
    r.register(name, help, ConstCounter::new(value));
}

/// A gauge in bytes.
pub(super) fn bytes(r: &mut Registry, name: &str, help: &str, value: u64) {
    r.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(value));
}
