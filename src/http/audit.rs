//! The log for auditors: events, the newest signed checkpoint, and proofs.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::sleep;
use tracing::info;

use super::error::ApiError;
use super::extract::{AskedPosition, MinPosition};
use super::identity::{Principal, Role};
use super::query::{Query, number};
use super::respond;
use super::state::{App, READ_TIMEOUT};
use crate::audit::connection::AuditLog;
use crate::audit::feed::{Selection, feed};
use crate::audit::proof::of_replica::prove;
use crate::domain::{BroadcastId, UserId};
use crate::log::Position;
use crate::log::provision::context;
use crate::notary::checkpoint::SignedCheckpoint;
use crate::notary::stream::CheckpointStream;

/// Events of a response without `follow`: by default, and at most.
const DEFAULT_LIMIT: u64 = 1_000;
const MAX_LIMIT: u64 = 5_000;

/// Chunks that are buffered for a slow client; then the reading of the log for it waits.
const BUFFERED_CHUNKS: usize = 4;

/// `GET /events`
pub async fn events(
    State(app): State<App>,
    principal: Principal,
    uri: Uri,
    AskedPosition(wanted): AskedPosition,
) -> Result<Response, ApiError> {
    principal.require_everywhere(&[Role::Auditor])?;
    let part = part(&Query::of(&uri)?.only(&["from_sequence", "limit", "follow"])?)?;
    if part.follow && app.shutdown.begun() {
        return Err(ApiError::stopping());
    }
    let lasts = principal.remaining(app.clock.now());
    let of_user = app.auditing.readers_per_user.enter(&principal.user)?;
    let permit = try_acquire(&app.auditing.readers)?;
    let log = log(&app).await?;
    let info = log.log.info().await.map_err(|_| ApiError::log_away())?;
    let now = Position { epoch: info.epoch, sequence: info.last_sequence };
    match wanted {
        Some(wanted) if wanted.epoch != now.epoch => return Err(ApiError::other_log(wanted, Some(now))),
        Some(wanted) if wanted.sequence > now.sequence => return Err(ApiError::behind(wanted, Some(now))),
        Some(_) | None => {}
    }
    let (chunks, buffered) = mpsc::channel(BUFFERED_CHUNKS);
    let (finish, finished) = oneshot::channel();
    tokio::spawn(async move {
        let _permits = (permit, of_user);
        match feed_until_stopped(feed(log, info, part, &chunks), app, part, lasts).await {
            Ok(()) => drop(finish.send(())),
            Err(why) => info!("the stream of events to an auditor was aborted: {why:#}"),
        }
    });
    Ok(respond::ndjson(Some(now), body(buffered, finished)))
}

/// A stream that follows the log ends when the replica stops, so that the client reconnects to another one, or when the token
/// expires.
async fn feed_until_stopped(
    feed: impl Future<Output = anyhow::Result<()>>,
    app: App,
    part: Selection,
    lasts: Option<Duration>,
) -> anyhow::Result<()> {
    let ended = async {
        match lasts {
            Some(lasts) => sleep(lasts).await,
            None => std::future::pending().await,
        }
    };
    let mut shutdown = app.shutdown.clone();
    tokio::select! {
        ended_with = feed => ended_with,
        () = shutdown.wait(), if part.follow => Ok(()),
        () = ended, if part.follow => Ok(()),
    }
}

/// A body that is aborted, which the client sees as an incomplete response, unless it was finished.
fn body(buffered: mpsc::Receiver<String>, finished: oneshot::Receiver<()>) -> Body {
    let lines = stream::unfold((buffered, Some(finished)), |(mut buffered, finished)| async move {
        if let Some(text) = buffered.recv().await {
            return Some((Ok(text), (buffered, finished)));
        }
        match finished?.await {
            Ok(()) => None,
            Err(_) => Some((Err(io::Error::other("the log could not be read to the end")), (buffered, None))),
        }
    });
    Body::from_stream(lines)
}

/// `GET /checkpoint`: the signed note, as it is stored in the stream.
pub async fn checkpoint(
    State(app): State<App>,
    principal: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    principal.require_everywhere(&[Role::Auditor])?;
    Query::of(&uri)?.only(&[])?;
    let newest = newest(&app).await?.ok_or_else(ApiError::no_checkpoint)?;
    Ok(respond::text(app.projection.position().log_position(), newest.note.to_string()))
}

/// `GET /proof`: the file that `tidings audit prove` writes.
pub async fn proof(
    State(app): State<App>,
    principal: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    principal.require_everywhere(&[Role::Auditor])?;
    let wanted = wanted(&Query::of(&uri)?.only(&["broadcast", "user"])?)?;
    let _permit = try_acquire(&app.auditing.proofs)?;
    let newest = newest(&app).await?;
    let AuditLog { log, .. } = log(&app).await?;
    let proof = prove(&*log, &app.projection, newest, wanted, READ_TIMEOUT).await?;
    Ok(respond::text(app.projection.position().log_position(), proof.to_string()))
}

fn try_acquire(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    semaphore.clone().try_acquire_owned().map_err(|_| ApiError::busy_with_auditors())
}

/// The log, over the connection for auditors. While the replica itself is disconnected, that one is not waited for.
async fn log(app: &App) -> Result<AuditLog, ApiError> {
    if !app.nats.is_up() {
        return Err(ApiError::log_away());
    }
    app.auditing.connection.log().await.map_err(|_| ApiError::log_away())
}

/// The newest checkpoint by a trusted key of the log that the projection reads: the last one in the stream, or else the one
/// that the notary found.
async fn newest(app: &App) -> Result<Option<SignedCheckpoint>, ApiError> {
    let Some(epoch) = app.projection.position().epoch else { return Ok(None) };
    // A request over a connection that is down would wait for it.
    if !app.nats.is_up() {
        return Err(ApiError::log_away());
    }
    let known = app.auditing.newest.borrow().clone().filter(|newest| newest.epoch == epoch);
    let (trusted, known_of_notary) = (&app.auditing.trusted, known.is_some());
    let found = async {
        match CheckpointStream::find(context(&app.nats.client)).await? {
            Some(checkpoints) if known_of_notary => checkpoints.last_of(epoch, trusted).await,
            // The notary has not read the stream yet.
            Some(checkpoints) => checkpoints.newest_of(epoch, trusted).await,
            None => Ok(None),
        }
    };
    let found = found.await.map_err(|_: anyhow::Error| ApiError::log_away())?;
    Ok(found.or_else(|| known?.signed))
}

/// `from_sequence`, `limit` and `follow` of a query.
fn part(query: &Query) -> Result<Selection, ApiError> {
    let follow = match query.get("follow") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::malformed("invalid_follow", "`follow` must be true or false.")),
    };
    let from = query.get("from_sequence").map_or(Some(1), positive).ok_or_else(|| {
        ApiError::malformed("invalid_sequence", "`from_sequence` must be a sequence of the log, 1 or above.")
    })?;
    let limit = query.get("limit").map(|text| positive(text).filter(|limit| *limit <= MAX_LIMIT));
    let limit = match limit {
        None => (!follow).then_some(DEFAULT_LIMIT),
        Some(Some(limit)) => Some(limit),
        Some(None) => {
            let message = format!("`limit` must be a number from 1 to {MAX_LIMIT}.");
            return Err(ApiError::malformed("invalid_limit", message));
        }
    };
    Ok(Selection { from, limit, follow })
}

fn positive(text: &str) -> Option<u64> {
    number(text).filter(|number| *number > 0)
}

/// `broadcast` and `user` of a query.
fn wanted(query: &Query) -> Result<(BroadcastId, Option<UserId>), ApiError> {
    let broadcast = query.get("broadcast").map(BroadcastId::from_client);
    let broadcast = broadcast.and_then(Result::ok).ok_or_else(|| {
        ApiError::malformed("invalid_broadcast_id", "`broadcast` must be the id of a broadcast.")
    })?;
    let user = query.get("user").map(UserId::from_str).transpose();
    let user = user.map_err(|why| ApiError::malformed("invalid_user", format!("Invalid user id: {why}.")))?;
    Ok((broadcast, user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x{text}").parse().unwrap()).ok().unwrap()
    }

    #[test]
    fn events_are_limited_unless_they_follow() {
        let part = |text: &str| part(&query(text));
        assert_eq!(part(""), Ok(Selection { from: 1, limit: Some(DEFAULT_LIMIT), follow: false }));
        let some = Selection { from: 7, limit: Some(MAX_LIMIT), follow: false };
        assert_eq!(part("?from_sequence=7&limit=5000&follow=false"), Ok(some));
        assert_eq!(part("?follow=true"), Ok(Selection { from: 1, limit: None, follow: true }));
        assert_eq!(part("?follow=true&limit=2").map(|part| part.limit), Ok(Some(2)));
        for bad in ["from_sequence=0", "from_sequence=-1", "limit=0", "limit=5001", "limit=x", "follow=yes"] {
            assert!(part(&format!("?{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proof_is_of_a_broadcast_and_maybe_of_a_user() {
        let id = "0198c5a0-1111-7222-8333-444455556666";
        let of =
            |text: &str| wanted(&query(text)).map(|(id, user)| (id.to_string(), user.map(|u| u.to_string())));
        assert_eq!(of(&format!("?broadcast={id}")), Ok((id.to_owned(), None)));
        assert_eq!(of(&format!("?broadcast={id}&user=a%20b")), Ok((id.to_owned(), Some("a b".to_owned()))));
        for bad in ["", "?broadcast=x", &format!("?broadcast={id}&user=")] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
