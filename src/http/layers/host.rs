//! Requires one `Host` (RFC 9112, section 3.2), and refuses repeated headers where each side of a proxy might believe
//! another one.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::http::error::ApiError;
use crate::http::headers::MIN_POSITION;

/// Headers that a request to the interface has at most once (RFC 9110, section 5.3). `If-Match` may be repeated by that RFC;
/// here a list stands in one line.
const ONCE: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static(MIN_POSITION),
    header::SEC_WEBSOCKET_KEY,
    HeaderName::from_static("x-user-id"),
    HeaderName::from_static("x-user-role"),
];

/// Refuses an HTTP/1.1 request without exactly one valid `Host` (RFC 9112, section 3.2): an intermediary might route it
/// differently.
///
/// The authority of a target in absolute form takes precedence (section 3.2.2), and replaces that header.
pub async fn require_host(mut request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_valid = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (None, _) => request.version() < Version::HTTP_11,
        _ => false,
    };
    let target = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    match target {
        _ if !is_valid => return ApiError::no_host().into_response(),
        Some(Ok(target)) if is_host(&target) => drop(request.headers_mut().insert(header::HOST, target)),
        Some(_) => return ApiError::no_host().into_response(),
        None => {}
    }
    let headers = request.headers();
    let is_interface = request.uri().path().starts_with("/api/");
    let repeated = ONCE.into_iter().find(|name| is_interface && headers.get_all(name).iter().count() > 1);
    if let Some(name) = repeated {
        return ApiError::repeated_header(name.as_str()).into_response();
    }
    next.run(request).await
}

/// It may also be empty.
fn is_host(value: &HeaderValue) -> bool {
    let host = value.to_str().unwrap_or("@");
    host.is_empty() || (!host.contains('@') && host.parse::<Authority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port_and_may_be_empty() {
        let is_one = |value: &[u8]| is_host(&HeaderValue::from_bytes(value).unwrap());
        for host in [&b""[..], b"localhost", b"127.0.0.1:8000", b"[::1]:8000", b"tidings_1.internal:8000"] {
            assert!(is_one(host), "{host:?}");
        }
        for wrong in [&b"a b"[..], b"ann@localhost", b"http://localhost", b"\xff"] {
            assert!(!is_one(wrong), "{wrong:?}");
        }
    }
}
