//! The HTTP interface, with every route on one screen. Handlers parse a request, call the layers below and build the response;
//! errors become responses in `error.rs`.

mod acknowledge;
mod audit;
mod broadcasts;
mod condition;
pub mod error;
mod excerpt;
mod extract;
pub mod handshake;
mod headers;
mod history;
pub mod identity;
pub mod layers;
mod operations;
mod page;
mod query;
pub mod rates;
pub mod refusal_log;
mod request_body;
mod request_kind;
mod respond;
mod response_body;
pub mod routes;
pub mod server;
mod sse;
pub mod state;
mod stats;
pub mod ws;

use axum::Router;

use crate::domain::Channel;
use error::ApiError;
use routes::Routes;
use state::App;

/// Every route: of the interface, and of the page that lists these channels.
pub fn routes(channels: &[Channel]) -> Routes {
    interface().merge(page::routes(channels))
}

fn interface() -> Routes {
    let broadcast = Routes::default()
        .post("/", broadcasts::create)
        .post("/clear", broadcasts::clear)
        .post("/acknowledge", acknowledge::acknowledge)
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
        // Existing clients post without the slash, and some frameworks add one.
        .post("/api/{channel}/broadcast/", broadcasts::create)
        .get("/livez", operations::livez)
        .get("/readyz", operations::readyz)
        .get("/metrics", operations::metrics)
        .get("/openapi.yaml", operations::openapi)
        .get("/asyncapi.yaml", operations::asyncapi)
}

/// The router of a replica.
pub fn router(app: App) -> Router {
    // The page works with dev auth only; elsewhere its addresses do not exist.
    let served = if app.serves_page { routes(&app.channels) } else { interface() };
    let router = served
        .into_router()
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed());
    layers::around(router, &app).with_state(app)
}
