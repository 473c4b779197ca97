//! The WebSocket: from a request to a connection of the hub, and what its clients request of the rest of the replica.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use tracing::debug;

use super::error::ApiError;
use super::extract::{ChannelPath, ConnectingUser, ConnectionMinPosition};
use super::handshake;
use super::identity::SUBPROTOCOL;
use super::identity::authenticator::Authenticator;
use super::layers::websocket_close::check_version;
use super::rates::Rates;
use super::state::App;
use crate::clock::Clock;
use crate::domain::{BroadcastId, Channel, UserId};
use crate::log::Epoch;
use crate::projection::Projection;
use crate::push::client::{Answered, Asking, Errands, Granted, Places, Refreshed};
use crate::push::hub::{Connecting, Upgraded};
use crate::push::wire::{Frame, Place, ServerMessage, Token};
use crate::submit::{self, Acknowledged, Acks, Asked};

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
        let places = Places { of_user: admitted, of_edge: permit };
        match stream.into_std() {
            Ok(stream) => {
                let stream = mio::net::TcpStream::from_std(stream);
                app.hub.adopt(connecting, Upgraded { stream, read: read_ahead, lasts, places }).await;
            }
            Err(error) => debug!("a WebSocket failed after its handshake: {error}"),
        }
    });
    Ok(response)
}

/// Carries out what clients request over WebSockets.
#[derive(Clone)]
pub struct Edge {
    /// The write path of acknowledgements.
    pub acks: Acks,
    /// The state of the log.
    pub projection: Projection,
    /// Authenticates users.
    pub authenticator: Arc<Authenticator>,
    /// The rate limits.
    pub rates: Arc<Rates>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Errands for Edge {
    fn acknowledge(&self, asked: Vec<Asking>) -> BoxStream<'static, Vec<Answered>> {
        let mut refused = Vec::new();
        let (mut askers, mut lot) = (Vec::with_capacity(asked.len()), Vec::with_capacity(asked.len()));
        for Asking { name, channel, broadcast, user } in asked {
            match self.rates.acknowledge(&user) {
                Ok(_) => {
                    askers.push((name, broadcast));
                    lot.push(Asked { channel, broadcast, user, trace: None });
                }
                Err(error) => {
                    let answer = refusal(error.into(), Some(broadcast)).frame();
                    refused.push(Answered { name, broadcast, confirmed: false, answer });
                }
            }
        }
        let refused = stream::iter((!refused.is_empty()).then_some(refused));
        let answers = self.acks.acknowledge_all(lot);
        let begun = (answers, askers, self.projection.clone());
        let confirmed = stream::unfold(begun, |(mut answers, askers, projection)| async move {
            let answered = answers.next().await?;
            let encoded = encode(answered, &askers, projection.position().epoch);
            Some((encoded, (answers, askers, projection)))
        });
        refused.chain(confirmed).boxed()
    }

    fn refresh(&self, token: Token, user: UserId, channel: Channel) -> BoxFuture<'static, Refreshed> {
        let (authenticator, clock) = (self.authenticator.clone(), self.clock.clone());
        async move {
            let principal = authenticator.refresh(token.as_str(), &user, clock.now()).await;
            let granted = principal.map(|principal| {
                let lasts = principal.remaining(clock.now()).unwrap_or_default();
                Granted { lasts, staff: principal.is_staff(&channel) }
            });
            granted.map_err(|error| refusal(error.into(), None))
        }
        .boxed()
    }
}

/// Encodes the results of acknowledgements, each distinct one once.
fn encode(
    answers: Vec<submit::Answered>,
    askers: &[(usize, BroadcastId)],
    epoch: Option<Epoch>,
) -> Vec<Answered> {
    let mut frames: HashMap<_, _, foldhash::fast::RandomState> = HashMap::default();
    let encoded = answers.into_iter().map(|submit::Answered { nth, answer }| {
        let (name, broadcast) = askers[nth];
        let confirmed = answer.is_ok();
        let answer = match answer {
            Ok(known) => frames
                .entry((broadcast, known))
                .or_insert_with(|| confirmation(broadcast, known, epoch))
                .clone(),
            Err(error) => refusal(error.into(), Some(broadcast)).frame(),
        };
        Answered { name, broadcast, confirmed, answer }
    });
    encoded.collect()
}

fn confirmation(broadcast_id: BroadcastId, known: Acknowledged, epoch: Option<Epoch>) -> Frame {
    let Acknowledged { already, sequence } = known;
    let place = sequence.map_or_else(Place::default, |sequence| Place::of(epoch, sequence));
    ServerMessage::Acknowledged { broadcast_id, already, place }.frame()
}

/// The message about an error.
fn refusal(error: ApiError, broadcast_id: Option<BroadcastId>) -> ServerMessage<'static> {
    let (code, message) = error.into_parts();
    ServerMessage::Error { code, message, broadcast_id }
}
