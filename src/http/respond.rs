//! Builds responses: JSON with the position in the log that it reflects, text, and streams.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;

use super::rates;
use crate::json;
use crate::log::Position;
use crate::rate_limit::Quota;

/// The header with the position in the log that a response reflects.
const POSITION: HeaderName = HeaderName::from_static("tidings-position");

/// `201`: the request is recorded in the log, at this position.
pub fn created(position: Option<Position>, body: &impl Serialize) -> Response {
    with_position(position, json(StatusCode::CREATED, body))
}

/// `202`: the log is away, and the request is recorded on the disk of this replica.
pub fn accepted(body: &impl Serialize) -> Response {
    json(StatusCode::ACCEPTED, body)
}

/// `200`: the request is recorded in the log at this position, or the body reflects the log up to it.
pub fn ok(position: Option<Position>, body: &impl Serialize) -> Response {
    with_position(position, json(StatusCode::OK, body))
}

/// `200`: text that reflects the log up to this position.
pub fn text(position: Option<Position>, text: String) -> Response {
    with_position(position, text.into_response())
}

/// The header that turns off nginx's buffering of a response.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `200`: a stream of JSON values, one a line, which proxies must not buffer.
pub fn ndjson(position: Option<Position>, lines: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson"),
        (CACHE_CONTROL, "no-store, no-transform"),
        (UNBUFFERED, "no"),
    ];
    with_position(position, (headers, lines).into_response())
}

/// `200`: an event stream. Proxies must not buffer, transform or compress it, any of which would delay events. The charset is
/// for clients that would guess Latin-1.
pub fn event_stream(events: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-cache, no-transform"),
        (UNBUFFERED, "no"),
    ];
    (headers, events).into_response()
}

/// Whether a refused request may succeed later, unchanged.
pub fn is_temporary(refused: &Response) -> bool {
    [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&refused.status())
}

/// Refusals that depend on the user, the address, the rate or the state of the replica: a WebSocket client may receive them
/// as close codes. Other errors are mistakes of the request itself, which its developer sees without that.
pub const REFUSALS: [StatusCode; 4] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// The header `Retry-After` of a refusal, in seconds.
pub fn retry_after_seconds(refused: &Response) -> Option<u64> {
    refused.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

/// With the state of a quota, where there is one.
pub fn with_rate_limit(mut response: Response, quota: Option<Quota>) -> Response {
    if let Some(quota) = quota {
        rates::write_headers(&quota, &mut response);
    }
    response
}

/// `204`: no content.
pub fn no_content() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// `304`: the client has the current version.
pub fn not_modified() -> StatusCode {
    StatusCode::NOT_MODIFIED
}

/// JSON with a newline at its end, after which a terminal shows its prompt.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match json::line(body) {
        Ok(line) => (status, [(CONTENT_TYPE, "application/json")], line).into_response(),
        Err(error) => {
            error!("a response cannot be encoded: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn with_position(position: Option<Position>, mut response: Response) -> Response {
    if let Some(position) = position.and_then(|position| HeaderValue::try_from(position.to_string()).ok()) {
        response.headers_mut().insert(POSITION, position);
    }
    response
}
