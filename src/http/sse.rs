//! The messages of WebSockets as Server-Sent Events, for clients that only receive: `curl -N` is enough.
//!
//! `id:` is a position in the log. A client that reconnects with `Last-Event-ID` receives the state from a replica that has read
//! the log at least up to there, so it never goes back in time. Headers keep proxies from buffering or changing events.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::error::ApiError;
use super::extract::{ChannelPath, ConnectingUser, ConnectionMinPosition, wait_for};
use super::request_kind::RequestKind;
use super::respond::{event_stream, is_temporary, retry_after_seconds};
use super::state::App;
use crate::domain::UserId;
use crate::log::Position;
use crate::push::admission::Permit;
use crate::push::attach::{Attached, Connecting, ConnectionId};
use crate::push::hub::Hub;
use crate::push::lifetime::{Due, Lifetime};
use crate::push::tick::{ShardClock, Tick};
use crate::push::wire::{Close, Frame, ServerMessage};

/// `GET /events`
pub async fn events(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    ConnectingUser(principal): ConnectingUser,
    headers: HeaderMap,
    _: ConnectionMinPosition,
) -> Result<Response, ApiError> {
    // A position of a log that was replaced is ignored: the client begins again with the state.
    if let Some(seen) = last_event_id(&headers) {
        wait_for(&app, seen).await?;
    }
    let heartbeat = app.limits.sockets.session.heartbeat;
    let connecting = Connecting {
        staff: principal.is_staff(&channel),
        channel,
        user: principal.user.clone(),
        heartbeat_seconds: heartbeat.as_secs(),
    };
    let admitted = app.admission.enter(&principal.user)?;
    let attached = app.hub.attach(connecting).await?;
    let lasts = principal.remaining(app.clock.now());
    let events = EventStream::new(app.hub.clone(), attached, lasts, admitted, heartbeat);
    let events = stream::unfold(events, |mut events| async move {
        Some((Ok::<_, Infallible>(events.next().await?), events))
    });
    Ok(event_stream(Body::from_stream(events)))
}

/// When a refused client reconnects, where the refusal does not say.
const RETRY_MS: u64 = 2_000;

/// Responds to a request for an event stream that is refused for the moment (`429`, `503`) with a stream that only has `retry:`.
/// A browser's `EventSource` never reconnects after another status than 200 (HTML, section 9.2.3).
pub async fn retry_event_stream(request: Request, next: Next) -> Response {
    let is_wanted = accepts_events(request.headers())
        && RequestKind::of(request.extensions()) == RequestKind::EventStream;
    let refused = next.run(request).await;
    if !is_wanted || !is_temporary(&refused) {
        return refused;
    }
    let after_ms = retry_after_seconds(&refused).map_or(RETRY_MS, |seconds| seconds.saturating_mul(1_000));
    let mut response = event_stream(Body::from(retry(after_ms)));
    // The layers outside count and log the refusal.
    *response.extensions_mut() = refused.extensions().clone();
    for (name, value) in refused.headers() {
        if ![CONTENT_TYPE, CONTENT_LENGTH, RETRY_AFTER].contains(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = ranges.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// A comment. An empty line after it would end an event without data, which some clients deliver as a message.
const KEEP_ALIVE: &str = ":\n";

/// An id that is no position is ignored: it is of another service.
fn last_event_id(headers: &HeaderMap) -> Option<Position> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

/// An event stream. It leaves the hub when it is dropped, which axum does when the client is gone.
struct EventStream {
    outgoing: mpsc::Receiver<Frame>,
    close: oneshot::Receiver<Close>,
    stage: Stage,
    /// Ends with the token of the request. A client that reconnects with the same token gets `401`.
    life: Lifetime,
    watch: ShardClock,
    /// A comment is sent after so long without an event.
    heartbeat: Duration,
    _detach: Detach,
    _admitted: Permit<UserId>,
}

/// The stage of a stream.
enum Stage {
    Open,
    /// The replica stops: queued events are still sent, then `retry:`.
    Restarting {
        retry_after_ms: u64,
    },
    Over,
}

struct Detach(Hub, ConnectionId);

impl Drop for Detach {
    fn drop(&mut self) {
        let (hub, id) = (self.0.clone(), self.1);
        tokio::spawn(async move { hub.detach(id).await });
    }
}

impl EventStream {
    fn new(
        hub: Hub,
        attached: Attached,
        lasts: Option<Duration>,
        admitted: Permit<UserId>,
        heartbeat: Duration,
    ) -> Self {
        let Attached { id, outgoing, close } = attached;
        let watch = ShardClock::start();
        Self {
            outgoing,
            close,
            stage: Stage::Open,
            life: Lifetime::new(watch.now(), lasts),
            watch,
            heartbeat,
            _detach: Detach(hub, id),
            _admitted: admitted,
        }
    }

    async fn next(&mut self) -> Option<String> {
        let comment_at = Instant::now() + self.heartbeat;
        while matches!(self.stage, Stage::Open) {
            tokio::select! {
                biased;
                why = &mut self.close => self.stage = match why {
                    Ok(Close::Restart { retry_after_ms }) => Stage::Restarting { retry_after_ms },
                    _ => Stage::Over,
                },
                () = due(&self.watch, self.life.deadline()) => match self.life.tick(self.watch.now()) {
                    Some(Due::Expired) => self.stage = Stage::Over,
                    Some(Due::Expiring { in_seconds }) => {
                        let frame = ServerMessage::Expiring { in_seconds }.frame();
                        return Some(event(&frame));
                    }
                    None => {}
                },
                outgoing = self.outgoing.recv() => return outgoing.map(|frame| event(&frame)),
                () = sleep_until(comment_at) => return Some(KEEP_ALIVE.to_owned()),
            }
        }
        match self.stage {
            Stage::Restarting { retry_after_ms } => Some(self.outgoing.try_recv().map_or_else(
                |_| {
                    self.stage = Stage::Over;
                    retry(retry_after_ms)
                },
                |frame| event(&frame),
            )),
            Stage::Open | Stage::Over => None,
        }
    }
}

async fn due(watch: &ShardClock, deadline: Option<Tick>) {
    match deadline {
        Some(moment) => sleep_until(watch.instant(moment)).await,
        None => std::future::pending().await,
    }
}

/// Tells the client when to reconnect. The field takes effect with its line (HTML, section 9.2.6); without an empty line after it
/// no client takes it for an event without data.
fn retry(after_ms: u64) -> String {
    format!("retry: {after_ms}\n")
}

/// A message as an event. JSON is one line.
fn event(frame: &Frame) -> String {
    let mut event = String::with_capacity(frame.json().len() + 64);
    if let Some(position) = frame.position {
        let _ = writeln!(event, "id: {position}");
    }
    let _ = write!(event, "data: {}\n\n", String::from_utf8_lossy(frame.json()));
    event
}
