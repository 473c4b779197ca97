//! What NATS reports of the log's stream: its copies, its settings, and the messages that are gone from it.

use std::collections::BTreeMap;

/// How a copy of the stream is, as the stream's leader reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyState {
    /// The leader's copy.
    Leader,
    /// It has everything that the leader has.
    Current,
    /// Its server runs, and the copy is behind.
    Lagging,
    /// Its server is down or unreachable.
    Offline,
}

impl CopyState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Leader, Self::Current, Self::Lagging, Self::Offline];

    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Current => "current",
            Self::Lagging => "lagging",
            Self::Offline => "offline",
        }
    }
}

/// What NATS reports of the log's stream beside [`LogInfo`](super::LogInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Copies that the stream is configured to have (`num_replicas`).
    pub copies: usize,
    /// Copies that it should have (`--stream-replicas`).
    pub copies_wanted: usize,
    /// Whether its server is a node of a cluster, where other nodes could keep copies.
    pub is_clustered: bool,
    /// The servers that keep a copy, by name.
    pub servers: BTreeMap<String, CopyState>,
    /// Messages that the stream has lost: none, in a healthy log.
    pub missing: u64,
    /// Settings that break a guarantee, each as a sentence.
    pub broken_settings: Vec<String>,
}
