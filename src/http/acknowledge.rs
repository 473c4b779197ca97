//! `POST /acknowledge`: a user acknowledges a broadcast.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::error::ApiError;
use super::extract::ChannelPath;
use super::headers::trace_of;
use super::identity::Principal;
use super::query::Query;
use super::request_body::{Body, Fields};
use super::respond;
use super::response_body::{Acknowledged, LocalMode, Status};
use super::state::App;
use crate::domain::BroadcastId;

/// The fields of the request.
const ACKNOWLEDGE: Fields = Fields { known: &["broadcast_id"], not_yet: &["level", "choice", "revision"] };

/// `POST /acknowledge`
pub async fn acknowledge(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    principal: Principal,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    Query::of(request.uri())?.none()?;
    let request = Body::read(request, &app, &ACKNOWLEDGE).await?;
    let id = BroadcastId::from_client(request.required("broadcast_id")?).map_err(|_| {
        ApiError::invalid("invalid_broadcast_id", "`broadcast_id` must be the id of a broadcast, a UUID.")
    })?;
    let rate_limit = app.acks.charge(&principal.user)?;
    let done = app.acks.acknowledge(channel, id, principal.user, trace_of(&headers)).await?;
    let crate::submit::Acknowledged { already, sequence } = done;
    let mode = sequence.is_none().then_some(LocalMode::Local);
    let body = Acknowledged { status: Status::Success, sequence, already, mode };
    let response = match sequence {
        Some(sequence) => respond::ok(app.projection.position_of(sequence), &body),
        None => respond::accepted(&body),
    };
    Ok(respond::with_rate_limit(response, rate_limit))
}
