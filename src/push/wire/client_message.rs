//! What clients say on a WebSocket, and how it is read. What is not understood is answered with the reason.

use std::fmt;

use serde::Deserialize;
use strum::VariantNames;

use super::server_message::ServerMessage;
use crate::domain::BroadcastId;
use crate::suggest;

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

/// The values of `type`.
const TYPES: [&str; 3] = ["acknowledge_broadcast", "get_active_broadcast", "refresh"];

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
                judge_fields(&json, &["type", "broadcast_id"], &["level", "choice", "revision"])?;
                let Some(id) = json.get("broadcast_id") else {
                    return Err(error("invalid_broadcast_id", "`broadcast_id` is missing.".to_owned()));
                };
                let id = id.as_str().and_then(|id| BroadcastId::from_client(id).ok()).ok_or_else(|| {
                    error(
                        "invalid_broadcast_id",
                        "`broadcast_id` must be the id of a broadcast, a UUID.".to_owned(),
                    )
                })?;
                Ok(Self::Acknowledge(id))
            }
            Some("get_active_broadcast") => {
                judge_fields(&json, &["type"], &[])?;
                Ok(Self::GetActive)
            }
            Some("refresh") => {
                judge_fields(&json, &["type", "token"], &[])?;
                let token = json.get("token").and_then(serde_json::Value::as_str);
                let token = token.ok_or_else(|| {
                    error("invalid_token", "`token` must be the new token, a string.".to_owned())
                })?;
                Ok(Self::Refresh(Token(token.to_owned())))
            }
            Some(other) => {
                let shown: String = other.chars().take(40).collect();
                let message = format!(
                    "`{}` is not a message type. Use one of: {}.",
                    shown.escape_debug(),
                    TYPES.join(", ")
                );
                Err(error("unknown_type", message))
            }
            None => Err(error("unknown_type", "A message is an object with a string `type`.".to_owned())),
        }
    }
}

/// Refuses fields that this build does not carry out, as requests are refused that have some.
fn judge_fields(
    message: &serde_json::Value,
    known: &[&str],
    not_yet: &[&str],
) -> Result<(), ServerMessage<'static>> {
    for (field, value) in message.as_object().into_iter().flatten() {
        if not_yet.contains(&field.as_str()) {
            if !value.is_null() {
                return Err(error("not_supported", format!("`{field}` is not supported by this version.")));
            }
        } else if !known.contains(&field.as_str()) {
            let shown: String = field.chars().take(40).collect();
            let hint = suggest::nearest(field, known)
                .map_or_else(String::new, |near| format!(" The nearest one is `{near}`."));
            let message = format!("`{}` is not a field of this message.{hint}", shown.escape_debug());
            return Err(error("unknown_field", message));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_messages_are_understood() {
        let id = "0198c5a0-1111-7222-8333-444455556666";
        let acknowledge = format!(r#"{{"type":"acknowledge_broadcast","broadcast_id":"{id}"}}"#);
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
            (r#"{"type":"acknowledge_broadcast","broadcast_id":"1","more":1}"#, "unknown_field"),
            (r#"{"type":"acknowledge_broadcast","broadcast_id":"1","level":"seen"}"#, "not_supported"),
            (r#"{"type":"get_active_broadcast","channel":"forum"}"#, "unknown_field"),
            (r#"{"type":"refresh","token":"t","user":"7"}"#, "unknown_field"),
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
