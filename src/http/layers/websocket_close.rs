//! Refuses WebSockets by close codes, which a browser shows to its page.
//!
//! A browser hides the HTTP response to a handshake from its page: there, every refusal is the close code `1006`. For a client
//! that connects with `?v=2`, a refused handshake is therefore completed (`101`), and the connection is closed at once with a
//! code for the HTTP status (`4401` for `401`) and the error code as the reason. For any other client, and for a request that is
//! no handshake of RFC 6455, the HTTP response stays as it is.

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;

use crate::http::error::{ApiError, Code};
use crate::http::handshake::{self, Upgraded};
use crate::http::identity::SUBPROTOCOL;
use crate::http::query::Query;
use crate::http::request_kind::RequestKind;
use crate::http::respond::{REFUSALS, retry_after_seconds};
use crate::http::server::closing::send_and_close;
use crate::push::frame;

/// The query parameter with the version of the live protocol.
const VERSION: &str = "v";

/// Close codes from 4000 to 4999 are for applications (RFC 6455, section 7.4.2).
const APPLICATION_CODES: u16 = 4_000;

/// The close codes of refused handshakes.
pub fn close_codes() -> [u16; 4] {
    REFUSALS.map(close_code)
}

fn close_code(status: StatusCode) -> u16 {
    APPLICATION_CODES + status.as_u16()
}

/// Refuses unknown versions of the live protocol.
pub fn check_version(uri: &Uri) -> Result<(), ApiError> {
    match Query::of(uri)?.get(VERSION) {
        None | Some("1" | "2") => Ok(()),
        Some(_) => Err(ApiError::malformed(
            "invalid_version",
            "The version of the live protocol, `v`, must be 1 or 2.",
        )),
    }
}

/// For a client with `?v=2`, completes a refused handshake and closes the connection with a code. The connection never
/// reaches the hub and does not count against the user's limit: it costs a TCP connection until it is closed.
pub async fn close_with_reason(request: Request, next: Next) -> Response {
    let is_wanted = RequestKind::of(request.extensions()) == RequestKind::WebSocket
        && Query::of(request.uri()).is_ok_and(|query| query.get(VERSION) == Some("2"));
    let handshake = if is_wanted { handshake::accept(&request, SUBPROTOCOL).ok() } else { None };
    let response = next.run(request).await;
    let (Some((mut accepted, upgrade)), true) = (handshake, REFUSALS.contains(&response.status())) else {
        return response;
    };
    let frame = frame::close(close_code(response.status()), &reason(&response));
    tokio::spawn(async move {
        if let Some(Upgraded { stream, permit: _permit, .. }) = upgrade.complete().await {
            send_and_close(stream, &frame).await;
        }
    });
    // The layers outside count and log a refusal by its error, in whatever form it goes out.
    *accepted.extensions_mut() = response.extensions().clone();
    accepted
}

/// The reason of the close frame.
#[derive(Serialize)]
struct Reason {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The error code, and when to retry, where that is known. At most 123 bytes (RFC 6455, section 5.5).
fn reason(refused: &Response) -> String {
    let code = refused.extensions().get().map_or("refused", |Code(code)| code);
    let retry_after_ms = retry_after_seconds(refused).map(|seconds| seconds.saturating_mul(1_000));
    serde_json::to_string(&Reason { code, retry_after_ms }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::identity::error::AuthError;
    use axum::response::IntoResponse as _;

    #[test]
    fn a_reason_names_the_error_and_when_to_try_again_in_at_most_123_bytes() {
        let of = |error: ApiError| reason(&error.into_response());
        assert_eq!(of(AuthError::ExpiredToken.into()), r#"{"code":"token_expired"}"#);
        let spent = crate::push::admission::Full.into();
        assert_eq!(of(spent), r#"{"code":"too_many_connections_of_user","retry_after_ms":30000}"#);
        // An error code has room for 70 characters, which none comes near.
        let code = String::leak("x".repeat(70));
        let longest = Reason { code, retry_after_ms: Some(u32::MAX.into()) };
        let longest = serde_json::to_string(&longest).unwrap();
        assert!(longest.len() <= 123, "{}", longest.len());
    }

    #[test]
    fn the_versions_of_the_live_protocol_are_1_and_2() {
        let check = |query: &str| check_version(&format!("/ws{query}").parse().unwrap());
        for known in ["", "?v=1", "?v=2", "?user_id=ann&v=2"] {
            assert_eq!(check(known), Ok(()), "{known}");
        }
        for unknown in ["?v=", "?v=0", "?v=3", "?v=02", "?v=two", "?v=2&v=1"] {
            assert!(check(unknown).is_err(), "{unknown}");
        }
    }
}
