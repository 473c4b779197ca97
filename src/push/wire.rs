//! The wire: every message of the WebSocket and of the event stream, and the codes with which a connection ends.
//!
//! `schemas/asyncapi.yaml` says the same for clients, and tests hold the running service and these lists to it.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, VariantNames};
use tracing::error;

use super::frame::{self, Opcode};
use crate::domain::{Broadcast, BroadcastId, EndReason, Kind, Message, Timestamp, UserId, in_log};
use crate::submit;

/// A broadcast as clients see it. The seed's clients read `message_type`, its REST callers `type`: both are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BroadcastView<'a> {
    id: BroadcastId,
    message: &'a Message,
    #[serde(rename = "type")]
    kind: Kind,
    message_type: Kind,
    created_by: &'a UserId,
    created_at: Timestamp,
}

impl<'a> From<&'a Broadcast> for BroadcastView<'a> {
    fn from(broadcast: &'a Broadcast) -> Self {
        Self {
            id: broadcast.id,
            message: &broadcast.message,
            kind: broadcast.kind,
            message_type: broadcast.kind,
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
    Connected { message: &'static str, sequence: u64, mode: Mode, heartbeat_seconds: u64 },
    /// What this user should see now: on connect and on request.
    ActiveBroadcast { broadcast: Option<BroadcastView<'a>>, sequence: u64 },
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
        #[serde(flatten)]
        place: Place,
    },
    /// The replica lost the log, or has it back and all is in it.
    Mode { mode: Mode },
    /// Forget what you have; the state on connect follows.
    Resync { sequence: u64 },
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

/// Where the event stands that a message is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its sequence in the log; absent when it is not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

impl Place {
    /// Of a sequence that may stand for something that is not in the log yet.
    pub const fn of(sequence: u64) -> Self {
        Self { sequence: in_log(sequence) }
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
}

impl ServerMessage<'_> {
    /// The first message of a connection.
    pub const fn connected(sequence: u64, mode: Mode, heartbeat_seconds: u64) -> Self {
        let message = "Connected to broadcast live updates";
        Self::Connected { message, sequence, mode, heartbeat_seconds }
    }

    /// That the active broadcast ended.
    pub const fn cleared(broadcast_id: Option<BroadcastId>, reason: EndReason, sequence: u64) -> Self {
        Self::BroadcastCleared {
            message: "Active broadcast has been cleared",
            broadcast_id,
            reason,
            place: Place::of(sequence),
        }
    }

    /// Encodes it, once for however many connections.
    pub fn frame(&self) -> Frame {
        let json = serde_json::to_vec(self).unwrap_or_else(|e| {
            error!("a message does not encode: {e}");
            br#"{"type":"error","code":"internal","message":"a message could not be encoded"}"#.to_vec()
        });
        Frame { sequence: self.sequence(), ..Frame::text(&json) }
    }

    /// The place in the log that the message reflects; the `id:` of an event stream.
    const fn sequence(&self) -> Option<u64> {
        match self {
            Self::Connected { sequence, .. }
            | Self::ActiveBroadcast { sequence, .. }
            | Self::Resync { sequence } => Some(*sequence),
            Self::NewBroadcast { place, .. }
            | Self::BroadcastCleared { place, .. }
            | Self::BroadcastAcknowledged { place, .. }
            | Self::Acknowledged { place, .. }
            | Self::BroadcastSent { place, .. } => place.sequence,
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
    /// The place in the log that it reflects, when it has one.
    pub sequence: Option<u64>,
}

impl Frame {
    /// Of a text in UTF-8 that is about no place in the log.
    pub fn text(text: &[u8]) -> Self {
        Self { websocket: frame::encode(Opcode::Text, text), length: text.len(), sequence: None }
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

/// A token that nobody has looked at yet. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([set])")
    }
}

/// What a client says. The names of the variants are the values of `type`, or the whole text.
#[derive(Clone, Debug, PartialEq, Eq, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum ClientMessage {
    /// `{"type":"acknowledge_broadcast","broadcast_id"}`
    #[strum(serialize = "acknowledge_broadcast")]
    Acknowledge(BroadcastId),
    /// `{"type":"get_active_broadcast"}`
    #[strum(serialize = "get_active_broadcast")]
    GetActive,
    /// `{"type":"refresh","token"}`
    Refresh(Token),
    /// The text `ping`.
    Ping,
    /// The text `pong`, the answer to our own.
    Pong,
}

impl ClientMessage {
    /// Reads a text message; the error is what the client is told.
    pub fn parse(text: &str) -> Result<Self, ServerMessage<'static>> {
        match text.trim() {
            "ping" => return Ok(Self::Ping),
            "pong" => return Ok(Self::Pong),
            _ => {}
        }
        match Plain::of(text) {
            Some(acknowledge) => Ok(Self::Acknowledge(acknowledge.broadcast_id)),
            None => Self::parse_any(text),
        }
    }

    fn parse_any(text: &str) -> Result<Self, ServerMessage<'static>> {
        let json: serde_json::Value = serde_json::from_str(text)
            .map_err(|e| error("malformed_json", format!("This is not JSON: {e}.")))?;
        let kind = json.get("type").and_then(serde_json::Value::as_str);
        match kind {
            Some("acknowledge_broadcast") => {
                let id = json.get("broadcast_id").and_then(serde_json::Value::as_str);
                let id = id.and_then(|id| id.parse().ok()).ok_or_else(|| {
                    error(
                        "invalid_broadcast_id",
                        "`broadcast_id` must be the id of a broadcast, a UUID.".to_owned(),
                    )
                })?;
                Ok(Self::Acknowledge(id))
            }
            Some("get_active_broadcast") => Ok(Self::GetActive),
            Some("refresh") => {
                let token = json.get("token").and_then(serde_json::Value::as_str);
                let token = token.ok_or_else(|| {
                    error("invalid_token", "`token` must be the new token, a string.".to_owned())
                })?;
                Ok(Self::Refresh(Token(token.to_owned())))
            }
            Some(other) => {
                let shown: String = other.chars().take(40).collect();
                Err(error("unknown_type", format!("`{}` is not a message type.", shown.escape_debug())))
            }
            None => Err(error("unknown_type", "A message is an object with a string `type`.".to_owned())),
        }
    }
}

/// An acknowledgement as clients write it. It is most of what they say, and all of it at one moment, so it is read
/// without a tree of values in between. Whatever is written in another way is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    broadcast_id: BroadcastId,
}

impl<'a> Plain<'a> {
    fn of(text: &'a str) -> Option<Self> {
        // A list of the two would be read as well.
        let read = text.starts_with('{').then(|| serde_json::from_str::<Self>(text).ok()).flatten();
        read.filter(|plain| plain.kind == "acknowledge_broadcast")
    }
}

const fn error(code: &'static str, message: String) -> ServerMessage<'static> {
    ServerMessage::Error { code, message, broadcast_id: None }
}

/// Why the server ends a connection. Never 1000: the seed's client would not come back.
#[derive(Clone, Debug, PartialEq, Eq, EnumIter)]
pub enum Close {
    /// `1012`: the replica restarts; come back after this many milliseconds.
    Restart {
        /// A hint that spreads the reconnects.
        retry_after_ms: u64,
    },
    /// `1003`: a binary message.
    Unsupported,
    /// `1013`: the replica has as many connections as it takes.
    Full,
    /// `4008`: the client does not read fast enough. Reconnecting makes it whole.
    Slow,
    /// `4401`: the token of the connection has ended. A new one opens another.
    Expired,
    /// `4010`: no sign of life for too long.
    Silent,
    /// `4011`: a message was begun and not ended for too long.
    Unfinished,
    /// `4029`: too many messages.
    TooManyMessages,
}

impl Close {
    /// The close code (RFC 6455, section 7.4; 4000 to 4999 are the application's own).
    pub const fn code(&self) -> u16 {
        match self {
            Self::Restart { .. } => 1012,
            Self::Unsupported => 1003,
            Self::Full => 1013,
            Self::Slow => 4008,
            Self::Expired => 4401,
            Self::Silent => 4010,
            Self::Unfinished => 4011,
            Self::TooManyMessages => 4029,
        }
    }

    /// The reason, at most 123 bytes.
    pub fn reason(&self) -> String {
        match self {
            Self::Restart { retry_after_ms } => format!(r#"{{"retry_after_ms":{retry_after_ms}}}"#),
            Self::Unsupported => "text messages only".to_owned(),
            Self::Full => "full".to_owned(),
            Self::Slow => "slow".to_owned(),
            Self::Expired => "expired".to_owned(),
            Self::Silent => "silent".to_owned(),
            Self::Unfinished => "unfinished".to_owned(),
            Self::TooManyMessages => "too many messages".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_messages_are_understood() {
        let id = "0198c5a0-1111-7222-8333-444455556666";
        let acknowledge = format!(r#"{{"type":"acknowledge_broadcast","broadcast_id":"{id}","more":1}}"#);
        assert_eq!(ClientMessage::parse(&acknowledge), Ok(ClientMessage::Acknowledge(id.parse().unwrap())));
        assert_eq!(ClientMessage::parse(r#"{"type":"get_active_broadcast"}"#), Ok(ClientMessage::GetActive));
        let refresh = ClientMessage::parse(r#"{"type":"refresh","token":"secret"}"#).unwrap();
        assert_eq!(format!("{refresh:?}"), "Refresh(Token([set]))");
        assert_eq!(ClientMessage::parse("ping"), Ok(ClientMessage::Ping));
        assert_eq!(ClientMessage::parse("pong"), Ok(ClientMessage::Pong));
    }

    #[test]
    fn what_is_not_understood_says_why() {
        let cases = [
            ("{", "malformed_json"),
            ("", "malformed_json"),
            ("[]", "unknown_type"),
            ("{}", "unknown_type"),
            (r#"{"type":7}"#, "unknown_type"),
            (r#"{"type":"x"}"#, "unknown_type"),
            (r#"{"type":"acknowledge_broadcast"}"#, "invalid_broadcast_id"),
            (r#"{"type":"acknowledge_broadcast","broadcast_id":"1"}"#, "invalid_broadcast_id"),
            (r#"{"type":"refresh"}"#, "invalid_token"),
            (r#"{"type":"refresh","token":7}"#, "invalid_token"),
        ];
        for (text, expected) in cases {
            match ClientMessage::parse(text) {
                Err(ServerMessage::Error { code, .. }) => assert_eq!(code, expected, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let deep = "[".repeat(4_000);
        assert!(ClientMessage::parse(&deep).is_err());
    }

    #[test]
    fn messages_look_as_the_seeds_clients_expect() {
        let frame = |message: ServerMessage<'_>| String::from_utf8(message.frame().json().to_vec()).unwrap();
        assert_eq!(
            frame(ServerMessage::connected(7, Mode::Cluster, 30)),
            r#"{"type":"connected","message":"Connected to broadcast live updates","sequence":7,"mode":"cluster","heartbeat_seconds":30}"#
        );
        assert_eq!(
            frame(ServerMessage::ActiveBroadcast { broadcast: None, sequence: 7 }),
            r#"{"type":"active_broadcast","broadcast":null,"sequence":7}"#
        );
        assert!(frame(ServerMessage::cleared(None, EndReason::Cleared, 8)).starts_with(
            r#"{"type":"broadcast_cleared","message":"Active broadcast has been cleared","broadcast_id":null,"reason":"cleared""#
        ));
    }

    #[test]
    fn an_acknowledgement_is_one_however_it_is_written() {
        let id = "0198c5a0-1111-7222-8333-444455556666";
        let kind = r#""type":"acknowledge_broadcast""#;
        let deep =
            format!(r#"{{{kind},"broadcast_id":"{id}","more":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        for text in [
            format!(r#"{{{kind},"broadcast_id":"{id}"}}"#),
            format!(r#" {{ "broadcast_id" : "{id}" , {kind} }} "#),
            format!(r#"{{{kind},"broadcast_id":"{}"}}"#, id.to_uppercase()),
            format!(r#"{{{kind},"broadcast_id":"{}"}}"#, id.replace('-', "")),
            format!(r#"{{{kind},"broadcast_id":"{{{id}}}"}}"#),
            format!(r#"{{{kind},"broadcast_id":"urn:uuid:{id}"}}"#),
            format!(r#"{{{kind},"broadcast_id":"1","broadcast_id":"{id}"}}"#),
            format!(r#"{{{kind},"broadcast_id":"{id}","broadcast_id":7}}"#),
            format!(r#"{{"type":"x","broadcast_id":"{id}",{kind}}}"#),
            format!(r#"{{"type":"acknowledge\u005fbroadcast","broadcast_id":"{id}"}}"#),
            format!(r#"{{"type":{{"acknowledge_broadcast":null}},"broadcast_id":"{id}"}}"#),
            format!(r#"{{{kind},"broadcast_id":["{id}"]}}"#),
            format!(r#"{{{kind},"broadcast_id":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}}"#),
            format!(r#"["acknowledge_broadcast","{id}"]"#),
            format!(r#"{{{kind},"broadcast_id":"{id}"}} x"#),
            format!("{{{kind}}}"),
            deep,
        ] {
            assert_eq!(ClientMessage::parse(&text), ClientMessage::parse_any(&text), "{text}");
        }
        let plain = format!(r#"{{{kind},"broadcast_id":"{id}"}}"#);
        assert!(Plain::of(&plain).is_some());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_answered(text in "\\PC{0,200}") {
            let _ = ClientMessage::parse(&text);
        }
    }
}
