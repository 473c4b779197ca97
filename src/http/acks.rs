//! Acknowledging over REST.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::body::Body;
use super::broadcasts::written;
use super::error::ApiError;
use super::identity::Identity;
use super::request::InChannel;
use super::state::App;

/// `POST /acknowledge`
pub async fn acknowledge(
    State(app): State<App>,
    InChannel(channel): InChannel,
    who: Identity,
    body: Body,
) -> Result<Response, ApiError> {
    let id = body.required("broadcast_id")?.parse().map_err(|_| {
        ApiError::invalid("invalid_broadcast_id", "`broadcast_id` must be the id of a broadcast, a UUID.")
    })?;
    let done = app.acks.acknowledge(channel, id, who.user).await?;
    let mut answer = json!({"status": "success", "sequence": done.sequence});
    if let Some(already) = done.already {
        answer["already"] = already.into();
    }
    Ok(written(StatusCode::OK, Some(done.sequence), answer))
}
