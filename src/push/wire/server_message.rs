//! What the server sends: messages, and their frames, which are encoded once for however many connections.

use bytes::Bytes;
use serde::Serialize;
use strum::VariantNames;
use tracing::error;

use crate::domain::{Broadcast, BroadcastId, EndReason, Message, Severity, Timestamp, UserId, in_log};
use crate::json;
use crate::log::{Epoch, Position};
use crate::push::frame::{self, Opcode};
use crate::submit::{self, AckReply, Acknowledged};

/// A broadcast as clients see it. The seed's clients read `message_type`, its REST callers `type`: both are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BroadcastView<'a> {
    id: BroadcastId,
    message: &'a Message,
    #[serde(rename = "type")]
    severity: Severity,
    message_type: Severity,
    created_by: &'a UserId,
    created_at: Timestamp,
}

impl<'a> From<&'a Broadcast> for BroadcastView<'a> {
    fn from(broadcast: &'a Broadcast) -> Self {
        Self {
            id: broadcast.id,
            message: &broadcast.message,
            severity: broadcast.severity,
            message_type: broadcast.severity,
            created_by: &broadcast.created_by,
            created_at: broadcast.created_at,
        }
    }
}

/// Whether the replica works with the log or on its own, as clients are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// With the log.
    #[default]
    Cluster,
    /// On its own, until the log has all that was accepted meanwhile.
    Local,
}

impl From<submit::mode::Mode> for Mode {
    fn from(mode: submit::mode::Mode) -> Self {
        match mode {
            submit::mode::Mode::Cluster => Self::Cluster,
            submit::mode::Mode::Local | submit::mode::Mode::Relaying => Self::Local,
        }
    }
}

/// What the server says. The names of the variants are the values of `type`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, VariantNames)]
#[serde(tag = "type", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described once, in schemas/messages/server.json")]
pub enum ServerMessage<'a> {
    /// The first message of a connection.
    Connected {
        message: &'static str,
        #[serde(flatten)]
        place: Place,
        mode: Mode,
        heartbeat_seconds: u64,
    },
    /// What this user should see now: on connect and on request.
    ActiveBroadcast {
        broadcast: Option<BroadcastView<'a>>,
        #[serde(flatten)]
        place: Place,
    },
    /// Somebody sent a broadcast; it takes the place of the one before.
    NewBroadcast {
        broadcast: BroadcastView<'a>,
        #[serde(flatten)]
        place: Place,
    },
    /// The active broadcast ended, and none took its place.
    BroadcastCleared {
        message: &'static str,
        broadcast_id: Option<BroadcastId>,
        reason: EndReason,
        #[serde(flatten)]
        place: Place,
    },
    /// This user acknowledged it on another connection.
    BroadcastAcknowledged {
        broadcast_id: BroadcastId,
        #[serde(flatten)]
        place: Place,
    },
    /// The answer to an acknowledgement. `already` is `null` when it is durable but not yet counted.
    Acknowledged {
        broadcast_id: BroadcastId,
        already: Option<bool>,
        #[serde(flatten)]
        place: Place,
    },
    /// To creators and team: how many are connected.
    StatsUpdate { stats: ConnectedStats },
    /// To creators and team: a broadcast went out.
    BroadcastSent {
        broadcast_id: BroadcastId,
        sent_to_users: u64,
        sent_to_connections: u64,
        approximate: bool,
        #[serde(flatten)]
        place: Place,
    },
    /// The replica lost the log, or has it back and all is in it.
    Mode { mode: Mode },
    /// Forget what you have; the state on connect follows.
    Resync {
        #[serde(flatten)]
        place: Place,
    },
    /// The connection's token ends soon, and the connection with it.
    Expiring { in_seconds: u64 },
    /// The answer to a refresh: the new token counts.
    Refreshed { in_seconds: u64 },
    /// The message was not understood or not accepted; the connection lives.
    Error {
        code: &'static str,
        message: String,
        /// The broadcast whose acknowledgement failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        broadcast_id: Option<BroadcastId>,
    },
}

/// The position that a message reflects: of the state, or of the event that it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Absent when the log does not have the event yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

impl Place {
    /// Of a sequence that may stand for something that is not in the log yet, in the log of this epoch.
    pub const fn of(epoch: Option<Epoch>, sequence: u64) -> Self {
        match (epoch, in_log(sequence)) {
            (Some(epoch), Some(sequence)) => Self { position: Some(Position { epoch, sequence }) },
            _ => Self { position: None },
        }
    }
}

/// What creators and team learn while they are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectedStats {
    /// Distinct users over all replicas.
    pub connected_users: u64,
    /// Connections over all replicas.
    pub connections: u64,
    /// Live replicas.
    pub replicas: u64,
    /// Whether the numbers are of sketches, not settled, or of this replica alone.
    pub approximate: bool,
}

impl ServerMessage<'_> {
    /// The first message of a connection.
    pub const fn connected(place: Place, mode: Mode, heartbeat_seconds: u64) -> Self {
        let message = "Connected to broadcast live updates";
        Self::Connected { message, place, mode, heartbeat_seconds }
    }

    /// That the active broadcast ended.
    pub const fn cleared(broadcast_id: Option<BroadcastId>, reason: EndReason, place: Place) -> Self {
        Self::BroadcastCleared { message: "Active broadcast has been cleared", broadcast_id, reason, place }
    }

    /// The reply to an acknowledgement; a sequence is one of the log of this epoch.
    pub fn ack_reply(reply: &AckReply, epoch: Option<Epoch>) -> Self {
        let broadcast_id = reply.broadcast;
        match &reply.result {
            Ok(Acknowledged { already, sequence }) => {
                let place = sequence.map_or_else(Place::default, |sequence| Place::of(epoch, sequence));
                Self::Acknowledged { broadcast_id, already: *already, place }
            }
            Err(error) => Self::Error {
                code: error.code(),
                message: error.to_string(),
                broadcast_id: Some(broadcast_id),
            },
        }
    }

    /// Encodes it, once for however many connections.
    pub fn frame(&self) -> Frame {
        let json = json::to_vec(self).unwrap_or_else(|e| {
            error!("a message does not encode: {e}");
            br#"{"type":"error","code":"internal","message":"a message could not be encoded"}"#.to_vec()
        });
        let acknowledged = match self {
            Self::BroadcastAcknowledged { broadcast_id, .. } => Some(*broadcast_id),
            _ => None,
        };
        Frame { position: self.position(), acknowledged, ..Frame::text(&json) }
    }

    /// The position that the message reflects; the `id:` of an event stream.
    const fn position(&self) -> Option<Position> {
        match self {
            Self::Connected { place, .. }
            | Self::ActiveBroadcast { place, .. }
            | Self::Resync { place }
            | Self::NewBroadcast { place, .. }
            | Self::BroadcastCleared { place, .. }
            | Self::BroadcastAcknowledged { place, .. }
            | Self::Acknowledged { place, .. }
            | Self::BroadcastSent { place, .. } => place.position,
            Self::StatsUpdate { .. }
            | Self::Mode { .. }
            | Self::Expiring { .. }
            | Self::Refreshed { .. }
            | Self::Error { .. } => None,
        }
    }
}

/// A finished text message; clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    websocket: Bytes,
    /// Of the text, at the end of the frame.
    length: usize,
    /// The position that it reflects, when it has one.
    pub position: Option<Position>,
    /// In a notice that the user acknowledged this broadcast: a connection that did so itself does not need it.
    pub acknowledged: Option<BroadcastId>,
}

impl Frame {
    /// Of a text in UTF-8 that has no position.
    pub fn text(text: &[u8]) -> Self {
        Self {
            websocket: frame::encode(Opcode::Text, text),
            length: text.len(),
            position: None,
            acknowledged: None,
        }
    }

    /// The whole frame of a WebSocket.
    pub const fn websocket(&self) -> &Bytes {
        &self.websocket
    }

    /// The text alone.
    pub fn json(&self) -> &[u8] {
        &self.websocket[self.websocket.len() - self.length..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_as_the_seeds_clients_expect() {
        let seven = Place::of(Some(Epoch::from_bits(0x1f)), 7);
        let frame = |message: ServerMessage<'_>| String::from_utf8(message.frame().json().to_vec()).unwrap();
        assert_eq!(
            frame(ServerMessage::connected(seven, Mode::Cluster, 30)),
            r#"{"type":"connected","message":"Connected to broadcast live updates","position":"000000000000001f-7","mode":"cluster","heartbeat_seconds":30}"#
        );
        assert_eq!(
            frame(ServerMessage::ActiveBroadcast { broadcast: None, place: seven }),
            r#"{"type":"active_broadcast","broadcast":null,"position":"000000000000001f-7"}"#
        );
        assert!(frame(ServerMessage::cleared(None, EndReason::Cleared, Place::default())).starts_with(
            r#"{"type":"broadcast_cleared","message":"Active broadcast has been cleared","broadcast_id":null,"reason":"cleared""#
        ));
    }
}
