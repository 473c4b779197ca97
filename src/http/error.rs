//! The errors of the interface: every status code, error code and sentence.

mod conversions;
mod requests;
mod response;

use axum::http::StatusCode;

use super::excerpt::excerpt;
use crate::domain::{BroadcastId, Rejection};
use crate::log::Position;
use crate::suggest;
pub use response::{ApiError, Code, Refusal};
use response::{UPGRADE_TO_WEBSOCKET, VERSION_13};

impl ApiError {
    /// `400`: the request cannot be parsed.
    pub fn malformed(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// `404`: no such page.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address.")
    }

    /// `404`: no such channel.
    pub fn unknown_channel(name: &str) -> Self {
        let message = format!("There is no channel `{}`.", excerpt(name));
        Self::new(StatusCode::NOT_FOUND, "unknown_channel", message)
    }

    /// `404`: no such broadcast.
    pub fn unknown_broadcast(id: BroadcastId) -> Self {
        Rejection::UnknownBroadcast { id }.into()
    }

    /// `404`: the path does not name an id of a broadcast.
    pub fn no_broadcast_id(text: &str) -> Self {
        let message = format!("There is no broadcast {} in this channel.", excerpt(text));
        Self::new(StatusCode::NOT_FOUND, "unknown_broadcast", message)
    }

    /// `404`: there is no signed checkpoint.
    pub fn no_checkpoint() -> Self {
        let message = "No checkpoint signed by a trusted key exists for this log yet. Replicas sign with `--checkpoint-key`.";
        Self::new(StatusCode::NOT_FOUND, "no_checkpoint", message)
    }

    /// `405`.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "This address does not support that method.",
        )
    }

    /// `408`: the head of a request did not arrive in time.
    pub fn head_too_slow() -> Self {
        let message = "The head of the request took too long to arrive.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// `408`: the body of a request did not arrive in time.
    pub fn body_too_slow() -> Self {
        let message = "The body of the request took too long to arrive. Nothing was changed.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// `413`.
    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("The request body is too large. Maximum {limit} bytes allowed.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    /// `415`.
    pub fn not_json() -> Self {
        let message = "The body must be JSON with the header Content-Type: application/json.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// `415`: the body is compressed.
    pub fn encoded() -> Self {
        let message = "Compressed bodies are not supported: send the body without Content-Encoding.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", message)
    }

    /// `422`: an unknown field, with the known one that is spelled most like it. Unknown fields are not ignored: a misspelled
    /// audience would send a message to all users.
    pub fn unknown_field<'a>(field: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let (shown, known) = (excerpt(field), known.collect::<Vec<_>>());
        let nearest = suggest::nearest(field, &known);
        let hint = nearest.map_or_else(
            || "This request has no fields.".to_owned(),
            |nearest| format!("The nearest one is `{nearest}`."),
        );
        let message = format!("`{shown}` is not a field of this request. {hint} Nothing was changed.");
        let error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_field", message);
        error.with("field", shown).with("nearest", nearest)
    }

    /// `400`: a header that must not be repeated.
    pub fn repeated_header(name: &str) -> Self {
        let message = format!("The header {name} must not be repeated.");
        Self::malformed("repeated_header", message)
    }

    /// `400`: the header `Idempotency-Key` is malformed.
    pub fn invalid_idempotency_key(max: usize) -> Self {
        let message = format!("Idempotency-Key must have 1 to {max} visible ASCII characters.");
        Self::malformed("invalid_idempotency_key", message)
    }

    /// `400`: the minimum position is malformed.
    pub fn invalid_position() -> Self {
        let message = "Tidings-Min-Position must be a position: the Tidings-Position of an earlier response.";
        Self::malformed("invalid_position", message)
    }

    /// `422`: a field has a wrong value.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    /// `422`: a reserved field. A broadcast for some users must never go to all of them.
    pub fn not_supported(field: &str) -> Self {
        let message = format!("`{field}` is not supported by this version. Nothing was sent.");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "not_supported", message).with("field", field)
    }

    /// `426`: the address is for WebSockets. It names the protocol to upgrade to (RFC 9110, section 15.5.22).
    pub fn not_a_websocket(why: &str) -> Self {
        let message = format!("This address is for WebSocket connections only. {why}.");
        Self::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
            .with_upgrade(&UPGRADE_TO_WEBSOCKET)
    }

    /// `426`: another version of WebSockets. It names the supported one (RFC 6455, section 4.2.2).
    pub fn other_websocket_version() -> Self {
        let message = "The header Sec-WebSocket-Version must be 13.";
        Self::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message).with_upgrade(&VERSION_13)
    }

    /// `400`: the handshake of a WebSocket is malformed (RFC 6455, section 4.2.1).
    pub fn malformed_handshake(why: &str) -> Self {
        Self::malformed("malformed_handshake", format!("{why}."))
    }

    /// `503`: this replica has not read the log up to the position that was requested.
    pub fn behind(wanted: Position, have: Option<Position>) -> Self {
        let have = have.map(|have| have.to_string());
        let read = have.as_deref().unwrap_or("nothing");
        let message =
            format!("This replica has read the event log up to {read}, and {wanted} was requested.");
        Self::unavailable("behind", message).with("log_position", have)
    }

    /// `503`: this replica has not read the log up to an event that the response needs.
    pub fn behind_event(wanted: u64, have: u64) -> Self {
        let message =
            format!("This replica has read the event log up to event {have}, and event {wanted} is needed.");
        Self::unavailable("behind", message).with("sequence", have)
    }

    /// `412`: the position is of another log, or of a part that the log lost.
    pub fn other_log(wanted: Position, have: Option<Position>) -> Self {
        let message = format!(
            "The event log does not have the position {wanted}: it was replaced, or restored from a backup. Discard \
             your state, and repeat the request without a position."
        );
        let error = Self::new(StatusCode::PRECONDITION_FAILED, "other_log", message);
        have.map_or(error.clone(), |have| error.with("log_position", have.to_string()))
    }

    /// `503`: this replica has reached its limit of WebSockets and event streams.
    pub fn full() -> Self {
        Self::unavailable("too_many_connections", "This replica has reached its connection limit.")
    }

    /// `503`: this replica has reached its limit of auditors.
    pub fn busy_with_auditors() -> Self {
        Self::unavailable(
            "too_many_connections",
            "This replica has reached its limit of concurrent auditors.",
        )
        .retry_after(5)
    }

    /// `503`: the log, or the stream of checkpoints, cannot be read.
    pub fn log_away() -> Self {
        Self::unavailable("log_away", "The event log is unavailable; retrying.").retry_after(5)
    }

    /// `503`: the replica is stopping.
    pub fn stopping() -> Self {
        Self::unavailable("stopping", "This replica is stopping; another one takes over.")
    }

    /// `503`: the handler timed out. The outcome of a request that writes is unknown.
    pub fn too_slow(writes: bool) -> Self {
        let error =
            Self::unavailable("answer_timeout", "The request timed out in this replica.").retry_after(5);
        if writes { error.with("outcome", "unknown") } else { error }
    }

    /// `400`: the client speaks HTTP/2.
    pub fn not_http1() -> Self {
        Self::malformed("malformed_request", "This server speaks HTTP/1.1.")
    }

    /// `400`: the host is missing, repeated or malformed.
    pub fn no_host() -> Self {
        let message = "An HTTP/1.1 request must have exactly one valid Host header.";
        Self::malformed("malformed_request", message)
    }

    /// Whether the request was refused for its sender, its page or its host.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// `500`. The cause was logged.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error. The cause is in the diagnostics of the replica.",
        )
    }

    fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(1)
    }
}
