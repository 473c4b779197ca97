//! The body of a request: a JSON object within the size limit, read field by field, so that every mistake has its own error.

use axum::body::{Bytes, HttpBody as _};
use axum::extract::{FromRequest as _, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::error::ApiError;
use super::state::App;

/// The byte order mark in UTF-8. A parser may ignore it (RFC 8259, section 8.1), and some editors write it.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The fields of a request.
pub struct Fields {
    /// Those that are accepted.
    pub known: &'static [&'static str],
    /// Those that are reserved, and not supported yet.
    pub not_yet: &'static [&'static str],
}

/// A JSON object; an absent body reads as an empty one.
#[derive(Debug)]
pub struct Body(Map<String, Value>);

impl Body {
    /// Reads the body of a request. The headers are checked first, so that a client that waits for `100 Continue` (RFC 9110,
    /// section 10.1.1) does not send a body that is refused.
    pub async fn read(request: Request, app: &App, fields: &Fields) -> Result<Self, ApiError> {
        let is_json =
            check_headers(request.headers(), request.body().size_hint().exact(), app.limits.max_body_bytes)?;
        let arriving = timeout(app.limits.request_timeout, Bytes::from_request(request, app));
        let bytes = arriving.await.map_err(|_| ApiError::body_too_slow())?.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::body_too_large(app.limits.max_body_bytes)
            } else {
                ApiError::malformed("unreadable_body", "The request body ended early. Nothing was changed.")
            }
        })?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        if !is_json {
            return Err(ApiError::not_json());
        }
        let body = Self::parse(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes))?;
        body.check_fields(fields)?;
        Ok(body)
    }

    fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::malformed("malformed_json", "The body must be a JSON object.")),
            Err(e) => Err(ApiError::malformed("malformed_json", format!("The body is not JSON: {e}."))),
        }
    }

    /// Refuses unknown and unsupported fields: a broadcast for some users must never go to all of them.
    fn check_fields(&self, fields: &Fields) -> Result<(), ApiError> {
        for (field, value) in &self.0 {
            let (known, not_yet) = (&fields.known, &fields.not_yet);
            if not_yet.contains(&field.as_str()) {
                if !value.is_null() {
                    return Err(ApiError::not_supported(field));
                }
            } else if !known.contains(&field.as_str()) {
                return Err(ApiError::unknown_field(field, known.iter().chain(*not_yet).copied()));
            }
        }
        Ok(())
    }

    /// A string field; absent and null are the same.
    pub fn text(&self, field: &'static str) -> Result<Option<&str>, ApiError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::invalid("invalid_field", format!("`{field}` must be a string."))),
        }
    }

    /// A required string field.
    pub fn required(&self, field: &'static str) -> Result<&str, ApiError> {
        self.text(field)?.ok_or_else(|| ApiError::invalid("missing_field", format!("`{field}` is required.")))
    }
}

/// Whether a body of this length, where that is known, is JSON by the headers; or why it is refused.
fn check_headers(headers: &HeaderMap, length: Option<u64>, max: usize) -> Result<bool, ApiError> {
    let coding = |value: &HeaderValue| {
        value.to_str().map_or("?".to_owned(), |value| value.trim().to_ascii_lowercase())
    };
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !matches!(coding(value).as_str(), "identity" | ""))
    {
        return Err(ApiError::encoded());
    }
    if length.is_some_and(|length| length > max as u64) {
        return Err(ApiError::body_too_large(max));
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match content_type.is_some_and(is_json) {
        false if length.is_some_and(|length| length > 0) => Err(ApiError::not_json()),
        is_json => Ok(is_json),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
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
        for bad in [&b"[]"[..], b"{", b"\"x\"", b"{\"a\":1", b"\xff"] {
            assert!(Body::parse(bad).is_err());
        }
        assert!(Body::parse("[".repeat(10_000).as_bytes()).is_err(), "nesting is bounded");
    }

    #[test]
    fn a_field_is_known_or_refused() {
        let fields = Fields { known: &["message"], not_yet: &["audience"] };
        let judged = |text: &str| {
            let body = Body::parse(text.as_bytes()).unwrap();
            body.check_fields(&fields).map_err(|error| error.into_parts().0)
        };
        assert_eq!(judged(r#"{"message":"x"}"#), Ok(()));
        assert_eq!(judged(r#"{"message":"x","audience":null}"#), Ok(()));
        assert_eq!(judged(r#"{"message":"x","audience":{}}"#), Err("not_supported"));
        assert_eq!(judged(r#"{"message":"x","audiences":null}"#), Err("unknown_field"));
        assert_eq!(judged(r#"{"Message":"x"}"#), Err("unknown_field"));
    }

    #[test]
    fn json_is_known_by_its_media_type() {
        assert!(is_json("application/json") && is_json("Application/JSON; charset=utf-8"));
        assert!(is_json("application/problem+json"));
        assert!(!is_json("text/plain") && !is_json("") && !is_json("application/x-www-form-urlencoded"));
    }
}
