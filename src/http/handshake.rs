//! The handshake of a WebSocket (RFC 6455, section 4.2), after which the connection leaves the HTTP server as a TCP stream.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio::net::TcpStream;
use tracing::debug;

use super::error::ApiError;
use super::server::socket_limit::SocketPermit;
use super::server::tracked_socket::Socket;

/// What a server appends to a client's key before it hashes it (RFC 6455, section 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The response that accepts a handshake, and the connection that leaves HTTP after it; or what is wrong with the handshake.
/// The subprotocol is accepted if the client offers it.
pub fn accept(request: &Request, subprotocol: &str) -> Result<(Response, Upgrade), ApiError> {
    let accept = accept_key(request)?;
    let extensions = request.extensions();
    let upgrade = extensions.get().cloned().zip(extensions.get().cloned());
    let (on_upgrade, permit) =
        upgrade.ok_or_else(|| ApiError::not_a_websocket("This connection cannot be upgraded"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    response.headers_mut().extend(headers);
    // In the client's spelling: a browser closes the connection when the response has another one.
    let offered = word(request.headers(), &SEC_WEBSOCKET_PROTOCOL, subprotocol);
    if let Some(offered) = offered.and_then(|offered| HeaderValue::from_str(offered).ok()) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offered);
    }
    Ok((response, Upgrade { on_upgrade, permit }))
}

/// A connection that leaves HTTP when the response to its handshake is sent.
pub struct Upgrade {
    on_upgrade: OnUpgrade,
    permit: Arc<SocketPermit>,
}

/// A connection after its handshake.
pub struct Upgraded {
    /// The TCP connection.
    pub stream: TcpStream,
    /// What was read after the request.
    pub read_ahead: Bytes,
    /// The permit of the TCP connection, to be kept until it is closed.
    pub permit: Arc<SocketPermit>,
}

impl Upgrade {
    /// Waits until the response is sent. `None` when the connection ended before that.
    pub async fn complete(self) -> Option<Upgraded> {
        let upgraded =
            self.on_upgrade.await.inspect_err(|error| debug!("a handshake failed: {error}")).ok()?;
        let parts = upgraded.downcast::<TokioIo<Socket>>().ok()?;
        let stream = parts.io.into_inner().into_stream();
        Some(Upgraded { stream, read_ahead: parts.read_buf, permit: self.permit })
    }
}

/// The value of `Sec-WebSocket-Accept` for the client's key; or what is wrong with the handshake (RFC 6455, section 4.2.1).
fn accept_key(request: &Request) -> Result<HeaderValue, ApiError> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return Err(ApiError::not_a_websocket("WebSockets require HTTP/1.1"));
    }
    if !has_word(headers, &CONNECTION, "upgrade") {
        return Err(ApiError::not_a_websocket("The header Connection must contain upgrade"));
    }
    if !has_word(headers, &UPGRADE, "websocket") {
        return Err(ApiError::not_a_websocket("The header Upgrade must be websocket"));
    }
    // A route of GET also matches HEAD.
    if request.method() != Method::GET {
        return Err(ApiError::malformed_handshake("The handshake of a WebSocket must be a GET request"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::other_websocket_version());
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let accept = STANDARD
        .decode(key)
        .is_ok_and(|nonce| nonce.len() == 16)
        .then(|| STANDARD.encode(Sha1::new().chain_update(key).chain_update(MAGIC).finalize()));
    accept.and_then(|accept| HeaderValue::try_from(accept).ok()).ok_or_else(|| {
        ApiError::malformed_handshake("The header Sec-WebSocket-Key must be 16 bytes in base64")
    })
}

/// Whether a comma-separated header contains this word.
fn has_word(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    word(headers, name, wanted).is_some()
}

/// A word of a comma-separated header, as it is spelled there.
fn word<'a>(headers: &'a HeaderMap, name: &HeaderName, wanted: &str) -> Option<&'a str> {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).find(|other| other.eq_ignore_ascii_case(wanted))
}
