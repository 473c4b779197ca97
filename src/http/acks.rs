//! Acknowledging over REST.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::json;

use super::answer;
use super::body::Body;
use super::error::ApiError;
use super::identity::Identity;
use super::request::{InChannel, trace_of};
use super::state::App;

/// `POST /acknowledge`
pub async fn acknowledge(
    State(app): State<App>,
    InChannel(channel): InChannel,
    who: Identity,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let id = body.required("broadcast_id")?.parse().map_err(|_| {
        ApiError::invalid("invalid_broadcast_id", "`broadcast_id` must be the id of a broadcast, a UUID.")
    })?;
    let standing = app.rates.acknowledge(&who.user)?;
    let done = app.acks.acknowledge(channel, id, who.user, trace_of(&headers)).await?;
    let mut reply = json!({"status": "success", "sequence": done.sequence});
    if let Some(already) = done.already {
        reply["already"] = already.into();
    }
    let answer =
        if done.sequence.is_some() { answer::ok(done.sequence, reply) } else { answer::accepted(reply) };
    Ok(answer::standing(answer, standing))
}
