//! Acknowledging over REST.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::json;

use super::answer;
use super::body::{Body, Fields};
use super::error::ApiError;
use super::extract::ChannelPath;
use super::headers::trace_of;
use super::identity::Principal;
use super::query::Query;
use super::state::App;
use crate::domain::BroadcastId;

/// The fields of an acknowledgement.
const ACKNOWLEDGE: Fields = Fields { known: &["broadcast_id"], not_yet: &["level", "choice", "revision"] };

/// `POST /acknowledge`
pub async fn acknowledge(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    who: Principal,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    Query::of(request.uri())?.none()?;
    let body = Body::read(request, &app, &ACKNOWLEDGE).await?;
    let id = BroadcastId::from_client(body.required("broadcast_id")?).map_err(|_| {
        ApiError::invalid("invalid_broadcast_id", "`broadcast_id` must be the id of a broadcast, a UUID.")
    })?;
    let rate_limit = app.rates.acknowledge(&who.user)?;
    let done = app.acks.acknowledge(channel, id, who.user, trace_of(&headers)).await?;
    let mut reply = json!({"status": "success", "sequence": done.sequence});
    if let Some(already) = done.already {
        reply["already"] = already.into();
    }
    let answer = match done.sequence {
        Some(sequence) => answer::ok(app.projection.place(sequence), &reply),
        None => answer::accepted(reply),
    };
    Ok(answer::with_rate_limit(answer, rate_limit))
}
