//! The edge: every route on one screen. Handlers parse, call and map; rules are in the domain, answers in `error.rs`.

mod acks;
mod answer;
mod body;
mod broadcasts;
pub mod error;
mod history;
pub mod identity;
mod observe;
mod operations;
mod page;
mod request;
mod sse;
pub mod state;
mod stats;
mod ws;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use error::ApiError;
use state::App;

/// The whole interface over a replica.
pub fn router(app: App) -> Router {
    let broadcast = Router::new()
        .route("/", post(broadcasts::create))
        .route("/clear", post(broadcasts::clear))
        .route("/acknowledge", post(acks::acknowledge))
        .route("/active", get(broadcasts::active))
        .route("/limits", get(broadcasts::limits))
        .route("/stats", get(stats::stats))
        .route("/history", get(history::history))
        .route("/{id}", get(history::one))
        .route("/{id}/acks", get(history::acks))
        .route("/ws", get(ws::upgrade))
        .route("/events", get(sse::events));
    // Where nobody says who they are by themselves, the page is of no use, and its addresses do not exist.
    let page = if app.serves_page { page::routes(&app.channels) } else { Router::new() };
    Router::new()
        .nest("/api/{channel}/broadcast", broadcast)
        // The seed's clients post without the slash, and some frameworks add one.
        .route("/api/{channel}/broadcast/", post(broadcasts::create))
        .layer(from_fn(identity::same_origin))
        .merge(page)
        .route("/livez", get(operations::livez))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(app.limits.max_body_bytes))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}
