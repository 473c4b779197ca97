//! The WebSocket: drives one connection's session over axum's socket. The only file that knows that socket.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use futures_util::SinkExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;
use tungstenite::error::{CapacityError, ProtocolError};

use super::error::ApiError;
use super::identity::Identity;
use super::request::{Fresh, InChannel};
use super::state::App;
use crate::domain::{BroadcastId, Channel, UserId};
use crate::metrics::ByCode;
use crate::push::hub::{Attached, Connecting, Outgoing};
use crate::push::session::{Action, Session};
use crate::push::wire::{Close, Frame, Place, ServerMessage};
use crate::submit::{Acknowledged, SubmitError};

/// axum's defaults keep 128 KiB a connection for reading, and clear all of it at each read.
const READ_BUFFER: usize = 4 * 1024;

/// What is queued for a connection is joined into writes of about this size.
const WRITE_BUFFER: usize = 4 * 1024;

/// Beyond this the client does not read. One message has at most a few KiB.
const MAX_WRITE_BUFFER: usize = 256 * 1024;

/// A client that does not take anything for this long is closed, and a close that it does not take is abandoned.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// When the replica stops, acknowledgements that are under way are answered first, for at most this long.
const FINISH_TIMEOUT: Duration = Duration::from_secs(7);

/// `GET /ws`
pub async fn upgrade(
    State(app): State<App>,
    InChannel(channel): InChannel,
    uri: Uri,
    headers: HeaderMap,
    _: Fresh,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let who = Identity::from_query(&uri, &headers)?;
    let upgrade = upgrade.map_err(|rejection| ApiError::not_a_websocket(&rejection.body_text()))?;
    if app.connections_here() >= app.limits.max_connections {
        return Err(ApiError::full());
    }
    let admitted = app.admission.enter(&who.user)?;
    let response = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(app.limits.max_message_bytes)
        .max_frame_size(app.limits.max_message_bytes)
        .on_failed_upgrade(|error| debug!("an upgrade failed: {error}"))
        .on_upgrade(async move |socket| {
            let _admitted = admitted;
            serve(app, channel, who, socket).await;
        });
    Ok(response)
}

async fn serve(app: App, channel: Channel, who: Identity, mut socket: WebSocket) {
    let connecting = Connecting {
        channel: channel.clone(),
        user: who.user.clone(),
        staff: who.is_staff(),
        heartbeat_seconds: app.limits.session.heartbeat.as_secs(),
    };
    let metrics = app.metrics.clone();
    let counted = |end: End| {
        metrics.websocket_closes.get_or_create(&ByCode::sent(end.code())).inc();
        end
    };
    let attached = match app.hub.attach(connecting).await {
        Ok(attached) => attached,
        // It filled up, or began to close connections, since the request was looked at.
        Err(close) => {
            say_goodbye(&mut socket, counted(close.into())).await;
            return await_goodbye(&mut socket).await;
        }
    };
    let (id, hub) = (attached.id, app.hub.clone());
    let session = Session::new(app.limits.session);
    let connection = Connection {
        app,
        channel: channel.clone(),
        user: who.user,
        session,
        started: Instant::now(),
        acks: FuturesUnordered::new(),
    };
    let end = connection.run(&mut socket, attached).await;
    say_goodbye(&mut socket, counted(end)).await;
    await_goodbye(&mut socket).await;
    // A drain waits for this, so the process does not end before every client has heard why.
    hub.detach(channel, id).await;
}

/// How a connection ends.
enum End {
    /// With a close frame.
    Close(u16, String),
    /// The client closed, or is gone.
    Gone,
}

impl End {
    /// The code that the client is sent.
    const fn code(&self) -> Option<u16> {
        match self {
            Self::Close(code, _) => Some(*code),
            Self::Gone => None,
        }
    }
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close.code(), close.reason())
    }
}

/// The close code for what a client sent (RFC 6455, section 7.4.1).
fn fault(error: axum::Error) -> End {
    use tungstenite::Error as Fault;
    match error.into_inner().downcast_ref::<Fault>() {
        Some(Fault::Capacity(CapacityError::MessageTooLong { .. })) => {
            End::Close(1009, "message too big".to_owned())
        }
        Some(Fault::Utf8(_)) => End::Close(1007, "invalid UTF-8".to_owned()),
        Some(Fault::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => End::Gone,
        Some(Fault::Protocol(violation)) => End::Close(1002, violation.to_string()),
        _ => End::Gone,
    }
}

async fn say_goodbye(socket: &mut WebSocket, end: End) {
    let End::Close(code, reason) = end else { return };
    let frame = CloseFrame { code, reason: reason.into() };
    let _ = timeout(CLOSE_TIMEOUT, socket.send(Message::Close(Some(frame)))).await;
}

/// Gives the client a moment to say goodbye too: closing over what it still sends would reset the connection, and the
/// client might never see the code.
async fn await_goodbye(socket: &mut WebSocket) {
    let _ = timeout(CLOSE_TIMEOUT, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
}

type Confirmed = (BroadcastId, Result<Acknowledged, SubmitError>);

struct Connection {
    app: App,
    channel: Channel,
    user: UserId,
    session: Session,
    started: Instant,
    acks: FuturesUnordered<BoxFuture<'static, Confirmed>>,
}

impl Connection {
    async fn run(mut self, socket: &mut WebSocket, attached: Attached) -> End {
        let Attached { id, mut outgoing, close: mut closed } = attached;
        loop {
            let due = self.session.deadline().saturating_sub(self.started.elapsed());
            let step = async {
                tokio::select! {
                    biased;
                    Some(confirmed) = self.acks.next(), if !self.acks.is_empty() => self.confirm(socket, confirmed).await,
                    received = socket.recv() => self.hear(socket, id, received).await,
                    queued = outgoing.recv() => match queued {
                        Some(first) => self.pass_on(socket, first, &mut outgoing).await,
                        None => Err(End::Gone),
                    },
                    () = sleep(due) => {
                        let age = self.started.elapsed();
                        match self.session.tick(age) {
                            Some(action) => self.act(socket, id, action).await,
                            None => Ok(()),
                        }
                    }
                }
            };
            // The hub's wish to close comes before everything, also while a write is stuck.
            tokio::select! {
                biased;
                why = &mut closed => return match why {
                    Ok(restart @ Close::Restart { .. }) => self.finish(socket, outgoing, restart).await,
                    Ok(other) => other.into(),
                    Err(_) => End::Gone,
                },
                stepped = step => if let Err(end) = stepped {
                    // Found here, by a write that took too long; the hub counts those whose queue is full.
                    if end.code() == Some(Close::Slow.code()) {
                        self.app.metrics.slow_clients.inc();
                    }
                    return end;
                },
            }
        }
    }

    /// Before a restart: acknowledgements that were taken in are answered, and what is queued is sent.
    async fn finish(
        &mut self,
        socket: &mut WebSocket,
        mut outgoing: mpsc::Receiver<Outgoing>,
        restart: Close,
    ) -> End {
        let finished = async {
            while let Some(confirmed) = self.acks.next().await {
                self.confirm(socket, confirmed).await?;
            }
            match outgoing.try_recv() {
                Ok(first) => self.pass_on(socket, first, &mut outgoing).await,
                Err(_) => Ok(()),
            }
        };
        match timeout(FINISH_TIMEOUT, finished).await {
            Ok(Err(end)) => end,
            Ok(Ok(())) | Err(_) => restart.into(),
        }
    }

    async fn hear(
        &mut self,
        socket: &mut WebSocket,
        id: u64,
        received: Option<Result<Message, axum::Error>>,
    ) -> Result<(), End> {
        let age = self.started.elapsed();
        let action = match received {
            Some(Ok(Message::Text(text))) => self.session.text(age, &text),
            Some(Ok(Message::Binary(_))) => Some(self.session.binary()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                self.session.alive(age);
                None
            }
            Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
            Some(Err(error)) => return Err(fault(error)),
        };
        match action {
            Some(action) => self.act(socket, id, action).await,
            None => Ok(()),
        }
    }

    async fn act(&mut self, socket: &mut WebSocket, id: u64, action: Action) -> Result<(), End> {
        match action {
            Action::Reply(message) => write(socket, [text(&message.frame())]).await,
            Action::Pong => write(socket, [Message::Text(Utf8Bytes::from_static("pong"))]).await,
            Action::Heartbeat => {
                let ping =
                    [Message::Text(Utf8Bytes::from_static("ping")), Message::Ping(axum::body::Bytes::new())];
                write(socket, ping).await
            }
            Action::SendActive => {
                self.app.hub.send_active(self.channel.clone(), id).await;
                Ok(())
            }
            Action::Acknowledge(broadcast) => {
                let (acks, channel, user) = (self.app.acks.clone(), self.channel.clone(), self.user.clone());
                let confirmed =
                    async move { (broadcast, acks.acknowledge(channel, broadcast, user, None).await) };
                self.acks.push(Box::pin(confirmed));
                Ok(())
            }
            Action::Close(close) => Err(close.into()),
        }
    }

    async fn confirm(&mut self, socket: &mut WebSocket, (broadcast_id, done): Confirmed) -> Result<(), End> {
        self.session.acknowledged(broadcast_id, done.is_ok());
        let answer = match done {
            Ok(Acknowledged { already, sequence }) => {
                ServerMessage::Acknowledged { broadcast_id, already, place: Place { sequence } }
            }
            Err(error) => {
                let (code, message) = ApiError::from(error).into_parts();
                ServerMessage::Error { code, message, broadcast_id: Some(broadcast_id) }
            }
        };
        write(socket, [text(&answer.frame())]).await
    }

    /// Sends what is queued, joined into as few writes as possible.
    async fn pass_on(
        &mut self,
        socket: &mut WebSocket,
        first: Outgoing,
        outgoing: &mut mpsc::Receiver<Outgoing>,
    ) -> Result<(), End> {
        let queued = std::iter::once(first).chain(std::iter::from_fn(|| outgoing.try_recv().ok()));
        let session = &self.session;
        let wanted = queued.filter_map(|outgoing| match outgoing {
            Outgoing::Frame(frame) => Some(text(&frame)),
            Outgoing::Notice(id, frame) => session.wants_notice(id).then(|| text(&frame)),
        });
        write(socket, wanted).await
    }
}

/// The frame as a text message over the same bytes.
fn text(frame: &Frame) -> Message {
    Message::Text(Utf8Bytes::try_from(frame.json.clone()).unwrap_or_default())
}

async fn write(socket: &mut WebSocket, messages: impl IntoIterator<Item = Message>) -> Result<(), End> {
    let written = async {
        for message in messages {
            socket.feed(message).await?;
        }
        socket.flush().await
    };
    match timeout(WRITE_TIMEOUT, written).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(Close::Slow.into()),
    }
}
