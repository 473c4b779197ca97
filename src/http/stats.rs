//! What creators and team read about their audience.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::json;

use super::answer;
use super::error::ApiError;
use super::extract::{ChannelPath, MinPosition};
use super::identity::{Principal, Role};
use super::query::Query;
use super::state::App;
use crate::domain::message::MAX_MESSAGE_CHARS;
use crate::push::counts::Accuracy;

/// `GET /stats`
pub async fn stats(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    who: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    who.require(&channel, &[Role::Creator, Role::Team])?;
    Query::of(&uri)?.only(&[])?;
    let now = app.clock.now();
    let (position, today, active, acknowledged) = app.projection.read_at(|position, view| {
        let active = view.active(&channel);
        (
            position,
            view.channel(&channel).created_today(now),
            active.is_some(),
            active.map(|active| active.acknowledged),
        )
    });
    let connected = app.connected(&channel);
    let note = match connected.accuracy {
        Accuracy::Exact => "Distinct users over all replicas",
        Accuracy::Changing => {
            "Connections came or went in the last second: users of several replicas may count twice until the next sum"
        }
        Accuracy::Estimate => {
            "An estimate of the distinct users over all replicas; its standard error is 1.6 percent"
        }
        Accuracy::Partial => {
            "NATS is away: users of other replicas count as they were last reported, and after ten seconds not at all"
        }
    };
    let reply = json!({
        "status": "success",
        "stats": {
            "broadcasts_today": today,
            "active_broadcast": active,
            "active_broadcast_acknowledged": acknowledged,
            "connected_users": connected.users,
            "connected_users_note": note,
            "connected_users_local": connected.users_local,
            "connections": connected.connections,
            "connections_local": connected.connections_local,
            "approximate": connected.accuracy != Accuracy::Exact,
            "replicas": connected.replicas,
            "max_characters": MAX_MESSAGE_CHARS,
        },
    });
    Ok(answer::ok(position, &reply))
}
