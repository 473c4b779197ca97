//! The events: what happened, in the past tense, in the form in which the log keeps it for ever.

mod fields;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::message::Message;
use super::sent_to::SentTo;
use super::types::{BroadcastId, Channel, Severity, Timestamp, UserId};

/// One announcement. As JSON it is the body of `broadcast.created` and the value in the KV bucket of active broadcasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broadcast {
    /// Its id, which is also that of the event that created it.
    pub id: BroadcastId,
    /// Its text.
    pub message: Message,
    /// How clients present it.
    #[serde(rename = "type")]
    pub severity: Severity,
    /// The creator.
    pub created_by: UserId,
    /// When the service accepted it, by the clock of the replica that did.
    pub created_at: Timestamp,
}

impl Broadcast {
    /// Whether both are one announcement. Two replicas that were alone may have accepted it at different moments under one
    /// key.
    pub fn announces_the_same(&self, other: &Self) -> bool {
        (self.id, &self.message, self.severity) == (other.id, &other.message, other.severity)
    }
}

/// A creator ended the active broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cleared {
    /// The broadcast that was active. The event has no effect if another one is active when it is recorded.
    pub broadcast_id: BroadcastId,
    /// The creator who cleared it.
    pub cleared_by: UserId,
    /// When it was accepted, by the clock of the replica.
    pub cleared_at: Timestamp,
}

/// One user has seen and confirmed a broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// The user.
    pub user: UserId,
    /// When it was accepted, by the clock of the replica.
    pub at: Timestamp,
}

/// Up to 1,000 users confirmed a broadcast: one group commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledged {
    /// The broadcast.
    pub broadcast_id: BroadcastId,
    /// The acknowledgements, in the order of arrival.
    pub acknowledgements: Vec<Acknowledgement>,
    /// Random, set when the event is committed: with it, a proof about one user reveals nothing about the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<Uuid>,
}

/// An event of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `broadcast.created`
    Created(Broadcast),
    /// `broadcast.cleared`
    Cleared(Cleared),
    /// `broadcast.acknowledged`
    Acknowledged(Acknowledged),
}

/// The name of an event on the wire, and the version of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventType {
    /// The CloudEvents type.
    pub name: &'static str,
    /// The version of the body's schema, from 1.
    pub version: u16,
    /// Every field that the body may have, in one level or below another field: `acknowledgements.user`.
    pub fields: &'static [&'static str],
}

/// Why this build cannot decode the body of an event.
#[derive(Debug)]
pub enum DecodeError {
    /// This build does not know the type in that version.
    UnknownType,
    /// The body has this field, which this build does not know: a newer build wrote the event. An event is never shown
    /// without a part that might limit to whom, or until when, it applies.
    UnknownField(String),
    /// The body does not fit the schema of its type.
    Malformed(serde_json::Error),
}

impl Event {
    /// Every event that this build writes and reads. A projection that skipped events is rebuilt when this list grows, in
    /// types, in versions or in fields.
    pub const TYPES: [EventType; 3] = [
        EventType {
            name: "broadcast.created",
            version: 1,
            fields: &["id", "message", "type", "created_by", "created_at"],
        },
        EventType {
            name: "broadcast.cleared",
            version: 1,
            fields: &["broadcast_id", "cleared_by", "cleared_at"],
        },
        EventType {
            name: "broadcast.acknowledged",
            version: 1,
            fields: &[
                "broadcast_id",
                "acknowledgements",
                "acknowledgements.user",
                "acknowledgements.at",
                "salt",
            ],
        },
    ];

    /// The name and version under which this event is written.
    pub const fn event_type(&self) -> EventType {
        match self {
            Self::Created(_) => Self::TYPES[0],
            Self::Cleared(_) => Self::TYPES[1],
            Self::Acknowledged(_) => Self::TYPES[2],
        }
    }

    /// Whether this is the name and the version of acknowledgements that this build reads.
    pub fn is_acknowledged(name: &str, version: u16) -> bool {
        (name, version) == (Self::TYPES[2].name, Self::TYPES[2].version)
    }

    /// The broadcast that the event is about.
    pub const fn broadcast_id(&self) -> BroadcastId {
        match self {
            Self::Created(broadcast) => broadcast.id,
            Self::Cleared(cleared) => cleared.broadcast_id,
            Self::Acknowledged(acknowledged) => acknowledged.broadcast_id,
        }
    }

    /// The body as JSON.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Created(broadcast) => serde_json::to_vec(broadcast),
            Self::Cleared(cleared) => serde_json::to_vec(cleared),
            Self::Acknowledged(acknowledged) => serde_json::to_vec(acknowledged),
        }
    }

    /// Reads a body of the given type. A field that this build does not know is [`DecodeError::UnknownField`] at any level, and
    /// whatever else is wrong with the body.
    pub fn from_json(name: &str, version: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let read = match (name, version) {
            ("broadcast.created", 1) => serde_json::from_slice(body).map(Self::Created),
            ("broadcast.cleared", 1) => serde_json::from_slice(body).map(Self::Cleared),
            ("broadcast.acknowledged", 1) => serde_json::from_slice(body).map(Self::Acknowledged),
            _ => return Err(DecodeError::UnknownType),
        };
        let known = Self::TYPES.iter().find(|known| (known.name, known.version) == (name, version));
        read.map_err(|error| match known.and_then(|known| fields::first_unknown(known.fields, body)) {
            Some(field) => DecodeError::UnknownField(field),
            None => DecodeError::Malformed(error),
        })
    }
}

/// An event as the log recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its sequence in the stream, from 1.
    pub sequence: u64,
    /// When the log recorded it, by JetStream's clock.
    pub recorded_at: Timestamp,
    /// The channel, from the subject.
    pub channel: Channel,
    /// The id of the event itself.
    pub id: Uuid,
    /// Whether it is on the channel's `late` subject: recorded, but overtaken before it reached the log.
    pub late: bool,
    /// Whether it waited in the outbox of the replica that accepted it. Then `recorded_at` is not when it
    /// happened.
    pub relayed: bool,
    /// How many users and connections it was sent to, when its request had an idempotency key: the answer to every retry.
    pub sent_to: Option<SentTo>,
    /// The event.
    pub event: Event,
}
