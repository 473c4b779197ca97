//! The WebSocket: from a request to a connection of the hub, and what its clients ask of the rest of the replica.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tracing::debug;

use super::error::ApiError;
use super::handshake::{self, Opened};
use super::identity::gate::Gate;
use super::identity::{Listener, SUBPROTOCOL};
use super::rates::Rates;
use super::request::{Fresh, InChannel};
use super::state::App;
use crate::clock::Clock;
use crate::domain::{BroadcastId, Channel, UserId};
use crate::push::client::{Done, Errands, Granted, Places};
use crate::push::hub::{Connecting, Upgraded};
use crate::push::wire::{Place, ServerMessage, Token};
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
        user: who.user.clone(),
        heartbeat_seconds: app.limits.sockets.session.heartbeat.as_secs(),
    };
    tokio::spawn(async move {
        match opening.opened().await {
            Ok(Opened { stream, read, place }) => {
                let lasts = who.lasts(app.clock.now());
                let (hub, places) = (app.hub.clone(), Places { of_user: admitted, of_edge: place });
                hub.adopt(connecting, Upgraded { stream, read, lasts, errands: app.errands, places }).await;
            }
            Err(error) => debug!("a WebSocket ended in its handshake: {error:#}"),
        }
    });
    Ok(response)
}

/// What WebSockets ask of the rest of the replica.
pub struct Edge {
    /// The write path of acknowledgements.
    pub acks: Acks,
    /// Who may ask.
    pub gate: Arc<Gate>,
    /// How often they may.
    pub rates: Arc<Rates>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Errands for Edge {
    fn acknowledge(
        &self,
        channel: Channel,
        broadcast: BroadcastId,
        user: UserId,
    ) -> BoxFuture<'static, Done> {
        if let Err(error) = self.rates.acknowledge(&user) {
            let answer = refusal(error, Some(broadcast));
            return ready(Done::Acknowledged { broadcast, confirmed: false, answer }).boxed();
        }
        let acks = self.acks.clone();
        async move {
            let acknowledged = acks.acknowledge(channel, broadcast, user, None).await;
            let confirmed = acknowledged.is_ok();
            let answer = match acknowledged {
                Ok(Acknowledged { already, sequence }) => {
                    let place = Place { sequence };
                    ServerMessage::Acknowledged { broadcast_id: broadcast, already, place }
                }
                Err(error) => refusal(error.into(), Some(broadcast)),
            };
            Done::Acknowledged { broadcast, confirmed, answer }
        }
        .boxed()
    }

    fn refresh(&self, token: Token, user: UserId) -> BoxFuture<'static, Done> {
        let (gate, clock) = (self.gate.clone(), self.clock.clone());
        async move {
            let who = gate.refresh(token.as_str(), &user, clock.now()).await;
            let granted = who.map(|who| {
                let lasts = who.lasts(clock.now()).unwrap_or_default();
                Granted { lasts, staff: who.is_staff() }
            });
            Done::Refreshed(granted.map_err(|error| refusal(error, None)))
        }
        .boxed()
    }
}

/// Why something was not done, as the client is told.
fn refusal(error: ApiError, broadcast_id: Option<BroadcastId>) -> ServerMessage<'static> {
    let (code, message) = error.into_parts();
    ServerMessage::Error { code, message, broadcast_id }
}
