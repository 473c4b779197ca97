//! The log for auditors: its events, the newest signed checkpoint, and proofs.

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
use crate::audit::feed::{Part, feed};
use crate::audit::proof::of_replica::prove;
use crate::domain::{BroadcastId, UserId};
use crate::log::Position;
use crate::log::provision::context;
use crate::notary::checkpoint::Signed;
use crate::notary::stream::Checkpoints;

/// Events of an answer that has an end, when the caller does not say and at most.
const PAGE: u64 = 1_000;
const MAX_PAGE: u64 = 5_000;

/// Chunks that wait for a slow reader; then its own reading of the log waits.
const CHUNKS_WAITING: usize = 4;

/// `GET /events`
pub async fn events(
    State(app): State<App>,
    who: Principal,
    uri: Uri,
    AskedPosition(wanted): AskedPosition,
) -> Result<Response, ApiError> {
    who.require_everywhere(&[Role::Auditor])?;
    let part = part(&Query::of(&uri)?.only(&["from_sequence", "limit", "follow"])?)?;
    if part.follow && app.shutdown.begun() {
        return Err(ApiError::stopping());
    }
    let lasts = who.remaining(app.clock.now());
    let of_user = app.auditing.readers_per_user.enter(&who.user)?;
    let place = place(&app.auditing.readers)?;
    let log = log(&app).await?;
    let info = log.log.info().await.map_err(|_| ApiError::log_away())?;
    let now = Position { epoch: info.epoch, sequence: info.last_sequence };
    match wanted {
        Some(wanted) if wanted.epoch != now.epoch => return Err(ApiError::other_log(wanted, Some(now))),
        Some(wanted) if wanted.sequence > now.sequence => return Err(ApiError::behind(wanted, Some(now))),
        Some(_) | None => {}
    }
    let (lines, waiting) = mpsc::channel(CHUNKS_WAITING);
    let (finish, finished) = oneshot::channel();
    tokio::spawn(async move {
        let _held = (place, of_user);
        match feed_until_stopped(feed(log, info, part, &lines), app, part, lasts).await {
            Ok(()) => drop(finish.send(())),
            Err(why) => info!("an auditor's reading of the log was cut off: {why:#}"),
        }
    });
    Ok(respond::ndjson(Some(now), body(waiting, finished)))
}

/// What goes on for ever ends when the replica stops, and whoever reads comes back to another one; or with the token.
async fn feed_until_stopped(
    feed: impl Future<Output = anyhow::Result<()>>,
    app: App,
    part: Part,
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

/// A body that ends with an error, which the reader sees as broken off, unless it was finished.
fn body(waiting: mpsc::Receiver<String>, finished: oneshot::Receiver<()>) -> Body {
    let lines = stream::unfold((waiting, Some(finished)), |(mut waiting, finished)| async move {
        if let Some(text) = waiting.recv().await {
            return Some((Ok(text), (waiting, finished)));
        }
        match finished?.await {
            Ok(()) => None,
            Err(_) => Some((Err(io::Error::other("the log could not be read to the end")), (waiting, None))),
        }
    });
    Body::from_stream(lines)
}

/// `GET /checkpoint`: as it stands in the stream.
pub async fn checkpoint(
    State(app): State<App>,
    who: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    who.require_everywhere(&[Role::Auditor])?;
    Query::of(&uri)?.only(&[])?;
    let newest = newest(&app).await?.ok_or_else(ApiError::no_checkpoint)?;
    Ok(respond::text(app.projection.position().log_position(), newest.note.to_string()))
}

/// `GET /proof`: the file that `tidings audit prove` writes.
pub async fn proof(
    State(app): State<App>,
    who: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    who.require_everywhere(&[Role::Auditor])?;
    let wanted = wanted(&Query::of(&uri)?.only(&["broadcast", "user"])?)?;
    let _place = place(&app.auditing.proofs)?;
    let newest = newest(&app).await?;
    let AuditLog { log, .. } = log(&app).await?;
    let proof = prove(&*log, &app.projection, newest, wanted, READ_TIMEOUT).await?;
    Ok(respond::text(app.projection.position().log_position(), proof.to_string()))
}

fn place(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    of.clone().try_acquire_owned().map_err(|_| ApiError::busy_with_auditors())
}

/// The log, over the connection of auditors. While the replica itself has none, that one is not waited for.
async fn log(app: &App) -> Result<AuditLog, ApiError> {
    if !app.nats.is_up() {
        return Err(ApiError::log_away());
    }
    app.auditing.connection.log().await.map_err(|_| ApiError::log_away())
}

/// The newest checkpoint of the log that the projection is of, by somebody who counts: the last one in the stream, or what
/// the notary found behind whatever else stands there.
async fn newest(app: &App) -> Result<Option<Signed>, ApiError> {
    let Some(epoch) = app.projection.position().epoch else { return Ok(None) };
    // What is asked while the connection is down waits for it.
    if !app.nats.is_up() {
        return Err(ApiError::log_away());
    }
    let known = app.auditing.newest.borrow().clone().filter(|newest| newest.epoch == epoch);
    let (trusted, known_of_notary) = (&app.auditing.trusted, known.is_some());
    let found = async {
        match Checkpoints::find(context(&app.nats.client)).await? {
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
fn part(query: &Query) -> Result<Part, ApiError> {
    let follow = match query.get("follow") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::malformed("invalid_follow", "`follow` must be true or false.")),
    };
    let from = query.get("from_sequence").map_or(Some(1), positive).ok_or_else(|| {
        ApiError::malformed("invalid_sequence", "`from_sequence` must be a sequence of the log, from 1.")
    })?;
    let limit = query.get("limit").map(|text| positive(text).filter(|limit| *limit <= MAX_PAGE));
    let limit = match limit {
        None => (!follow).then_some(PAGE),
        Some(Some(limit)) => Some(limit),
        Some(None) => {
            let message = format!("`limit` must be a number from 1 to {MAX_PAGE}.");
            return Err(ApiError::malformed("invalid_limit", message));
        }
    };
    Ok(Part { from, limit, follow })
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
    let user = user.map_err(|why| ApiError::malformed("invalid_user", format!("Not a user: {why}.")))?;
    Ok((broadcast, user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x{text}").parse().unwrap()).ok().unwrap()
    }

    #[test]
    fn a_part_has_an_end_unless_it_follows() {
        let part = |text: &str| part(&query(text));
        assert_eq!(part(""), Ok(Part { from: 1, limit: Some(PAGE), follow: false }));
        let some = Part { from: 7, limit: Some(MAX_PAGE), follow: false };
        assert_eq!(part("?from_sequence=7&limit=5000&follow=false"), Ok(some));
        assert_eq!(part("?follow=true"), Ok(Part { from: 1, limit: None, follow: true }));
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
