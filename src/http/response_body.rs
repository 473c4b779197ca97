//! The bodies of successful responses, as `schemas/openapi.yaml` describes them. Fields go out in this order.

use serde::Serialize;

use crate::domain::{BroadcastId, BroadcastState, Digest, SentTo, Severity, Timestamp, UserId, in_log};
use crate::log::Epoch;
use crate::projection::AckAt;
use crate::push::counts::{Accuracy, Connected};
use crate::push::wire::BroadcastView;

/// The `status` of a request that was carried out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Always this.
    #[default]
    Success,
}

/// Where an accepted request is recorded.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Recorded {
    /// In the log.
    Log {
        /// At this sequence; null when there was nothing to write.
        sequence: Option<u64>,
    },
    /// On the disk of this replica, for the log.
    Locally {
        /// Always `local`.
        mode: LocalMode,
    },
}

/// The mode of a replica that accepts requests while the log is away.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalMode {
    /// Always this.
    Local,
}

impl Recorded {
    /// In the log, or locally.
    pub const fn of(local: bool, sequence: Option<u64>) -> Self {
        if local { Self::Locally { mode: LocalMode::Local } } else { Self::Log { sequence } }
    }
}

/// `POST /`
#[derive(Debug, Serialize)]
pub struct Created {
    pub status: Status,
    pub id: Option<BroadcastId>,
    pub message: String,
    pub character_count: usize,
    pub max_characters: usize,
    pub sent_to_users: u64,
    pub sent_to_connections: u64,
    pub approximate: bool,
    #[serde(flatten)]
    pub recorded: Recorded,
    /// Only when the log had something newer before the broadcast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<bool>,
}

/// `POST /clear`
#[derive(Debug, Serialize)]
pub struct Cleared {
    pub status: Status,
    pub message: &'static str,
    #[serde(rename = "cleared_for_users")]
    pub users: u64,
    #[serde(rename = "cleared_for_connections")]
    pub connections: u64,
    pub approximate: bool,
    pub broadcast_id: Option<BroadcastId>,
    #[serde(flatten)]
    pub recorded: Recorded,
}

impl Cleared {
    /// Of a broadcast, or of none when nothing was active.
    pub const fn new(broadcast_id: Option<BroadcastId>, sent_to: SentTo, recorded: Recorded) -> Self {
        Self {
            status: Status::Success,
            message: "Broadcast cleared successfully",
            users: sent_to.users,
            connections: sent_to.connections,
            approximate: sent_to.approximate,
            broadcast_id,
            recorded,
        }
    }
}

/// `POST /acknowledge`
#[derive(Debug, Serialize)]
pub struct Acknowledged {
    pub status: Status,
    /// Not there while the acknowledgement waits on the disk of this replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Whether the user had acknowledged before, where this replica knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub already: Option<bool>,
    /// Only while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<LocalMode>,
}

/// `GET /active`
#[derive(Debug, Serialize)]
pub struct Active<'a> {
    pub broadcast: Option<BroadcastView<'a>>,
}

/// `GET /limits`
#[derive(Debug, Serialize)]
pub struct Limits {
    pub max_characters: usize,
    pub recommended_length: usize,
    pub current_active_broadcasts: u8,
    pub max_active_broadcasts: u8,
    pub types: &'static [Severity],
}

/// `GET /stats`
#[derive(Debug, Serialize)]
pub struct StatsEnvelope {
    pub status: Status,
    pub stats: Stats,
}

/// The statistics of a channel.
#[derive(Debug, Serialize)]
pub struct Stats {
    pub broadcasts_today: u64,
    pub active_broadcast: bool,
    pub active_broadcast_acknowledged: Option<u64>,
    pub connected_users: u64,
    pub connected_users_note: &'static str,
    pub connected_users_local: u64,
    pub connections: u64,
    pub connections_local: u64,
    pub approximate: bool,
    pub replicas: u64,
    pub max_characters: usize,
}

/// What `connected_users` counts.
pub const fn connected_users_note(connected: &Connected) -> &'static str {
    match connected.accuracy {
        Accuracy::Exact => "Distinct users over all replicas",
        Accuracy::Changing => {
            "Connections came or went in the last second: users of several replicas may count twice until the next sum"
        }
        Accuracy::Estimate => {
            "An estimate of the distinct users over all replicas; its standard error is 1.6 percent"
        }
        Accuracy::Partial => {
            "NATS is away: users of other replicas count as they were last reported, and after ten seconds not at all"
        }
    }
}

/// `GET /history`
#[derive(Debug, Serialize)]
pub struct History<'a> {
    pub broadcasts: Vec<Summary<'a>>,
    pub next_cursor: Option<String>,
}

/// `GET /{id}`
#[derive(Debug, Serialize)]
pub struct Single<'a> {
    pub broadcast: Summary<'a>,
}

/// A broadcast and how it was received.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    #[serde(flatten)]
    broadcast: BroadcastView<'a>,
    sequence: Option<u64>,
    recorded_at: Timestamp,
    status: &'static str,
    ended_at: Option<Timestamp>,
    acknowledged: u64,
    time_to_acknowledge_ms: Quantiles,
}

/// Quantiles of the times to acknowledge; null without acknowledgements.
#[derive(Debug, Serialize)]
struct Quantiles {
    p50: Option<u64>,
    p95: Option<u64>,
}

impl<'a> From<&'a BroadcastState> for Summary<'a> {
    fn from(state: &'a BroadcastState) -> Self {
        let status = match &state.end {
            None if state.late => "late",
            None => "active",
            Some(end) => end.reason.as_str(),
        };
        let delays = &state.delays;
        Self {
            broadcast: BroadcastView::from(&state.broadcast),
            sequence: in_log(state.sequence),
            recorded_at: state.recorded_at,
            status,
            ended_at: state.end.as_ref().map(|end| end.at),
            acknowledged: state.acknowledged,
            time_to_acknowledge_ms: Quantiles { p50: delays.quantile(0.5), p95: delays.quantile(0.95) },
        }
    }
}

/// `GET /{id}/acks`
#[derive(Debug, Serialize)]
pub struct Acknowledgements<'a> {
    pub acknowledgements: Vec<AcknowledgementView<'a>>,
    pub next_cursor: Option<String>,
}

/// Who acknowledged a broadcast, and when.
#[derive(Debug, Serialize)]
pub struct AcknowledgementView<'a> {
    user: &'a UserId,
    at: Timestamp,
    sequence: Option<u64>,
}

impl<'a> From<&'a AckAt> for AcknowledgementView<'a> {
    fn from(ack: &'a AckAt) -> Self {
        let AckAt { position: (sequence, _), acknowledgement } = ack;
        Self { user: &acknowledgement.user, at: acknowledgement.at, sequence: in_log(*sequence) }
    }
}

/// `GET /livez`
#[derive(Debug, Serialize)]
pub struct Live {
    pub status: &'static str,
}

/// `GET /readyz`
#[derive(Debug, Serialize)]
pub struct Readiness {
    pub status: &'static str,
    pub reason: Option<&'static str>,
    pub mode: &'static str,
    pub outbox: usize,
    pub epoch: Option<Epoch>,
    pub sequence: u64,
    pub head: u64,
    pub digest: Digest,
    pub diverged: bool,
    pub warnings: Vec<&'static str>,
}
