//! The history of broadcasts and their acknowledgements, for creators and team, page by page.

use std::str::FromStr;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use thiserror::Error;

use super::error::ApiError;
use super::extract::{ChannelPath, MinPosition};
use super::identity::{Principal, Role};
use super::query::{Query, number};
use super::respond;
use super::response_body::{AcknowledgementView, Acknowledgements, History, Single, Summary};
use super::state::App;
use crate::domain::BroadcastId;

/// Entries of a page: by default, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// `GET /history`: newest first.
pub async fn history(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    principal: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    principal.require(&channel, &[Role::Creator, Role::Team])?;
    let (limit, before) = page(&uri, u64::MAX)?;
    let position = app.projection.position().log_position();
    let mut found = app.projection.history(channel, before, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.sequence.to_string());
    let broadcasts = found.iter().map(Summary::from).collect();
    Ok(respond::ok(position, &History { broadcasts, next_cursor: next }))
}

/// `GET /{id}`
pub async fn one(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    Path((_, id)): Path<(String, String)>,
    principal: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    principal.require(&channel, &[Role::Creator, Role::Team])?;
    Query::of(&uri)?.only(&[])?;
    let id = broadcast_id(&id)?;
    let position = app.projection.position().log_position();
    let found = app.projection.record(channel, id).await?.ok_or_else(|| ApiError::unknown_broadcast(id))?;
    Ok(respond::ok(position, &Single { broadcast: Summary::from(&found) }))
}

/// `GET /{id}/acks`: in the order of the log.
pub async fn acks(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    Path((_, id)): Path<(String, String)>,
    principal: Principal,
    uri: Uri,
    _: MinPosition,
) -> Result<Response, ApiError> {
    principal.require(&channel, &[Role::Creator, Role::Team])?;
    let id = broadcast_id(&id)?;
    let (limit, AckCursor(after)) = page(&uri, AckCursor((0, 0)))?;
    let position = app.projection.position().log_position();
    app.projection.record(channel, id).await?.ok_or_else(|| ApiError::unknown_broadcast(id))?;
    let mut found = app.projection.acks_after(id, after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| format!("{}-{}", last.position.0, last.position.1));
    let acknowledgements = found.iter().map(AcknowledgementView::from).collect();
    Ok(respond::ok(position, &Acknowledgements { acknowledgements, next_cursor: next }))
}

fn broadcast_id(text: &str) -> Result<BroadcastId, ApiError> {
    BroadcastId::from_client(text).map_err(|_| ApiError::no_broadcast_id(text))
}

/// The cursor of a page of acknowledgements: `{sequence}-{index}` of the last one of the page before.
struct AckCursor((u64, usize));

/// A text is not an [`AckCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a cursor of acknowledgements such as 7-2")]
pub struct InvalidAckCursor;

impl FromStr for AckCursor {
    type Err = InvalidAckCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (sequence, index) = text.split_once('-').ok_or(InvalidAckCursor)?;
        let index = number(index).and_then(|index| index.try_into().ok());
        Ok(Self((number(sequence).ok_or(InvalidAckCursor)?, index.ok_or(InvalidAckCursor)?)))
    }
}

/// `limit` and `cursor` of a query.
fn page<C: FromStr>(uri: &Uri, start: C) -> Result<(usize, C), ApiError> {
    let query = Query::of(uri)?.only(&["limit", "cursor"])?;
    let limit = query.get("limit").map_or(Some(DEFAULT_LIMIT), |limit| number(limit)?.try_into().ok());
    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        ApiError::malformed("invalid_limit", format!("`limit` must be a number from 1 to {MAX_LIMIT}."))
    })?;
    let cursor = query.get("cursor").map_or(Ok(start), str::parse).map_err(|_| {
        ApiError::malformed("invalid_cursor", "`cursor` must be the `next_cursor` of the previous page.")
    })?;
    Ok((limit, cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_a_limit_and_a_cursor() {
        let page_of = |query: &str| page::<u64>(&format!("/x{query}").parse().unwrap(), 9);
        assert_eq!(page_of(""), Ok((DEFAULT_LIMIT, 9)));
        assert_eq!(page_of("?limit=7&cursor=3"), Ok((7, 3)));
        for bad in [
            "?limit=0",
            "?limit=201",
            "?limit=x",
            "?limit=+5",
            "?limit=05",
            "?cursor=x",
            "?cursor=-1",
            "?foo=1",
        ] {
            assert!(page_of(bad).is_err(), "{bad}");
        }
        assert!("7-2".parse::<AckCursor>().is_ok_and(|cursor| cursor.0 == (7, 2)));
        assert!("7".parse::<AckCursor>().is_err() && "7-x".parse::<AckCursor>().is_err());
    }
}
