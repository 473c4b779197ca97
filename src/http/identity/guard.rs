//! The layer that holds browsers to the rules of origins and hosts, and tells them which pages may read answers (CORS).

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, UPGRADE, VARY,
};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::rules::Page;
use crate::http::answer;
use crate::http::error::ApiError;
use crate::http::state::App;

/// What pages of other origins may send,
const HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, \
                       Tidings-Min-Position, traceparent, X-User-Id, X-User-Role";

/// and read.
const EXPOSED: &str = "ETag, RateLimit, RateLimit-Policy, Retry-After, Tidings-Position";

/// What a request does, as far as the rules of origins and places of tokens distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// One answer.
    Once,
    /// The log for an auditor, which may go on.
    Log,
    /// An event stream.
    Stream,
    /// A WebSocket.
    WebSocket,
}

impl Asks {
    /// By the route that a request has found.
    pub fn of(extensions: &Extensions) -> Self {
        let route = extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        match route.rsplit_once('/') {
            Some((_, "ws")) => Self::WebSocket,
            Some(("/api/audit", "events")) => Self::Log,
            Some((_, "events")) => Self::Stream,
            _ => Self::Once,
        }
    }
}

/// Whether a request does what a page of another origin may not have done: it changes state, or opens a connection.
pub fn is_guarded(method: &Method, headers: &HeaderMap, asks: Asks) -> bool {
    !matches!(*method, Method::GET | Method::HEAD) || headers.contains_key(UPGRADE) || asks != Asks::Once
}

/// Refuses hosts that are not this service's in dev auth, and pages of other origins on whatever changes state and on
/// connections; tells browsers which pages may read the answers. Who is no browser sends no `Origin`.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let (origins, headers) = (&app.gate.origins, request.headers());
    if origins.refuse_host(headers) {
        return ApiError::host_not_allowed(headers).into_response();
    }
    let page = origins.page(headers);
    if page == Page::Foreign && is_guarded(request.method(), headers, Asks::of(request.extensions())) {
        return ApiError::forbidden("origin_not_allowed", origins.why_not(headers)).into_response();
    }
    let Some(origin) = headers.get(ORIGIN).cloned() else { return next.run(request).await };
    let asks_first =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks_first { answer::nothing().into_response() } else { next.run(request).await };
    if page == Page::Allowed {
        permit(response.headers_mut(), origin, asks_first);
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    response
}

fn permit(headers: &mut HeaderMap, origin: HeaderValue, asks_first: bool) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    if asks_first {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    } else {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}
