//! What a replica counts, in the text format of OpenMetrics at `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::domain::Channel;

/// The label of a count by channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByChannel {
    channel: String,
}

impl From<&Channel> for ByChannel {
    fn from(channel: &Channel) -> Self {
        Self { channel: channel.as_str().to_owned() }
    }
}

/// Every count. Cheap to clone: the numbers are shared.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// WebSockets and event streams open on this replica.
    pub connections: Family<ByChannel, Gauge>,
    /// Broadcasts that became active, as this replica announced them.
    pub broadcasts: Family<ByChannel, Counter>,
    /// Messages handed to connections.
    pub deliveries: Family<ByChannel, Counter>,
    /// Acknowledgements that were new, as this replica applied them.
    pub acks: Family<ByChannel, Counter>,
    /// Connections closed because they did not read.
    pub slow_clients: Counter,
    /// Heartbeats of another replica whose digest at the same sequence was different.
    pub divergence: Counter,
    /// 1 while this replica writes the KV mirror.
    pub mirroring: Gauge,
    /// Events that the mirror has not written yet, on the replica that mirrors.
    pub mirror_lag: Gauge,
    standing: StandingGauges,
}

/// Where the log and the projection of it stand at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// The last sequence that was applied.
    pub sequence: u64,
    /// The last sequence of the log.
    pub head: u64,
    /// Bytes that the log has stored.
    pub log_bytes: u64,
    /// Bytes that it takes.
    pub log_max_bytes: u64,
    /// Messages skipped because a newer build may know them.
    pub skipped_future: u64,
    /// Messages skipped because they are not events of Tidings.
    pub skipped_foreign: u64,
    /// Places where the log has lost its message.
    pub holes: u64,
    /// Times that the log turned out to be another one.
    pub epochs: u64,
    /// Whether the projection has caught up with the log.
    pub caught_up: bool,
}

#[derive(Clone, Debug, Default)]
struct StandingGauges {
    sequence: Gauge,
    lag: Gauge,
    log_bytes: Gauge,
    log_max_bytes: Gauge,
    skipped_future: Gauge,
    skipped_foreign: Gauge,
    holes: Gauge,
    epochs: Gauge,
    caught_up: Gauge,
}

impl Metrics {
    /// The text that `/metrics` answers, with the log and the projection as they stand.
    pub fn text(&self, standing: &Standing) -> Result<String, std::fmt::Error> {
        let gauges = &self.standing;
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&gauges.sequence, standing.sequence);
        set(&gauges.lag, standing.head.saturating_sub(standing.sequence));
        set(&gauges.log_bytes, standing.log_bytes);
        set(&gauges.log_max_bytes, standing.log_max_bytes);
        set(&gauges.skipped_future, standing.skipped_future);
        set(&gauges.skipped_foreign, standing.skipped_foreign);
        set(&gauges.holes, standing.holes);
        set(&gauges.epochs, standing.epochs);
        set(&gauges.caught_up, u64::from(standing.caught_up));
        let mut text = String::new();
        encode(&mut text, &self.registry())?;
        Ok(text)
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("tidings");
        let r = &mut registry;
        let now = &self.standing;
        add(r, "connections", "WebSockets and event streams open on this replica", &self.connections);
        add(r, "broadcasts", "Broadcasts that became active", &self.broadcasts);
        add(r, "deliveries", "Messages handed to connections of this replica", &self.deliveries);
        add(r, "acks", "Acknowledgements that were new", &self.acks);
        add(r, "slow_clients", "Connections closed because they did not read", &self.slow_clients);
        add(
            r,
            "divergence",
            "Heartbeats of a replica with another digest at the same sequence",
            &self.divergence,
        );
        add(r, "mirroring", "1 while this replica writes the KV mirror", &self.mirroring);
        add(r, "mirror_lag_events", "Events that the KV mirror does not reflect yet", &self.mirror_lag);
        add(r, "projection_sequence", "Last sequence of the log that was applied", &now.sequence);
        add(r, "projection_lag_events", "Events of the log that were not applied yet", &now.lag);
        add(r, "projection_caught_up", "1 once the projection has caught up with the log", &now.caught_up);
        add(r, "projection_holes", "Places where the log has lost its message", &now.holes);
        add(r, "projection_epochs", "Times that the log turned out to be another one", &now.epochs);
        add(r, "projection_skipped_future", "Messages that a newer build may know", &now.skipped_future);
        add(r, "projection_skipped_foreign", "Messages that are no events of Tidings", &now.skipped_foreign);
        r.register_with_unit(
            "log_stored",
            "Bytes that the log has stored",
            Unit::Bytes,
            now.log_bytes.clone(),
        );
        r.register_with_unit("log_limit", "Bytes that the log takes", Unit::Bytes, now.log_max_bytes.clone());
        registry
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}
