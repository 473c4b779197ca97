//! One connection, from the server's side: whose it is, how far it was told what everybody is told, and the line to it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::client::{Client, Limits, Refreshed, TokenVerifier};
use super::hub::Outgoing;
use super::moment::Stopwatch;
use super::socket::Slow;
use super::tape::Tape;
use super::wire::{Close, Frame};
use crate::domain::{Fingerprint, UserId};
use crate::metrics::Metrics;
use crate::projection::Projection;
use crate::submit::{AckReply, Acks};

/// What the hub works with.
pub(super) struct Means {
    /// What this replica knows.
    pub(super) projection: Projection,
    /// Where it counts.
    pub(super) metrics: Metrics,
    /// The write path of acknowledgements.
    pub(super) acks: Acks,
    /// Verifies tokens that clients refresh.
    pub(super) tokens: Arc<dyn TokenVerifier>,
    /// How WebSockets are limited.
    pub(super) limits: Limits,
    /// What time it is.
    pub(super) watch: Stopwatch,
}

pub(super) struct Connection {
    /// Whether it learns what creators and team learn.
    pub(super) staff: bool,
    /// The number of the next message on its room's tape.
    seen: u64,
    line: Line,
}

/// How it is reached.
enum Line {
    /// An event stream, which somebody else writes.
    Stream { user: UserId, outgoing: mpsc::Sender<Outgoing>, close: Option<oneshot::Sender<Close>> },
    /// A WebSocket, which the hub writes itself.
    Socket(Client),
}

impl Connection {
    /// An event stream that has everything that is on the tape.
    pub(super) fn of_stream(
        user: UserId,
        staff: bool,
        tape: &Tape,
        outgoing: mpsc::Sender<Outgoing>,
        close: oneshot::Sender<Close>,
    ) -> Self {
        Self::new(staff, tape, Line::Stream { user, outgoing, close: Some(close) })
    }

    /// A WebSocket that has everything that is on the tape.
    pub(super) fn of_socket(staff: bool, tape: &Tape, client: Client) -> Self {
        Self::new(staff, tape, Line::Socket(client))
    }

    fn new(staff: bool, tape: &Tape, line: Line) -> Self {
        Self { staff, seen: tape.end(), line }
    }

    /// Whose connection it is.
    pub(super) const fn user(&self) -> &UserId {
        match &self.line {
            Line::Stream { user, .. } => user,
            Line::Socket(client) => client.user(),
        }
    }

    /// The client, when it is a WebSocket.
    pub(super) fn client(&mut self) -> Option<&mut Client> {
        match &mut self.line {
            Line::Stream { .. } => None,
            Line::Socket(client) => Some(client),
        }
    }

    /// Whether it is told anything any more.
    pub(super) fn is_open(&self) -> bool {
        match &self.line {
            Line::Stream { close, .. } => close.is_some(),
            Line::Socket(client) => client.is_open(),
        }
    }

    /// Whether it has to be looked after.
    pub(super) fn is_troubled(&self) -> bool {
        matches!(&self.line, Line::Socket(client) if client.is_troubled())
    }

    /// Messages that wait for it, and whether these are half as many as may wait, or more.
    pub(super) fn waiting(&self, limits: &Limits) -> (usize, bool) {
        match &self.line {
            Line::Stream { outgoing, .. } => {
                let waiting = outgoing.max_capacity() - outgoing.capacity();
                (waiting, waiting * 2 >= outgoing.max_capacity())
            }
            Line::Socket(client) => {
                let (frames, bytes) = client.socket.waiting();
                (frames, bytes * 2 >= limits.unsent_bytes)
            }
        }
    }

    /// Whether it lacks something that is on the tape.
    pub(super) fn lags(&self, tape: &Tape) -> bool {
        self.seen < tape.end()
    }

    /// Tells it what is on the tape. A client that has too much waiting is closed: on reconnect the state on connect makes
    /// it whole.
    pub(super) fn catch_up(&mut self, tape: &mut Tape, means: &Means) {
        if !self.lags(tape) {
            return;
        }
        let seen = std::mem::replace(&mut self.seen, tape.end());
        match &mut self.line {
            Line::Stream { outgoing, .. } => {
                let mut frames = tape.since(seen).cloned();
                if frames.any(|frame| is_full(&outgoing.try_send(Outgoing::Frame(frame)))) {
                    self.end(Close::Slow, means);
                }
            }
            Line::Socket(client) if client.is_open() => {
                if let Err(Slow) = client.say(tape.joined_since(seen), &means.watch, &means.limits) {
                    self.end(Close::Slow, means);
                }
            }
            Line::Socket(_) => {}
        }
    }

    /// Tells it what comes first. A WebSocket gets that in one piece, since each piece costs as much as a broadcast.
    pub(super) fn greet(&mut self, first: [Frame; 2], means: &Means) {
        let told = match &mut self.line {
            Line::Stream { outgoing, .. } => {
                let mut frames = first.into_iter();
                let full = frames.any(|frame| is_full(&outgoing.try_send(Outgoing::Frame(frame))));
                if full { Err(Slow) } else { Ok(()) }
            }
            Line::Socket(client) => {
                let [hello, state] = &first;
                let joined = [&**hello.websocket(), &**state.websocket()].concat();
                client.say(joined.into(), &means.watch, &means.limits)
            }
        };
        if told.is_err() {
            self.end(Close::Slow, means);
        }
    }

    /// Tells it something for itself, after what is on the tape. Whether it is told.
    pub(super) fn tell(&mut self, outgoing: &Outgoing, tape: &mut Tape, means: &Means) -> bool {
        self.catch_up(tape, means);
        let told = match &mut self.line {
            Line::Stream { outgoing: queue, close, .. } => {
                if close.is_none() {
                    return false;
                }
                match queue.try_send(outgoing.clone()) {
                    Ok(()) => Ok(true),
                    Err(mpsc::error::TrySendError::Full(_)) => Err(Slow),
                    Err(mpsc::error::TrySendError::Closed(_)) => Ok(false),
                }
            }
            Line::Socket(client) if client.is_open() => match outgoing {
                Outgoing::Notice(id, _) if !client.session.wants_notice(*id) => Ok(false),
                Outgoing::Frame(frame) | Outgoing::Notice(_, frame) => {
                    client.say(frame.websocket().clone(), &means.watch, &means.limits).map(|()| true)
                }
            },
            Line::Socket(_) => Ok(false),
        };
        told.unwrap_or_else(|Slow| {
            self.end(Close::Slow, means);
            false
        })
    }

    /// A token of its own was looked at.
    pub(super) fn refreshed(&mut self, refreshed: Refreshed, tape: &mut Tape, means: &Means) {
        self.catch_up(tape, means);
        if let Line::Socket(client) = &mut self.line
            && let Err(Slow) = client.refreshed(refreshed, &means.watch, &means.limits)
        {
            self.end(Close::Slow, means);
        }
    }

    /// Sends the reply to an acknowledgement of its own.
    pub(super) fn acknowledged(&mut self, reply: &AckReply, frame: &Frame, tape: &mut Tape, means: &Means) {
        self.catch_up(tape, means);
        if let Line::Socket(client) = &mut self.line
            && let Err(Slow) = client.acknowledged(reply, frame, &means.watch, &means.limits)
        {
            self.end(Close::Slow, means);
        }
    }

    /// Ends it, if it is open.
    pub(super) fn end(&mut self, why: Close, means: &Means) {
        let is_slow = self.is_open() && why == Close::Slow;
        match &mut self.line {
            Line::Stream { close, .. } => {
                if let Some(close) = close.take() {
                    // The stream is gone; it detaches by itself.
                    let _ = close.send(why);
                }
            }
            Line::Socket(client) => {
                client.count_end(Some(why.code()), &means.metrics);
                client.end(why, means.watch.now());
            }
        }
        if is_slow {
            means.metrics.slow_clients.inc();
        }
    }
}

/// The 64-bit name of a user in heartbeats.
pub(super) fn user_hash(user: &UserId) -> u64 {
    let Fingerprint { high, low } = user.fingerprint();
    high ^ low
}

fn is_full<T>(sent: &Result<(), mpsc::error::TrySendError<T>>) -> bool {
    matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
}
