//! The WebSocket: from a request to a connection of the hub, and what its clients ask of the rest of the replica.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tracing::debug;

use super::error::ApiError;
use super::handshake::{self, Opened};
use super::identity::{Listener, SUBPROTOCOL};
use super::request::{Fresh, InChannel};
use super::state::App;
use crate::domain::{BroadcastId, Channel, UserId};
use crate::push::client::{Answered, Errands};
use crate::push::hub::{Connecting, Upgraded};
use crate::push::wire::{Place, ServerMessage};
use crate::submit::{Acknowledged, Acks};

/// `GET /ws`
pub async fn upgrade(
    State(app): State<App>,
    InChannel(channel): InChannel,
    Listener(who): Listener,
    _: Fresh,
    mut request: Request,
) -> Result<Response, ApiError> {
    let opened = handshake::begin(&mut request, SUBPROTOCOL).map_err(ApiError::not_a_websocket)?;
    let (response, opening) = opened;
    if app.connections_here() >= app.limits.max_connections {
        return Err(ApiError::full());
    }
    let admitted = app.admission.enter(&who.user)?;
    let connecting = Connecting {
        channel,
        staff: who.is_staff(),
        user: who.user,
        heartbeat_seconds: app.limits.sockets.session.heartbeat.as_secs(),
    };
    tokio::spawn(async move {
        match opening.opened().await {
            Ok(Opened { stream, read, place }) => {
                let errands = Arc::new(Edge { acks: app.acks.clone() });
                let keeps = Box::new((admitted, place));
                app.hub.adopt(connecting, Upgraded { stream, read, errands, keeps }).await;
            }
            Err(error) => debug!("a WebSocket ended in its handshake: {error:#}"),
        }
    });
    Ok(response)
}

/// What WebSockets ask of the rest of the replica.
struct Edge {
    acks: Acks,
}

impl Errands for Edge {
    fn acknowledge(
        &self,
        channel: Channel,
        broadcast_id: BroadcastId,
        user: UserId,
    ) -> BoxFuture<'static, Answered> {
        let acks = self.acks.clone();
        async move {
            match acks.acknowledge(channel, broadcast_id, user, None).await {
                Ok(Acknowledged { already, sequence }) => {
                    let place = Place { sequence };
                    (true, ServerMessage::Acknowledged { broadcast_id, already, place })
                }
                Err(error) => {
                    let (code, message) = ApiError::from(error).into_parts();
                    (false, ServerMessage::Error { code, message, broadcast_id: Some(broadcast_id) })
                }
            }
        }
        .boxed()
    }
}
