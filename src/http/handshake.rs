//! A WebSocket's handshake (RFC 6455, section 4.2), after which the connection leaves the HTTP server as a bare TCP stream.

use std::sync::{Arc, Mutex, PoisonError};

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
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mio::net::TcpStream;
use sha1::{Digest as _, Sha1};

use super::error::ApiError;
use super::server::socket_limit::SocketPermit;

/// What a server adds to a client's key before it hashes it (RFC 6455, section 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The answer to a request for a WebSocket, and where to say what becomes of the connection then; or what is
/// missing. Of the subprotocols that the client offers, this one is taken.
pub fn begin(request: &Request, subprotocol: &str) -> Result<(Response, Arc<Handover>), ApiError> {
    let accept = accepted(request)?;
    let handover = request.extensions().get::<Arc<Handover>>();
    let handover =
        handover.ok_or_else(|| ApiError::not_a_websocket("They begin on a connection of this server"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    response.headers_mut().extend(headers);
    // In the client's spelling: a browser closes the connection when it is answered another one.
    let offered = word(request.headers(), &SEC_WEBSOCKET_PROTOCOL, subprotocol);
    if let Some(offered) = offered.and_then(|offered| HeaderValue::from_str(offered).ok()) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offered);
    }
    Ok((response, handover.clone()))
}

/// What becomes of a connection.
pub(super) type Then = Box<dyn FnOnce(Opened) -> BoxFuture<'static, ()> + Send>;

/// Who takes a connection over after its handshake: said by a handler, asked by the server when the answer is made. The server
/// puts one into the extensions of each request.
#[derive(Default)]
pub struct Handover(Mutex<Option<Then>>);

impl Handover {
    /// The connection goes to this one, if nothing gets between it and the answer of the handshake.
    pub fn then<F: Future<Output = ()> + Send + 'static>(
        &self,
        take_over: impl FnOnce(Opened) -> F + Send + 'static,
    ) {
        let then: Then = Box::new(|opened| take_over(opened).boxed());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(then);
    }

    /// Whoever it was.
    pub(super) fn take(&self) -> Option<Then> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A connection after its handshake, but for the sending of the answer.
pub struct Opened {
    /// Out of the runtime's hands; it does not block.
    pub stream: TcpStream,
    /// The answer, which the client is still to be sent, before anything else.
    pub answer: Bytes,
    /// What was read of it already.
    pub read: Bytes,
    /// Its place among those that the server takes, to be kept until it is over.
    pub place: Arc<SocketPermit>,
}

/// The answer to a client's key; or why this is no handshake (RFC 6455, section 4.2.1).
fn accepted(request: &Request) -> Result<HeaderValue, ApiError> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return Err(ApiError::not_a_websocket("They begin with HTTP/1.1"));
    }
    if !has_word(headers, &CONNECTION, "upgrade") {
        return Err(ApiError::not_a_websocket("The header Connection must contain upgrade"));
    }
    if !has_word(headers, &UPGRADE, "websocket") {
        return Err(ApiError::not_a_websocket("The header Upgrade must be websocket"));
    }
    // The route of GET answers HEAD too.
    if request.method() != Method::GET {
        return Err(ApiError::malformed_handshake("The handshake of a WebSocket is a GET request"));
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

/// Whether a header that lists words has this one.
fn has_word(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    word(headers, name, wanted).is_some()
}

/// A word of a header that lists words, as it is spelled there.
fn word<'a>(headers: &'a HeaderMap, name: &HeaderName, wanted: &str) -> Option<&'a str> {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).find(|other| other.eq_ignore_ascii_case(wanted))
}
