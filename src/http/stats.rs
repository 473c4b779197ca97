//! The statistics of a channel, for creators and team.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::error::ApiError;
use super::extract::{ChannelPath, MinPosition};
use super::identity::{Principal, Role};
use super::query::Query;
use super::respond;
use super::response_body::{Stats, StatsEnvelope, Status, connected_users_note};
use super::state::App;
use crate::domain::types::MAX_MESSAGE_CHARS;
use crate::push::counts::Accuracy;

/// `GET /stats`
pub async fn stats(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    principal: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    principal.require(&channel, &[Role::Creator, Role::Team])?;
    Query::of(&uri)?.only(&[])?;
    let now = app.clock.now();
    let snapshot = app.projection.snapshot();
    let active = snapshot.active(&channel);
    let connected = app.connected(&channel);
    let stats = Stats {
        broadcasts_today: snapshot.created_today(&channel, now),
        active_broadcast: active.is_some(),
        active_broadcast_acknowledged: active.map(|active| active.acknowledged),
        connected_users: connected.users,
        connected_users_note: connected_users_note(&connected),
        connected_users_local: connected.users_local,
        connections: connected.connections,
        connections_local: connected.connections_local,
        approximate: connected.accuracy != Accuracy::Exact,
        replicas: connected.replicas,
        max_characters: MAX_MESSAGE_CHARS,
    };
    Ok(respond::ok(snapshot.position, &StatsEnvelope { status: Status::Success, stats }))
}
