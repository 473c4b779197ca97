//! Bodies: a JSON object within the limit, read field by field, so that every mistake gets its own sentence.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::error::ApiError;
use super::state::App;

/// A JSON object; an absent body reads as an empty one.
#[derive(Debug)]
pub struct Body(Map<String, Value>);

impl FromRequest<App> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let content_type =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let arriving = timeout(app.limits.request_timeout, Bytes::from_request(request, app));
        let bytes = arriving.await.map_err(|_| ApiError::body_too_slow())?.map_err(|rejection| {
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::body_too_large(app.limits.max_body_bytes)
            } else {
                ApiError::malformed("unreadable_body", "The request's body broke off.")
            }
        })?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        if !content_type.is_some_and(|kind| is_json(&kind)) {
            return Err(ApiError::not_json());
        }
        Self::parse(&bytes)
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

impl Body {
    fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::malformed("malformed_json", "The body must be a JSON object.")),
            Err(e) => Err(ApiError::malformed("malformed_json", format!("The body is not JSON: {e}."))),
        }
    }

    /// A field that is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(|value| !value.is_null())
    }

    /// A string field; absent and null are the same.
    pub fn text(&self, field: &'static str) -> Result<Option<&str>, ApiError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::invalid("invalid_field", format!("`{field}` must be a string."))),
        }
    }

    /// A string field that has to be there.
    pub fn required(&self, field: &'static str) -> Result<&str, ApiError> {
        self.text(field)?.ok_or_else(|| ApiError::invalid("missing_field", format!("`{field}` is missing.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_objects_with_strings() {
        let body = Body::parse(br#"{"a":"x","b":null,"c":1}"#).unwrap();
        assert_eq!(body.text("a"), Ok(Some("x")));
        assert_eq!(body.text("b"), Ok(None));
        assert!(body.text("c").is_err());
        assert!(body.required("d").is_err());
        assert!(body.has("c") && !body.has("b") && !body.has("d"));
        for bad in [&b"[]"[..], b"{", b"\"x\"", b"{\"a\":1", b"\xff"] {
            assert!(Body::parse(bad).is_err());
        }
        assert!(Body::parse("[".repeat(10_000).as_bytes()).is_err(), "nesting is bounded");
    }

    #[test]
    fn json_is_known_by_its_media_type() {
        assert!(is_json("application/json") && is_json("Application/JSON; charset=utf-8"));
        assert!(is_json("application/problem+json"));
        assert!(!is_json("text/plain") && !is_json("") && !is_json("application/x-www-form-urlencoded"));
    }
}
