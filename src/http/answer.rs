//! Answers: JSON that says which event of the log it reflects.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::rates::Standing;

/// The header that names the last event of the log that an answer reflects.
const SEQUENCE: HeaderName = HeaderName::from_static("tidings-sequence");

/// `201`: it was written, at this sequence.
pub fn created(sequence: Option<u64>, body: &Value) -> Response {
    answer(StatusCode::CREATED, sequence, body)
}

/// `202`: the log is away, and this replica has it on disk for the log.
pub fn accepted(mut body: Value) -> Response {
    if let Some(fields) = body.as_object_mut() {
        fields.remove("sequence");
        fields.insert("mode".to_owned(), "local".into());
    }
    answer(StatusCode::ACCEPTED, None, &body)
}

/// `200`: it was written at this sequence, or is read as of this sequence.
pub fn ok(sequence: Option<u64>, body: &Value) -> Response {
    answer(StatusCode::OK, sequence, body)
}

/// `200`: text as it is.
pub fn text(text: String) -> Response {
    text.into_response()
}

/// `200`: JSON, a value a line, as it comes.
pub fn ndjson(lines: Body) -> Response {
    ([(CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

/// With where the caller stands with a budget, where there is one.
pub fn standing(mut answer: Response, standing: Option<Standing>) -> Response {
    if let Some(standing) = standing {
        standing.say(&mut answer);
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
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn answer(status: StatusCode, sequence: Option<u64>, body: &Value) -> Response {
    let mut response = json(status, body);
    if let Some(sequence) = sequence {
        response.headers_mut().insert(SEQUENCE, sequence.into());
    }
    response
}
