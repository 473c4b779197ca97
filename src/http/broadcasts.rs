//! Sending, clearing and reading broadcasts.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer;
use super::body::Body;
use super::error::ApiError;
use super::identity::{Identity, Role};
use super::request::{Fresh, InChannel, idempotency_key, if_match, trace_of};
use super::state::App;
use crate::domain::types::{MAX_MESSAGE_CHARS, RECOMMENDED_MESSAGE_CHARS};
use crate::domain::{Command, Kind, Message};
use crate::push::counts::Reached;
use crate::push::wire::BroadcastView;

/// Fields that the interface has and this build does not.
const NOT_YET: [&str; 5] = ["target_user_ids", "target_roles", "expires_at", "publish_at", "link"];

/// `POST /`
pub async fn create(
    State(app): State<App>,
    InChannel(channel): InChannel,
    who: Identity,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    who.require(&channel, &[Role::Creator])?;
    let standing = app.rates.create(&who.user)?;
    if let Some(field) = NOT_YET.into_iter().find(|field| body.has(field)) {
        return Err(ApiError::not_supported(field));
    }
    let message = Message::parse(body.required("message")?)?;
    let kind = body.text("type")?.map_or(Ok(Kind::default()), Kind::parse)?;
    let characters = message.character_count();
    let command = Command::Create {
        channel: channel.clone(),
        message,
        kind,
        by: who.user,
        if_active: if_match(&headers)?,
    };
    let done = app.submit.lifecycle(command, idempotency_key(&headers)?, trace_of(&headers)).await?;
    let sent = app.connected(&channel).reached(done.local);
    let reply = json!({
        "status": "success",
        "id": done.broadcast,
        "message": format!("Broadcast sent successfully to {}.", audience(sent, done.local)),
        "character_count": characters,
        "max_characters": MAX_MESSAGE_CHARS,
        "sent_to_users": sent.users,
        "sent_to_connections": sent.connections,
        "approximate": sent.approximate,
        "sequence": done.sequence,
    });
    let answer = if done.local { answer::accepted(reply) } else { answer::created(done.sequence, reply) };
    Ok(answer::standing(answer, standing))
}

/// How many users a broadcast reached, in words. `local`: the log does not have it yet.
fn audience(reached: Reached, local: bool) -> String {
    let users = if reached.users == 1 { "user" } else { "users" };
    match (reached.users, local, reached.approximate) {
        (count, true, _) => {
            format!(
                "{count} connected {users} of this replica; the others get it when the event log answers again"
            )
        }
        (count, false, true) if count != 0 => format!("about {count} connected {users}"),
        (count, ..) => format!("{count} connected {users}"),
    }
}

/// `POST /clear`
pub async fn clear(
    State(app): State<App>,
    InChannel(channel): InChannel,
    who: Identity,
    headers: HeaderMap,
    _: Body,
) -> Result<Response, ApiError> {
    who.require(&channel, &[Role::Creator])?;
    let command = Command::Clear { channel: channel.clone(), by: who.user, if_active: if_match(&headers)? };
    let done = app.submit.lifecycle(command, idempotency_key(&headers)?, trace_of(&headers)).await?;
    let nothing = Reached { users: 0, connections: 0, approximate: false };
    let cleared = done.broadcast.map_or(nothing, |_| app.connected(&channel).reached(done.local));
    let reply = json!({
        "status": "success",
        "message": "Broadcast cleared successfully",
        "cleared_for_users": cleared.users,
        "cleared_for_connections": cleared.connections,
        "approximate": cleared.approximate,
        "broadcast_id": done.broadcast,
        "sequence": done.sequence,
    });
    Ok(if done.local { answer::accepted(reply) } else { answer::ok(done.sequence, reply) })
}

/// `GET /active`
pub async fn active(
    State(app): State<App>,
    InChannel(channel): InChannel,
    who: Identity,
    _: Fresh,
) -> Response {
    let (sequence, broadcast) = app.projection.read(|view| {
        let open = |id| view.acknowledged_at(id, &who.user).is_none();
        let active = view.active(&channel).filter(|active| open(active.broadcast.id));
        let view = active.map(|active| json!(BroadcastView::from(&active.broadcast)));
        (app.projection.position().sequence, view)
    });
    answer::ok(Some(sequence), json!({"broadcast": broadcast}))
}

/// `GET /limits`
pub async fn limits(
    State(app): State<App>,
    InChannel(channel): InChannel,
    who: Identity,
    _: Fresh,
) -> Result<Json<Value>, ApiError> {
    who.require(&channel, &[Role::Creator])?;
    let active = app.projection.read(|view| view.active(&channel).is_some());
    Ok(Json(json!({
        "max_characters": MAX_MESSAGE_CHARS,
        "recommended_length": RECOMMENDED_MESSAGE_CHARS,
        "current_active_broadcasts": u8::from(active),
        "max_active_broadcasts": 1,
        "types": Kind::ALL,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_about_the_audience_is_right_for_one_for_many_and_for_this_replica_alone() {
        let reached = |users, approximate| Reached { users, connections: 9, approximate };
        assert_eq!(audience(reached(0, false), false), "0 connected users");
        assert_eq!(audience(reached(1, false), false), "1 connected user");
        assert_eq!(audience(reached(2, false), false), "2 connected users");
        assert_eq!(audience(reached(20_000, true), false), "about 20000 connected users");
        assert!(audience(reached(1, true), true).starts_with("1 connected user of this replica; the others"));
    }
}
