//! What every request and every response passes through, in order.

mod caching;
mod host;
mod observe;
mod origin;
mod problem;
pub mod websocket_close;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};

use super::sse;
use super::state::App;

/// Adds the layers: the last one is outermost, and sees a request first and its response last.
pub fn around(router: Router<App>, app: &App) -> Router<App> {
    router
        .layer(DefaultBodyLimit::max(app.limits.max_body_bytes))
        .layer(from_fn_with_state(app.clone(), observe::time_out))
        .layer(from_fn_with_state(app.clone(), origin::check_origin))
        .layer(from_fn(host::require_host))
        .layer(from_fn(problem::problem_json))
        .layer(from_fn(sse::retry_event_stream))
        .layer(from_fn(websocket_close::close_with_reason))
        .layer(from_fn(caching::keep_private))
        .layer(from_fn_with_state(app.clone(), observe::observe))
}
