//! Sends, clears and reads broadcasts.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use super::condition;
use super::error::ApiError;
use super::extract::{ChannelPath, MinPosition};
use super::headers::{idempotency_key, trace_of};
use super::identity::{Principal, Role};
use super::query::Query;
use super::request_body::{Body, Fields};
use super::respond;
use super::response_body::{Active, Cleared, Created, Limits, Recorded, Status};
use super::state::App;
use crate::domain::message::RECOMMENDED_MESSAGE_CHARS;
use crate::domain::types::MAX_MESSAGE_CHARS;
use crate::domain::{Command, Message, Rejection, SentTo, Severity};
use crate::push::wire::BroadcastView;
use crate::submit::{IdempotencyKey, Submitted};

/// The fields of `POST /`.
const CREATE: Fields = Fields {
    known: &["message", "type"],
    not_yet: &[
        "title",
        "link",
        "actions",
        "texts",
        "audience",
        "target_user_ids",
        "target_roles",
        "publish_at",
        "expires_at",
        "repeat",
        "acknowledgement",
        "supersede",
        "priority",
    ],
};

/// The fields of `POST /clear`.
const CLEAR: Fields = Fields { known: &[], not_yet: &["broadcast_id", "all"] };

/// `POST /`
pub async fn create(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    principal: Principal,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    principal.require(&channel, &[Role::Creator])?;
    Query::of(request.uri())?.none()?;
    let rate_limit = app.rates.create(&principal.user)?;
    let (condition, key) = (condition::of_write(&headers)?, idempotency_key(&headers)?);
    let body = Body::read(request, &app, &CREATE).await?;
    let message = Message::parse(body.required("message")?)?;
    let severity = body.text("type")?.map_or(Ok(Severity::default()), |word| {
        Severity::from_word(word).ok_or_else(|| Rejection::unknown_type(word))
    })?;
    let characters = message.character_count();
    let command =
        Command::Create { channel: channel.clone(), message, severity, by: principal.user, condition };
    let (done, sent) = submit(&app, command, key, &headers).await?;
    let body = Created {
        status: Status::Success,
        id: done.broadcast,
        message: if done.late { LATE.to_owned() } else { sentence(sent, done.local) },
        character_count: characters,
        max_characters: MAX_MESSAGE_CHARS,
        sent_to_users: sent.users,
        sent_to_connections: sent.connections,
        approximate: sent.approximate,
        recorded: Recorded::of(done.local, done.sequence),
        late: done.late.then_some(true),
    };
    let position = done.sequence.and_then(|sequence| app.projection.position_of(sequence));
    let mut response = if done.local { respond::accepted(&body) } else { respond::created(position, &body) };
    response.headers_mut().extend(done.broadcast.map(condition::etag));
    Ok(respond::with_rate_limit(response, rate_limit))
}

/// Carries out a command, and counts the recipients: none where it had no effect, and under an idempotency key those of the
/// first response.
async fn submit(
    app: &App,
    command: Command,
    key: Option<&str>,
    headers: &HeaderMap,
) -> Result<(Submitted, SentTo), ApiError> {
    let channel = command.channel().clone();
    let key = key.map(|key| IdempotencyKey { key, audience: app.connected(&channel).audience() });
    let done = app.submit.lifecycle(command, key, trace_of(headers)).await?;
    let sent_to = match done.sent_to {
        _ if done.late || done.broadcast.is_none() => SentTo::default(),
        Some(sent_to) => sent_to,
        None => app.connected(&channel).audience().sent_to(done.local),
    };
    Ok((done, sent_to))
}

/// The message about a broadcast that was accepted while the log was away, and reached it after a newer one.
const LATE: &str =
    "The broadcast is recorded as late and is not shown to users: a newer one reached the log first.";

/// The message about a broadcast that was sent.
fn sentence(sent: SentTo, local: bool) -> String {
    format!("Broadcast sent successfully to {}.", audience(sent, local))
}

/// The number of users a broadcast was sent to, in words. `local`: the log does not have it yet.
fn audience(sent: SentTo, local: bool) -> String {
    let users = if sent.users == 1 { "user" } else { "users" };
    match (sent.users, local, sent.approximate) {
        (count, true, _) => {
            format!(
                "{count} connected {users} of this replica; the others receive it when the event log is available again"
            )
        }
        (count, false, true) if count != 0 => format!("about {count} connected {users}"),
        (count, ..) => format!("{count} connected {users}"),
    }
}

/// `POST /clear`
pub async fn clear(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    principal: Principal,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    principal.require(&channel, &[Role::Creator])?;
    Query::of(request.uri())?.none()?;
    let rate_limit = app.rates.clear(&principal.user)?;
    let (condition, key) = (condition::of_write(&headers)?, idempotency_key(&headers)?);
    Body::read(request, &app, &CLEAR).await?;
    let command = Command::Clear { channel: channel.clone(), by: principal.user, condition };
    let (done, cleared) = submit(&app, command, key, &headers).await?;
    let body = Cleared::new(done.broadcast, cleared, Recorded::of(done.local, done.sequence));
    let position = done.sequence.and_then(|sequence| app.projection.position_of(sequence));
    let response = if done.local { respond::accepted(&body) } else { respond::ok(position, &body) };
    Ok(respond::with_rate_limit(response, rate_limit))
}

/// `GET /active`
pub async fn active(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    principal: Principal,
    uri: Uri,
    headers: HeaderMap,
    _: MinPosition,
) -> Result<Response, ApiError> {
    Query::of(&uri)?.only(&[])?;
    let snapshot = app.projection.snapshot();
    let user = principal.user.fingerprint();
    let active = snapshot.active(&channel).filter(|active| active.acknowledged_by(user).is_none());
    let broadcast = active.map(|active| &*active.broadcast);
    let response = respond::ok(snapshot.position, &Active { broadcast: broadcast.map(BroadcastView::from) });
    Ok(match broadcast {
        Some(broadcast) => condition::tagged(response, broadcast.id, &headers),
        None => response,
    })
}

/// `GET /limits`
pub async fn limits(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    principal: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    principal.require(&channel, &[Role::Creator])?;
    Query::of(&uri)?.only(&[])?;
    let snapshot = app.projection.snapshot();
    let body = Limits {
        max_characters: MAX_MESSAGE_CHARS,
        recommended_length: RECOMMENDED_MESSAGE_CHARS,
        current_active_broadcasts: snapshot.active(&channel).is_some().into(),
        max_active_broadcasts: 1,
        types: &Severity::ALL,
    };
    Ok(respond::ok(snapshot.position, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_about_the_audience_is_right_for_one_for_many_and_for_this_replica_alone() {
        let reached = |users, approximate| SentTo { users, connections: 9, approximate };
        assert_eq!(audience(reached(0, false), false), "0 connected users");
        assert_eq!(audience(reached(1, false), false), "1 connected user");
        assert_eq!(audience(reached(2, false), false), "2 connected users");
        assert_eq!(audience(reached(20_000, true), false), "about 20000 connected users");
        assert!(audience(reached(1, true), true).starts_with("1 connected user of this replica; the others"));
    }
}
