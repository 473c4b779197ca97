//! A broadcast as the log knows it, and the reference by which an event is found again.

use serde::{Deserialize, Serialize};

use super::ack_set::AckSet;
use super::delays::Delays;
use super::event::{Acknowledgement, Broadcast, Recorded};
use super::sent_to::SentTo;
use super::types::{BroadcastId, Channel, Fingerprint, Timestamp, UserId};

/// Why a broadcast is no longer active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndReason {
    /// A creator cleared it.
    Cleared,
    /// A newer broadcast superseded it.
    Superseded,
}

impl EndReason {
    /// The word in JSON and in messages to clients.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Superseded => "superseded",
        }
    }
}

/// How a broadcast ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The event that ended it.
    pub sequence: u64,
    /// When the log recorded that event.
    pub at: Timestamp,
    /// Why it ended.
    pub reason: EndReason,
}

/// A broadcast as the log knows it, and who acknowledged it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastState {
    /// Its channel.
    pub channel: Channel,
    /// The announcement.
    pub broadcast: Broadcast,
    /// The event that created it.
    pub sequence: u64,
    /// When the log recorded it.
    pub recorded_at: Timestamp,
    /// Whether it was overtaken before it reached the log: recorded, never active.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// Whether it waited in the outbox of the replica that accepted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relayed: bool,
    /// The broadcast that it superseded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<BroadcastId>,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// How many users acknowledged it.
    pub acknowledged: u64,
    /// How long they took, by the clock of the log where both were recorded without delay.
    pub delays: Delays,
    /// Who acknowledged it, as far as that is in memory. Stored apart from the record.
    #[serde(skip)]
    pub acknowledgements: AckSet,
}

impl BroadcastState {
    /// The sequence at which this user first acknowledged it.
    pub fn acknowledged_at(&self, user: &UserId) -> Option<u64> {
        self.acknowledged_by(user.fingerprint())
    }

    /// The same of a user who is known by the [`UserId::fingerprint`].
    pub fn acknowledged_by(&self, fingerprint: Fingerprint) -> Option<u64> {
        self.acknowledgements.get(fingerprint)
    }

    /// How long after the broadcast this acknowledgement came, in milliseconds, by the clock of the log, which recorded both. An
    /// acknowledgement that waited in an outbox was recorded long after it was made: then by the clock of the replica that
    /// accepted it, counted from the broadcast's own time if that waited as well, else from when the log recorded it.
    pub(super) fn delay_ms(&self, recorded: &Recorded, acknowledgement: &Acknowledgement) -> i64 {
        let (from, to) = match (self.relayed, recorded.relayed) {
            (true, true) => (self.broadcast.created_at, acknowledgement.at),
            (false, true) => (self.recorded_at, acknowledgement.at),
            (_, false) => (self.recorded_at, recorded.recorded_at),
        };
        to.as_unix_ms().saturating_sub(from.as_unix_ms())
    }
}

/// A lifecycle event, found by its id. If an id occurs twice, the first occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef {
    /// The broadcast that it created or ended.
    pub broadcast: BroadcastId,
    /// Its sequence in the log.
    pub sequence: u64,
    /// How many users and connections it was sent to, when its request had an idempotency key.
    pub sent_to: Option<SentTo>,
}
