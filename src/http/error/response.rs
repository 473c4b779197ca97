//! The error type, and the response that it becomes.

use axum::http::header::{
    CONNECTION, HeaderName, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::http::rates;
use crate::http::respond;
use crate::rate_limit::Quota;

/// Headers with the protocol that would be accepted. A reference, which keeps errors small.
pub(super) type Upgrade = &'static [(HeaderName, &'static str)];

/// Of `426` to what is no WebSocket,
pub(super) static UPGRADE_TO_WEBSOCKET: Upgrade = &[(UPGRADE, "websocket"), (CONNECTION, "Upgrade")];
/// and to one of another version than that of RFC 6455.
pub(super) static VERSION_13: Upgrade =
    &[(UPGRADE, "websocket"), (CONNECTION, "Upgrade"), (SEC_WEBSOCKET_VERSION, "13")];

/// Names and values, in this order.
type Fields = Vec<(&'static str, Value)>;

/// An error of the interface.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after_seconds: Option<u64>,
    /// The `WWW-Authenticate` challenge (RFC 6750, section 3).
    challenge: Option<&'static str>,
    /// The state of the quota that is used up.
    rate_limit: Option<Box<Quota>>,
    /// The protocol that would be accepted.
    upgrade: Option<&'static Upgrade>,
    /// Fields of this error alone.
    more: Fields,
}

/// The error code of a response, for the metrics.
#[derive(Clone, Copy, Debug)]
pub struct Code(pub &'static str);

/// Why a response is `401` or `403`, for the diagnostics.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The code of the error.
    pub code: &'static str,
    /// Its sentence, which never contains a token.
    pub message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            code,
            message,
            retry_after_seconds: None,
            challenge: None,
            rate_limit: None,
            upgrade: None,
            more: Fields::new(),
        }
    }

    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.more.push((name, value.into()));
        self
    }

    /// Adds the headers that name the protocol that would be accepted.
    pub(super) fn with_upgrade(self, upgrade: &'static Upgrade) -> Self {
        Self { upgrade: Some(upgrade), ..self }
    }

    /// Adds the `WWW-Authenticate` challenge.
    pub(super) fn with_challenge(self, challenge: &'static str) -> Self {
        Self { challenge: Some(challenge), ..self }
    }

    /// Adds the state of the quota that is used up, and when the next request is accepted.
    pub(super) fn with_rate_limit(self, quota: Quota) -> Self {
        let seconds = quota.reset_seconds;
        Self { rate_limit: Some(quota.into()), ..self.retry_after(seconds) }
    }

    /// The status code.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The code that clients match on, and the sentence for people.
    pub fn into_parts(self) -> (&'static str, String) {
        (self.code, self.message)
    }

    /// The error as problem details (RFC 9457). The type is a URN, which cannot be looked up.
    pub fn problem(&self, status: StatusCode) -> impl Serialize {
        Problem {
            kind: format!("urn:tidings:error:{}", self.code),
            title: capitalised(&self.code.replace('_', " ")),
            status: status.as_u16(),
            detail: &self.message,
            code: self.code,
            more: &self.more,
            retry_after_seconds: self.retry_after_seconds,
        }
    }

    fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            status: "error",
            code: self.code,
            message: &self.message,
            more: &self.more,
            retry_after_seconds: self.retry_after_seconds,
        }
    }
}

/// The body of an error.
#[derive(Serialize)]
struct ErrorBody<'a> {
    status: &'static str,
    code: &'static str,
    message: &'a str,
    #[serde(flatten, serialize_with = "as_fields")]
    more: &'a Fields,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

/// The same as problem details.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(flatten, serialize_with = "as_fields")]
    more: &'a Fields,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

fn as_fields<S: Serializer>(fields: &Fields, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = respond::json(self.status, &self.body());
        let headers = response.headers_mut();
        for (name, value) in self.upgrade.into_iter().copied().flatten() {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(quota) = &self.rate_limit {
            rates::write_headers(quota, &mut response);
        }
        let extensions = response.extensions_mut();
        extensions.insert(Code(self.code));
        if self.is_refusal() {
            extensions.insert(Refusal { code: self.code, message: self.message.clone() });
        }
        // For the layer that turns errors into problem details.
        extensions.insert(self);
        response
    }
}

/// Words with a capital letter at the start.
pub(super) fn capitalised(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(|first| first.to_uppercase().collect::<String>());
    first.unwrap_or_default() + letters.as_str()
}
