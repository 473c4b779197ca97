//! The same messages as Server-Sent Events, for whoever only listens: `curl -N` is enough.
//!
//! `id:` is a position in the log. A client that comes back with `Last-Event-ID` gets the state on connect from a replica
//! that has read at least that far, so it never sees the past again. What stands between a replica and its client is told
//! by headers to pass on each event at once and as it is.

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
use crate::domain::{Channel, UserId};
use crate::log::Position;
use crate::push::admission::Permit;
use crate::push::hub::{Attached, Connecting, Hub, Outgoing};
use crate::push::lifetime::{Due, Lifetime};
use crate::push::moment::{Moment, Stopwatch};
use crate::push::wire::{Close, ServerMessage};

/// `GET /events`
pub async fn events(
    State(app): State<App>,
    ChannelPath(channel): ChannelPath,
    ConnectingUser(who): ConnectingUser,
    headers: HeaderMap,
    _: ConnectionMinPosition,
) -> Result<Response, ApiError> {
    // One of another log asks for nothing: the client begins anew with the state.
    if let Some(seen) = last_event_id(&headers) {
        wait_for(&app, seen).await?;
    }
    let heartbeat = app.limits.sockets.session.heartbeat;
    let connecting = Connecting {
        staff: who.is_staff(&channel),
        channel: channel.clone(),
        user: who.user.clone(),
        heartbeat_seconds: heartbeat.as_secs(),
    };
    let admitted = app.admission.enter(&who.user)?;
    let attached = app.hub.attach(connecting).await?;
    let lasts = who.remaining(app.clock.now());
    let listening = Listening::new(app.hub.clone(), channel, attached, lasts, admitted, heartbeat);
    let events = stream::unfold(listening, |mut listening| async move {
        Some((Ok::<_, Infallible>(listening.next().await?), listening))
    });
    Ok(event_stream(Body::from_stream(events)))
}

/// How long a client waits that was refused for a moment, where the refusal does not say.
const COME_BACK_MS: u64 = 2_000;

/// Answers who asks for an event stream and is refused for a reason that passes by itself (`429`, `503`) with a stream that says
/// when to come back, and ends. A browser's `EventSource` gives up for good on any other status than 200 (HTML, section 9.2.3).
pub async fn come_back(request: Request, next: Next) -> Response {
    let asked =
        wants_events(request.headers()) && RequestKind::of(request.extensions()) == RequestKind::EventStream;
    let refused = next.run(request).await;
    if !asked || !is_temporary(&refused) {
        return refused;
    }
    let after_ms =
        retry_after_seconds(&refused).map_or(COME_BACK_MS, |seconds| seconds.saturating_mul(1_000));
    let mut answer = event_stream(Body::from(retry(after_ms)));
    // Whoever counts answers counts what it was refused for.
    *answer.extensions_mut() = refused.extensions().clone();
    for (name, value) in refused.headers() {
        if ![CONTENT_TYPE, CONTENT_LENGTH, RETRY_AFTER].contains(name) {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

fn wants_events(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = ranges.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// One line of comment. An empty line behind it would end an event without data, which some clients hand on as a message.
const KEEP_ALIVE: &str = ":\n";

/// What is no position is ignored: it is of another service.
fn last_event_id(headers: &HeaderMap) -> Option<Position> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

/// A connection that detaches when it is dropped: axum drops the stream when the client is gone.
struct Listening {
    outgoing: mpsc::Receiver<Outgoing>,
    close: oneshot::Receiver<Close>,
    stage: Stage,
    /// As long as the token of the request. It ends without a word: who comes back with the same token gets `401`.
    life: Lifetime,
    watch: Stopwatch,
    /// After so much silence comes a sign of life.
    heartbeat: Duration,
    _detach: Detach,
    _admitted: Permit<UserId>,
}

/// How far a stream is.
enum Stage {
    Open,
    /// The replica stops: what is queued is still sent, then when to come back.
    Restarting {
        retry_after_ms: u64,
    },
    Over,
}

struct Detach(Hub, Channel, u64);

impl Drop for Detach {
    fn drop(&mut self) {
        let (hub, channel, id) = (self.0.clone(), self.1.clone(), self.2);
        tokio::spawn(async move { hub.detach(channel, id).await });
    }
}

impl Listening {
    fn new(
        hub: Hub,
        channel: Channel,
        attached: Attached,
        lasts: Option<Duration>,
        admitted: Permit<UserId>,
        heartbeat: Duration,
    ) -> Self {
        let Attached { id, outgoing, close } = attached;
        let watch = Stopwatch::start();
        Self {
            outgoing,
            close,
            stage: Stage::Open,
            life: Lifetime::new(watch.now(), lasts),
            watch,
            heartbeat,
            _detach: Detach(hub, channel, id),
            _admitted: admitted,
        }
    }

    async fn next(&mut self) -> Option<String> {
        let silent_at = Instant::now() + self.heartbeat;
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
                        return Some(event(Outgoing::Frame(frame)));
                    }
                    None => {}
                },
                outgoing = self.outgoing.recv() => return outgoing.map(event),
                () = sleep_until(silent_at) => return Some(KEEP_ALIVE.to_owned()),
            }
        }
        match self.stage {
            Stage::Restarting { retry_after_ms } => Some(self.outgoing.try_recv().map_or_else(
                |_| {
                    self.stage = Stage::Over;
                    // There are no close codes here; how long to wait before coming back is all there is to say.
                    retry(retry_after_ms)
                },
                event,
            )),
            Stage::Open | Stage::Over => None,
        }
    }
}

async fn due(watch: &Stopwatch, deadline: Option<Moment>) {
    match deadline {
        Some(moment) => sleep_until(watch.instant(moment)).await,
        None => std::future::pending().await,
    }
}

/// When to come back. The field counts as soon as its line is read (HTML, 9.2.6), and without an empty line behind it no reader
/// takes it for an event without data.
pub fn retry(after_ms: u64) -> String {
    format!("retry: {after_ms}\n")
}

/// A message as an event. JSON is one line.
fn event(outgoing: Outgoing) -> String {
    let (Outgoing::Frame(frame) | Outgoing::Notice(_, frame)) = outgoing;
    let mut event = String::with_capacity(frame.json().len() + 64);
    if let Some(position) = frame.position {
        let _ = writeln!(event, "id: {position}");
    }
    let _ = write!(event, "data: {}\n\n", String::from_utf8_lossy(frame.json()));
    event
}
