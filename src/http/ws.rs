//! The WebSocket: from a request to a connection of the hub, and the tokens that its clients refresh.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tracing::debug;

use super::error::ApiError;
use super::extract::{ChannelPath, ConnectingUser, ConnectionMinPosition};
use super::handshake;
use super::identity::SUBPROTOCOL;
use super::identity::authenticator::Authenticator;
use super::layers::websocket_close::check_version;
use super::state::App;
use crate::clock::Clock;
use crate::domain::{Channel, UserId};
use crate::push::attach::{Connecting, Upgraded};
use crate::push::client::{Granted, Permits, Refreshed, TokenVerifier};
use crate::push::wire::{ServerMessage, Token};

/// `GET /ws`
pub async fn upgrade(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    ConnectingUser(principal): ConnectingUser,
    _: ConnectionMinPosition,
    request: Request,
) -> Result<Response, ApiError> {
    check_version(request.uri())?;
    let (response, upgrade) = handshake::accept(&request, SUBPROTOCOL)?;
    if app.connections_here() >= app.limits.max_connections {
        return Err(ApiError::full());
    }
    let admitted = app.admission.enter(&principal.user)?;
    let connecting = Connecting {
        staff: principal.is_staff(&channel),
        channel,
        user: principal.user.clone(),
        heartbeat_seconds: app.limits.sockets.session.heartbeat.as_secs(),
    };
    tokio::spawn(async move {
        let Some(handshake::Upgraded { stream, read_ahead, permit }) = upgrade.complete().await else {
            return;
        };
        let lasts = principal.remaining(app.clock.now());
        let permits = Permits { of_user: admitted, of_edge: permit };
        match stream.into_std() {
            Ok(stream) => {
                let stream = mio::net::TcpStream::from_std(stream);
                app.hub.adopt(connecting, Upgraded { stream, read: read_ahead, lasts, permits }).await;
            }
            Err(error) => debug!("a WebSocket failed after its handshake: {error}"),
        }
    });
    Ok(response)
}

/// Verifies the tokens of connections to this replica.
pub struct ConnectionTokens {
    /// Authenticates users.
    pub authenticator: Arc<Authenticator>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl TokenVerifier for ConnectionTokens {
    fn verify(&self, token: Token, user: UserId, channel: Channel) -> BoxFuture<'static, Refreshed> {
        let (authenticator, clock) = (self.authenticator.clone(), self.clock.clone());
        async move {
            let principal = authenticator.refresh(token.as_str(), &user, clock.now()).await;
            let granted = principal.map(|principal| {
                let lasts = principal.remaining(clock.now()).unwrap_or_default();
                Granted { lasts, staff: principal.is_staff(&channel) }
            });
            granted.map_err(|error| {
                let (code, message) = ApiError::from(error).into_parts();
                ServerMessage::Error { code, message, broadcast_id: None }
            })
        }
        .boxed()
    }
}
