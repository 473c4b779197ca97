//! The same messages as Server-Sent Events, for whoever only listens: `curl -N` is enough.
//!
//! `id:` is the log's sequence. A client that comes back with `Last-Event-ID` gets the state on connect from a replica
//! that has read at least that far, so it never sees the past again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use super::error::ApiError;
use super::identity::Listener;
use super::request::{Fresh, InChannel};
use super::state::{App, READ_PATIENCE};
use crate::domain::{Channel, UserId};
use crate::push::admission::Permit;
use crate::push::hub::{Attached, Connecting, Hub, Outgoing};
use crate::push::lifetime::{Due, Lifetime};
use crate::push::moment::{Moment, Stopwatch};
use crate::push::wire::{Close, ServerMessage};

/// `GET /events`
pub async fn events(
    State(app): State<App>,
    InChannel(channel): InChannel,
    Listener(who): Listener,
    headers: HeaderMap,
    _: Fresh,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    if let Some(seen) = last_event_id(&headers)
        && !app.projection.reached(seen, READ_PATIENCE).await
        && app.projection.seen().head >= seen
    {
        return Err(ApiError::behind(seen, app.projection.position().sequence));
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
    let lasts = who.lasts(app.clock.now());
    let listening = Listening::new(app.hub.clone(), channel, attached, lasts, admitted);
    let events =
        stream::unfold(
            listening,
            |mut listening| async move { Some((Ok(listening.next().await?), listening)) },
        );
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(heartbeat)))
}

/// A sequence of an earlier epoch may be higher than the log is now; then there is nothing to wait for.
fn last_event_id(headers: &HeaderMap) -> Option<u64> {
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
    ) -> Self {
        let Attached { id, outgoing, close } = attached;
        let watch = Stopwatch::start();
        Self {
            outgoing,
            close,
            stage: Stage::Open,
            life: Lifetime::new(watch.now(), lasts),
            watch,
            _detach: Detach(hub, channel, id),
            _admitted: admitted,
        }
    }

    async fn next(&mut self) -> Option<Event> {
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
            }
        }
        match self.stage {
            Stage::Restarting { retry_after_ms } => Some(self.outgoing.try_recv().map_or_else(
                |_| {
                    self.stage = Stage::Over;
                    // There are no close codes here; how long to wait before coming back is all there is to say.
                    Event::default().retry(Duration::from_millis(retry_after_ms))
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

fn event(outgoing: Outgoing) -> Event {
    let (Outgoing::Frame(frame) | Outgoing::Notice(_, frame)) = outgoing;
    let event = Event::default().data(String::from_utf8_lossy(frame.json()));
    frame.sequence.map_or(event.clone(), |sequence| event.id(sequence.to_string()))
}
