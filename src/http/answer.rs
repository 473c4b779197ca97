//! Answers: JSON that says which position in the log it reflects.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::rates::RateLimitState;
use crate::json;
use crate::log::Position;

/// The header that names the position in the log that an answer reflects.
const POSITION: HeaderName = HeaderName::from_static("tidings-position");

/// `201`: it was written, at this position.
pub fn created(position: Option<Position>, body: &Value) -> Response {
    answer(StatusCode::CREATED, position, body)
}

/// `202`: the log is away, and this replica has it on disk for the log.
pub fn accepted(mut body: Value) -> Response {
    if let Some(fields) = body.as_object_mut() {
        fields.remove("sequence");
        fields.insert("mode".to_owned(), "local".into());
    }
    answer(StatusCode::ACCEPTED, None, &body)
}

/// `200`: it was written at this position, or is read as of it.
pub fn ok(position: Option<Position>, body: &Value) -> Response {
    answer(StatusCode::OK, position, body)
}

/// `200`: text as it is, and the position that it reflects.
pub fn text(position: Option<Position>, text: String) -> Response {
    at(position, text.into_response())
}

/// The header by which nginx is told to pass on what comes as it comes.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `200`: JSON, a value a line, as it comes: not to be held back on its way, as an event stream is not.
pub fn ndjson(position: Option<Position>, lines: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson"),
        (CACHE_CONTROL, "no-store, no-transform"),
        (UNBUFFERED, "no"),
    ];
    at(position, (headers, lines).into_response())
}

/// `200`: an event stream. Its charset is said for readers that would guess Latin-1; it is not to be buffered (nginx),
/// transformed or compressed on its way, any of which would hold events back.
pub fn event_stream(events: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-cache, no-transform"),
        (UNBUFFERED, "no"),
    ];
    (headers, events).into_response()
}

/// Whether this refuses for a reason that passes without anything that the client does but wait.
pub fn passes_by_itself(answer: &Response) -> bool {
    [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status())
}

/// Refusals that depend on who asks, from where and how often, or on the state of the replica: a WebSocket client may learn
/// them by close codes. Others say that the request itself is wrong, which its author sees without that.
pub const REFUSALS: [StatusCode; 4] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// After how many seconds a refused request makes sense again: the header `Retry-After`.
pub fn retry_after_seconds(refused: &Response) -> Option<u64> {
    refused.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

/// With the state of a quota, where there is one.
pub fn with_rate_limit(mut answer: Response, state: Option<RateLimitState>) -> Response {
    if let Some(state) = state {
        state.write_headers(&mut answer);
    }
    answer
}

/// `204`: there is nothing to say.
pub fn nothing() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// `304`: the caller has it already.
pub fn not_modified() -> StatusCode {
    StatusCode::NOT_MODIFIED
}

/// JSON, and a newline at its end: whoever reads it in a terminal has the prompt on a line of its own.
pub fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], json::line(body)).into_response()
}

fn answer(status: StatusCode, position: Option<Position>, body: &Value) -> Response {
    at(position, json(status, body))
}

/// Adds the position that an answer reflects.
fn at(position: Option<Position>, mut response: Response) -> Response {
    if let Some(position) = position.and_then(|position| HeaderValue::try_from(position.to_string()).ok()) {
        response.headers_mut().insert(POSITION, position);
    }
    response
}
