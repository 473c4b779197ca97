//! Counts and logs every request: its route, status and duration. Its query and body are never logged: they may contain
//! secrets.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::timeout;
use tracing::{Instrument as _, debug};

use crate::http::error::{ApiError, Code, Refusal};
use crate::http::headers::trace_of;
use crate::http::state::App;
use crate::log::TraceParent;
use crate::metrics::{ByReason, ByRequest, ByRoute, Metrics};

/// The ends of the routes that open connections.
const CONNECTING: [&str; 2] = ["/broadcast/ws", "/broadcast/events"];

/// Runs a request in the span of its trace, and counts it when its response begins.
pub async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let span = TraceParent::span(trace_of(request.headers()));
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_default();
    let begun = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let took = begun.elapsed();
    let status = response.status();
    span.in_scope(|| {
        debug!(
            http.request.method = method,
            http.route = route,
            http.response.status_code = status.as_u16(),
            duration_ms = took.as_secs_f64() * 1_000.0,
            "answered a request"
        );
    });
    if let Some(refusal) = response.extensions().get::<Refusal>() {
        span.in_scope(|| app.refusal_log.log(status, refusal, &route));
    }
    if let Some(Code(code)) = response.extensions().get()
        && CONNECTING.iter().any(|end| route.ends_with(end))
    {
        app.metrics.connections_refused.get_or_create(&ByReason::error(code)).inc();
    }
    count(&app.metrics, method, route, status, took);
    response
}

/// Times out a handler with `503`. What the request began to write may still be written. This layer is the innermost one, so
/// that its response passes through all others.
pub async fn time_out(State(app): State<App>, request: Request, next: Next) -> Response {
    within(app.limits.answer_timeout, request, next).await
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    let writes = !request.method().is_safe();
    let response = timeout(limit, next.run(request)).await;
    response.unwrap_or_else(|_| ApiError::too_slow(writes).into_response())
}

fn count(metrics: &Metrics, method: &'static str, route: String, status: StatusCode, took: Duration) {
    let labels = ByRoute { method, route };
    metrics.http_durations.get_or_create(&labels).observe(took.as_secs_f64());
    let request = ByRequest { method, route: labels.route, status: status.as_u16().into() };
    metrics.http_requests.get_or_create(&request).inc();
}

/// Clients may invent methods; the set of labels is bounded.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::from_fn;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use serde_json::Value;

    async fn response_to(method: Method) -> (u16, Value) {
        let patient = from_fn(|request, next| within(Duration::from_secs(13), request, next));
        let router = Router::new().fallback(std::future::pending::<()>).layer(patient);
        let request = Request::builder().method(method).body(Body::empty()).unwrap();
        let response = TowerToHyperService::new(router).call(request).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&to_bytes(response.into_body(), 4_096).await.unwrap()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_never_returns_is_timed_out() {
        let (status, read) = response_to(Method::GET).await;
        assert_eq!((status, &read["code"], &read["outcome"]), (503, &"answer_timeout".into(), &Value::Null));
        let (status, write) = response_to(Method::POST).await;
        assert_eq!((status, &write["outcome"]), (503, &"unknown".into()));
    }
}
