//! Enforces the rules of origins and hosts, and tells browsers which pages may read responses (CORS).

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::http::error::ApiError;
use crate::http::identity::error::AuthError;
use crate::http::identity::origin_policy::{Page, host_excerpt};
use crate::http::request_kind::RequestKind;
use crate::http::respond;
use crate::http::state::App;

/// What pages of other origins may send,
const HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, \
                       Tidings-Min-Position, traceparent, X-User-Id, X-User-Role";

/// and read.
const EXPOSED: &str = "ETag, RateLimit, RateLimit-Policy, Retry-After, Tidings-Position";

/// Refuses hosts that are not this service's in dev auth, and pages of other origins on requests that change state or open
/// connections; tells browsers which pages may read the responses. Programs send no `Origin`.
pub async fn check_origin(State(app): State<App>, request: Request, next: Next) -> Response {
    let (origins, headers) = (&app.authenticator.origins, request.headers());
    let refused = |error: AuthError| ApiError::from(error).into_response();
    if origins.refuses_host(headers) {
        return refused(AuthError::HostNotAllowed { host: host_excerpt(headers) });
    }
    let page = origins.page(headers);
    let kind = RequestKind::of(request.extensions());
    if page == Page::Foreign && kind.is_protected(request.method(), headers) {
        return refused(AuthError::OriginNotAllowed(origins.explain_refusal(headers)));
    }
    let Some(origin) = headers.get(ORIGIN).cloned() else { return next.run(request).await };
    let is_preflight =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if is_preflight { respond::no_content().into_response() } else { next.run(request).await };
    if page == Page::Allowed {
        permit(response.headers_mut(), origin, is_preflight);
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    response
}

/// Adds the CORS headers. `CorsLayer` of tower-http does not fit: it answers every OPTIONS request with 200, whether it is a
/// preflight or not, and adds its headers to the responses of programs and of pages that are not allowed.
fn permit(headers: &mut HeaderMap, origin: HeaderValue, is_preflight: bool) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    if is_preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    } else {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}
