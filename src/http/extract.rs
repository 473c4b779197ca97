//! Extractors: the principal, the channel and the minimum position of a request.

use std::collections::HashMap;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::error::ApiError;
use super::headers;
use super::identity::Principal;
use super::identity::error::AuthError;
use super::query::{self, Query};
use super::state::{App, READ_TIMEOUT};
use crate::domain::Channel;
use crate::log::Position;
use crate::metrics::Counted;
use crate::projection::{Reached, Unavailable};

impl FromRequestParts<App> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        app.authenticator.of_request(parts).await.map_err(|error| refuse(app, parts, error))
    }
}

/// The principal that opens a connection: a WebSocket or an event stream.
pub struct ConnectingUser(pub Principal);

impl FromRequestParts<App> for ConnectingUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        app.rates.connect(parts)?;
        let principal = app.authenticator.of_connection(parts, app.clock.now()).await;
        principal.map(Self).map_err(|error| refuse(app, parts, error))
    }
}

/// Counts an unauthenticated request against its address: after too many of them the error is that one. A valid token from
/// the same address is accepted all the same, so that nobody locks out the other clients behind a proxy.
fn refuse(app: &App, parts: &Parts, error: AuthError) -> ApiError {
    if error.is_unauthenticated()
        && let Err(spent) = app.rates.refuse(parts)
    {
        return spent.into();
    }
    error.into()
}

/// The channel that the path names.
pub struct ChannelPath(pub Channel);

impl FromRequestParts<App> for ChannelPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Path(names) = Path::<HashMap<String, String>>::from_request_parts(parts, app)
            .await
            .map_err(|_| ApiError::not_found())?;
        let name = names.get("channel").map_or("", String::as_str);
        let known = app.channels.iter().find(|channel| channel.as_str() == name);
        known.cloned().map(Self).ok_or_else(|| ApiError::unknown_channel(name))
    }
}

/// This replica has read the log up to the position that the request asks for, if any.
pub struct MinPosition;

impl FromRequestParts<App> for MinPosition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Some(wanted) = min_position(parts)? else { return require_serving(app).map(|()| Self) };
        match wait_for(app, wanted).await? {
            Reached::OtherLog => Err(ApiError::other_log(wanted, app.projection.position().log_position())),
            Reached::Yes | Reached::Behind => require_serving(app).map(|()| Self),
        }
    }
}

/// The same for connections, which begin with the state: a position of a log that was replaced is ignored.
pub struct ConnectionMinPosition;

impl FromRequestParts<App> for ConnectionMinPosition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if let Some(wanted) = min_position(parts)? {
            wait_for(app, wanted).await?;
        }
        require_serving(app).map(|()| Self)
    }
}

/// The position that the request asks for, if any: for answers that reflect the log itself and not this replica.
pub struct AskedPosition(pub Option<Position>);

impl FromRequestParts<App> for AskedPosition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        min_position(parts).map(Self)
    }
}

/// The position in the header, or else in the query.
fn min_position(parts: &Parts) -> Result<Option<Position>, ApiError> {
    let query = Query::of(&parts.uri)?;
    let header = parts.headers.get(headers::MIN_POSITION).map(|value| value.to_str().unwrap_or(""));
    let Some(wanted) = header.or_else(|| query.get(query::MIN_POSITION)) else { return Ok(None) };
    wanted.trim().parse().map(Some).map_err(|_| ApiError::invalid_position())
}

/// Waits until this replica has read the log up to a position; an error after [`READ_TIMEOUT`].
pub async fn wait_for(app: &App, wanted: Position) -> Result<Reached, ApiError> {
    let _waiting = Counted::on(&app.metrics.reads_waiting);
    match app.projection.reached_position(wanted, READ_TIMEOUT).await {
        Reached::Behind => Err(ApiError::behind(wanted, app.projection.position().log_position())),
        reached => Ok(reached),
    }
}

/// A replica that rebuilds its projection has no state to serve.
fn require_serving(app: &App) -> Result<(), ApiError> {
    if app.projection.position().serving { Ok(()) } else { Err(Unavailable.into()) }
}
