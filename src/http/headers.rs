//! Request headers with a meaning of their own here.

use axum::http::{HeaderMap, HeaderValue};

use super::error::ApiError;
use crate::log::TraceParent;
use crate::log::trace::TRACEPARENT;

/// Asks for a response that reflects the log up to a position.
pub const MIN_POSITION: &str = "tidings-min-position";

/// The most characters of an idempotency key.
const MAX_KEY_CHARS: usize = 128;

/// The trace that a request belongs to. An invalid one is ignored.
pub fn trace_of(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::only(headers.get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes))
}

/// The key under which a request may be repeated.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().map(|key| key.trim_matches(' '));
    let key = key.filter(|key| (1..=MAX_KEY_CHARS).contains(&key.len()) && !key.contains('\t'));
    key.map(Some).ok_or_else(|| ApiError::invalid_idempotency_key(MAX_KEY_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    #[test]
    fn keys_are_short_and_visible() {
        let key = |value: &str| {
            let name = HeaderName::from_static("idempotency-key");
            let headers: HeaderMap = [(name, value.parse().unwrap())].into_iter().collect();
            idempotency_key(&headers).map(|key| key.map(str::to_owned))
        };
        assert_eq!(key(" k1 "), Ok(Some("k1".to_owned())));
        assert!(key(&"k".repeat(MAX_KEY_CHARS + 1)).is_err());
        assert!(key("").is_err());
        assert!(key("a\tb").is_err());
    }
}
