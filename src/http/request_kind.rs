//! What kind of exchange a request begins, as far as authentication and the rules of origins distinguish it.

use axum::extract::MatchedPath;
use axum::http::header::UPGRADE;
use axum::http::{Extensions, HeaderMap, Method};

/// The kind of a request, by its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A request with one response.
    Plain,
    /// An auditor's reading of the log, which may follow it.
    AuditLog,
    /// An event stream.
    EventStream,
    /// The handshake of a WebSocket.
    WebSocket,
}

impl RequestKind {
    /// By the route that the router has matched.
    pub fn of(extensions: &Extensions) -> Self {
        let route = extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        match route.rsplit_once('/') {
            Some((_, "ws")) => Self::WebSocket,
            Some(("/api/audit", "events")) => Self::AuditLog,
            Some((_, "events")) => Self::EventStream,
            _ => Self::Plain,
        }
    }

    /// Whether pages of other origins may not send such a request: it changes state, or opens a connection.
    pub fn is_protected(self, method: &Method, headers: &HeaderMap) -> bool {
        !matches!(*method, Method::GET | Method::HEAD) || headers.contains_key(UPGRADE) || self != Self::Plain
    }
}
