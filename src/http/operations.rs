//! Liveness, readiness, metrics, and the descriptions of the interface.

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tracing::error;

use super::error::ApiError;
use super::respond;
use super::response_body::{Live, Readiness};
use super::state::App;
use crate::contract::{ASYNCAPI, OPENAPI};
use crate::log::stream_report::CopyState;
use crate::metrics::text::Format;
use crate::metrics::{self, ScrapeValues};
use crate::projection::Halt;
use crate::submit::mode::Mode;

/// `GET /livez`: the process answers.
pub async fn livez() -> Response {
    respond::json(StatusCode::OK, &Live { status: "ok" })
}

/// `GET /readyz`: the replica serves the current state, and is not stopping.
pub async fn readyz(State(app): State<App>) -> Response {
    let position = app.projection.position();
    let ready = app.is_ready();
    let reason = match () {
        () if ready => None,
        () if app.shutdown.begun() => Some("stopping"),
        () => Some(match position.halt {
            None if app.nats.made() == 0 && app.nats.is_login_refused() => {
                "NATS refuses the credentials of this replica; it serves the state on its disk"
            }
            None if app.nats.made() == 0 => {
                "NATS has not been reached since the start; the replica serves the state on its disk"
            }
            None if !app.has_keys() => "the signing keys of tokens (JWKS) are unavailable",
            None => "catching up with the event log",
            Some(Halt::Stalled) => {
                "the disk cannot be written; the replica serves its last state, and catches up when the disk has room"
            }
            Some(Halt::GaveUp) => "the projection was damaged repeatedly and is not rebuilt any more",
        }),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Readiness {
        status: if ready { "ok" } else { "unavailable" },
        reason,
        mode: app.submit.modes().now().as_str(),
        outbox: app.submit.outbox_stats().entries,
        epoch: position.epoch,
        sequence: position.sequence,
        head: app.projection.seen().head,
        digest: position.digest,
        diverged: position.diverged,
        warnings: app.warnings.now().iter().map(|warning| warning.code()).collect(),
    };
    respond::json(status, &body)
}

/// `GET /metrics`: OpenMetrics for clients that accept it, otherwise the text format of Prometheus.
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let format = Format::accepted(headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()));
    let text = app.metrics.in_format(format, &standing(&app)).map_err(|e| {
        error!("the metrics cannot be written: {e}");
        ApiError::internal()
    })?;
    Ok(([(CONTENT_TYPE, format.content_type()), (VARY, "Accept")], text).into_response())
}

fn standing(app: &App) -> ScrapeValues {
    let (position, seen) = (app.projection.position(), app.projection.seen());
    let (has_leader, report) = app.submit.condition().latest();
    let servers = |state| report.servers.values().filter(|known| **known == state).count();
    let stream = metrics::StreamGauges {
        has_leader,
        servers: CopyState::ALL.map(|state| (state.as_str(), servers(state))).to_vec(),
        copies: report.copies,
        copies_wanted: report.copies_wanted,
    };
    let log = metrics::LogGauges {
        connected: app.nats.is_up(),
        connections: app.nats.made(),
        following: seen.following.is_some(),
        epoch: position.epoch.map(String::from),
        head: seen.head,
        bytes: seen.bytes.0,
        max_bytes: seen.bytes.1,
        missing: report.missing,
        stream,
    };
    let projection = metrics::ProjectionGauges {
        sequence: position.sequence,
        skipped_future: position.skipped.0,
        skipped_foreign: position.skipped.1,
        holes: position.holes,
        epoch_changes: position.epochs,
        caught_up: position.caught_up,
        stalled: position.halt == Some(Halt::Stalled),
        gave_up: position.halt == Some(Halt::GaveUp),
        diverged: position.diverged,
    };
    let queues = metrics::QueueGauges {
        acks: app.acks.waiting(),
        commands: app.submit.waiting(),
        announcements: app.projection.announcements_waiting(),
        hub_requests: app.hub.requests_waiting(),
    };
    let waiting = app.submit.outbox_stats();
    let outage = metrics::OutboxGauges {
        degraded: app.submit.modes().now() != Mode::Cluster || projection.stalled,
        entries: waiting.entries,
        bytes: waiting.bytes,
        rejected: waiting.rejected,
    };
    let keys = app.authenticator.published_keys().map(|keys| {
        let state = keys.state();
        metrics::TokenKeyGauges { keys: state.keys, age: state.age }
    });
    ScrapeValues {
        ready: app.is_ready(),
        log,
        projection,
        queues,
        outage,
        keys,
        warnings: app.warnings.now(),
    }
}

/// `GET /openapi.yaml`: the description of the REST interface.
pub async fn openapi() -> impl IntoResponse {
    yaml(OPENAPI)
}

/// `GET /asyncapi.yaml`: the description of the messages on live connections and in the log.
pub async fn asyncapi() -> impl IntoResponse {
    yaml(ASYNCAPI)
}

fn yaml(text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/yaml")], text)
}
