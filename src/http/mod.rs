//! The edge: every route on one screen. Handlers parse, call and map; rules are in the domain, answers in `error.rs`.

mod acks;
mod answer;
mod audit;
mod body;
mod broadcasts;
mod condition;
mod connection;
pub mod error;
pub mod handshake;
mod history;
pub mod identity;
pub mod limits;
mod observe;
mod operations;
mod page;
mod private;
mod problem;
pub mod rates;
pub mod refusals;
pub mod refused;
mod request;
pub mod routes;
pub mod server;
pub mod socket;
pub mod sockets;
mod sse;
pub mod state;
mod stats;
pub mod ws;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};

use crate::domain::Channel;
use error::ApiError;
use routes::Routes;
use state::App;

/// Every route: of the interface, and of the page, which has these channels.
pub fn routes(channels: &[Channel]) -> Routes {
    interface().merge(page::routes(channels))
}

fn interface() -> Routes {
    let broadcast = Routes::default()
        .post("/", broadcasts::create)
        .post("/clear", broadcasts::clear)
        .post("/acknowledge", acks::acknowledge)
        .get("/active", broadcasts::active)
        .get("/limits", broadcasts::limits)
        .get("/stats", stats::stats)
        .get("/history", history::history)
        .get("/{id}", history::one)
        .get("/{id}/acks", history::acks)
        .get("/ws", ws::upgrade)
        .get("/events", sse::events);
    let audit = Routes::default()
        .get("/events", audit::events)
        .get("/checkpoint", audit::checkpoint)
        .get("/proof", audit::proof);
    Routes::default()
        .nest("/api/{channel}/broadcast", broadcast)
        .nest("/api/audit", audit)
        // The seed's clients post without the slash, and some frameworks add one.
        .post("/api/{channel}/broadcast/", broadcasts::create)
        .get("/livez", operations::livez)
        .get("/readyz", operations::readyz)
        .get("/metrics", operations::metrics)
        .get("/openapi.yaml", operations::openapi)
        .get("/asyncapi.yaml", operations::asyncapi)
}

/// The whole interface over a replica.
pub fn router(app: App) -> Router {
    // Where nobody says who they are by themselves, the page is of no use, and its addresses do not exist.
    let routes = if app.serves_page { routes(&app.channels) } else { interface() };
    routes
        .into_router()
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(app.limits.max_body_bytes))
        .layer(from_fn_with_state(app.clone(), observe::answer_in_time))
        .layer(from_fn_with_state(app.clone(), identity::guard::guard))
        .layer(from_fn(request::names_a_host))
        .layer(from_fn(problem::as_problem))
        .layer(from_fn(sse::come_back))
        .layer(from_fn(refused::close_with_reason))
        .layer(from_fn(private::keep_private))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}
