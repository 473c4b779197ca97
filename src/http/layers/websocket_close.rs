//! The refusal of a WebSocket, in a form that a browser shows to its page.
//!
//! A browser hides the HTTP answer to a handshake from its page: there, every refusal is the close code `1006`. For a client
//! that asks with `?v=2`, a refused handshake is therefore completed (`101`), and the connection closed at once with a code
//! that names the HTTP status (`4401` stands for `401`) and a reason that has the error code. For any other client, and for a
//! request that is no handshake of RFC 6455, the HTTP answer stays as it is.

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;
use tokio::net::TcpStream;
use tracing::debug;

use crate::http::error::{ApiError, Code};
use crate::http::handshake::{self, Opened};
use crate::http::identity::SUBPROTOCOL;
use crate::http::query::Query;
use crate::http::request_kind::RequestKind;
use crate::http::respond::{REFUSALS, retry_after_seconds};
use crate::http::server::closing::send_and_close;
use crate::push::frame;

/// The parameter of a WebSocket's address that names the version of the live protocol.
const VERSION: &str = "v";

/// 4000 to 4999 are the application's own codes (RFC 6455, section 7.4.2).
const OWN_CODES: u16 = 4_000;

/// The close codes of refused handshakes.
pub fn close_codes() -> [u16; 4] {
    REFUSALS.map(close_code)
}

fn close_code(status: StatusCode) -> u16 {
    OWN_CODES + status.as_u16()
}

/// Refuses a version of the live protocol that does not exist.
pub fn check_version(uri: &Uri) -> Result<(), ApiError> {
    match Query::of(uri)?.get(VERSION) {
        None | Some("1" | "2") => Ok(()),
        Some(_) => {
            Err(ApiError::malformed("invalid_version", "The version `v` of the live protocol is 1 or 2."))
        }
    }
}

/// Answers a refused handshake of a client that asks with `?v=2` by a close code. The connection is no member of the hub and
/// takes no place of its user: it costs a TCP connection, for the time that `close` allows.
pub async fn close_with_reason(request: Request, next: Next) -> Response {
    let asked = RequestKind::of(request.extensions()) == RequestKind::WebSocket
        && Query::of(request.uri()).is_ok_and(|query| query.get(VERSION) == Some("2"));
    let handshake = if asked { handshake::begin(&request, SUBPROTOCOL).ok() } else { None };
    let answer = next.run(request).await;
    let (Some((mut accepted, handover)), true) = (handshake, REFUSALS.contains(&answer.status())) else {
        return answer;
    };
    let frame = frame::close(close_code(answer.status()), &reason(&answer));
    handover.then(move |opened| say(opened, frame));
    // Refusals are counted and logged by their error, in whatever form they go out.
    *accepted.extensions_mut() = answer.extensions().clone();
    accepted
}

/// The reason of the close frame.
#[derive(Serialize)]
struct Reason {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The error code, and after how long a new attempt makes sense, where that is known. At most 123 bytes, as RFC 6455 demands.
fn reason(refused: &Response) -> String {
    let code = refused.extensions().get().map_or("refused", |Code(code)| code);
    let retry_after_ms = retry_after_seconds(refused).map(|seconds| seconds.saturating_mul(1_000));
    serde_json::to_string(&Reason { code, retry_after_ms }).unwrap_or_default()
}

/// Sends the answer to the handshake and the close frame, and closes.
async fn say(Opened { stream, answer, place: _place, .. }: Opened, frame: Bytes) {
    let stream = match TcpStream::from_std(stream.into()) {
        Ok(stream) => stream,
        Err(error) => return debug!("a refused WebSocket ended in its handshake: {error}"),
    };
    send_and_close(stream, &[answer, frame].concat()).await;
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
