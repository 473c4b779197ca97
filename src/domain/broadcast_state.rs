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
    /// Somebody cleared it.
    Cleared,
    /// A newer one took its place.
    Superseded,
}

impl EndReason {
    /// The word for it.
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
    /// When the log recorded that.
    pub at: Timestamp,
    /// Why.
    pub reason: EndReason,
}

/// A broadcast as the log knows it, and who acknowledged it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastState {
    /// Where it was sent.
    pub channel: Channel,
    /// The announcement.
    pub broadcast: Broadcast,
    /// The event that created it.
    pub sequence: u64,
    /// When the log recorded it.
    pub recorded_at: Timestamp,
    /// Overtaken before it reached the log: on record, never active.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// It waited in the outbox of the replica that accepted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relayed: bool,
    /// The broadcast whose place it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<BroadcastId>,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// How many users acknowledged it.
    pub acknowledged: u64,
    /// How long they took, by the clock of the log where it recorded both at once.
    pub delays: Delays,
    /// Who acknowledged it, as much of that as is in memory. Kept apart from the record.
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

    /// How long after a broadcast this acknowledgement of it came, in milliseconds: by the clock of the log, which recorded both,
    /// whatever the clocks of the replicas say. One that waited in an outbox was recorded long after it was made: then by the
    /// clock of the replica that accepted it, since the broadcast, if that waited too, or else since the log recorded that.
    pub(super) fn delay_ms(&self, recorded: &Recorded, acknowledgement: &Acknowledgement) -> i64 {
        let (from, to) = match (self.relayed, recorded.relayed) {
            (true, true) => (self.broadcast.created_at, acknowledgement.at),
            (false, true) => (self.recorded_at, acknowledgement.at),
            (_, false) => (self.recorded_at, recorded.recorded_at),
        };
        to.as_unix_ms().saturating_sub(from.as_unix_ms())
    }
}

/// A lifecycle event of the log, as its id finds it again. With an id that came twice, the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef {
    /// The broadcast that it is about.
    pub broadcast: BroadcastId,
    /// Where it stands.
    pub sequence: u64,
    /// To how many it went, when its request had an idempotency key.
    pub sent_to: Option<SentTo>,
}
