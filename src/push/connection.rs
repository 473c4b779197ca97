//! One connection of a shard: the channel that it follows, and its transport.

use tokio::sync::{mpsc, oneshot};

use super::backlog::Backlog;
use super::client::{Client, Limits, Refreshed};
use super::context::Context;
use super::websocket::Slow;
use super::wire::{Close, Frame};
use crate::domain::{Fingerprint, UserId};
use crate::submit::AckReply;

pub(super) struct Connection {
    /// The channel that it follows, as an index into those of the shard; `None`: it was rejected, and is closing.
    pub(super) channel: Option<usize>,
    transport: Transport,
}

/// How messages reach the client.
pub(super) enum Transport {
    /// An event stream, whose response body is written by the HTTP server.
    EventStream { user: UserId, outgoing: mpsc::Sender<Frame>, close: Option<oneshot::Sender<Close>> },
    /// A WebSocket, which the shard reads and writes itself.
    WebSocket(Client),
}

impl Connection {
    pub(super) const fn new(channel: Option<usize>, transport: Transport) -> Self {
        Self { channel, transport }
    }

    pub(super) const fn user(&self) -> &UserId {
        match &self.transport {
            Transport::EventStream { user, .. } => user,
            Transport::WebSocket(client) => client.user(),
        }
    }

    /// The client, if it is a WebSocket.
    pub(super) const fn client(&mut self) -> Option<&mut Client> {
        match &mut self.transport {
            Transport::EventStream { .. } => None,
            Transport::WebSocket(client) => Some(client),
        }
    }

    /// Whether messages are still sent to it.
    pub(super) fn is_open(&self) -> bool {
        match &self.transport {
            Transport::EventStream { close, .. } => close.is_some(),
            Transport::WebSocket(client) => client.is_open(),
        }
    }

    /// Whether it may need an earlier deadline than its timer has.
    pub(super) fn is_dirty(&self) -> bool {
        matches!(&self.transport, Transport::WebSocket(client) if client.is_dirty())
    }

    /// The messages that wait for it, and whether they fill half of its limit or more.
    pub(super) fn waiting(&self, limits: &Limits) -> (usize, bool) {
        match &self.transport {
            Transport::EventStream { outgoing, .. } => {
                let waiting = outgoing.max_capacity() - outgoing.capacity();
                (waiting, waiting * 2 >= outgoing.max_capacity())
            }
            Transport::WebSocket(client) => {
                let (frames, bytes) = client.socket.waiting();
                (frames, bytes * 2 >= limits.unsent_bytes)
            }
        }
    }

    /// Sends what the backlog has from a position on. A client with too much unsent is closed: the state on connect makes it
    /// whole when it reconnects.
    pub(super) fn send_backlog(&mut self, position: u64, backlog: &mut Backlog, ctx: &Context) {
        let sent = match &mut self.transport {
            Transport::EventStream { outgoing, .. } => {
                let mut frames = backlog.since(position).cloned();
                if frames.any(|frame| is_full(&outgoing.try_send(frame))) { Err(Slow) } else { Ok(()) }
            }
            Transport::WebSocket(client) if client.is_open() => {
                client.send(backlog.joined_since(position), &ctx.clock, &ctx.limits)
            }
            Transport::WebSocket(_) => Ok(()),
        };
        if sent.is_err() {
            self.close(Close::Slow, ctx);
        }
    }

    /// Sends the first messages: a WebSocket gets them in one write, since each write costs as much as a broadcast.
    pub(super) fn greet(&mut self, first: [Frame; 2], ctx: &Context) {
        let sent = match &mut self.transport {
            Transport::EventStream { outgoing, .. } => {
                let mut frames = first.into_iter();
                if frames.any(|frame| is_full(&outgoing.try_send(frame))) { Err(Slow) } else { Ok(()) }
            }
            Transport::WebSocket(client) => {
                let [connected, state] = &first;
                let joined = [&**connected.websocket(), &**state.websocket()].concat();
                client.send(joined.into(), &ctx.clock, &ctx.limits)
            }
        };
        if sent.is_err() {
            self.close(Close::Slow, ctx);
        }
    }

    /// Sends one message, unless the connection does not need it. Returns whether it was sent.
    pub(super) fn send(&mut self, frame: &Frame, ctx: &Context) -> bool {
        let sent = match &mut self.transport {
            Transport::EventStream { close: None, .. } => return false,
            Transport::EventStream { outgoing, .. } => match outgoing.try_send(frame.clone()) {
                Ok(()) => Ok(true),
                Err(mpsc::error::TrySendError::Full(_)) => Err(Slow),
                Err(mpsc::error::TrySendError::Closed(_)) => Ok(false),
            },
            Transport::WebSocket(client) if client.is_open() => match frame.acknowledged {
                Some(id) if !client.session.wants_notice(id) => Ok(false),
                _ => client.send(frame.websocket().clone(), &ctx.clock, &ctx.limits).map(|()| true),
            },
            Transport::WebSocket(_) => Ok(false),
        };
        sent.unwrap_or_else(|Slow| {
            self.close(Close::Slow, ctx);
            false
        })
    }

    /// Applies the outcome of a token refresh, and sends it.
    pub(super) fn refreshed(&mut self, refreshed: Refreshed, ctx: &Context) {
        if let Transport::WebSocket(client) = &mut self.transport
            && let Err(Slow) = client.refreshed(refreshed, &ctx.clock, &ctx.limits)
        {
            self.close(Close::Slow, ctx);
        }
    }

    /// Sends the reply to an acknowledgement of its own.
    pub(super) fn acknowledged(&mut self, reply: &AckReply, frame: &Frame, ctx: &Context) {
        if let Transport::WebSocket(client) = &mut self.transport
            && let Err(Slow) = client.acknowledged(reply, frame, &ctx.clock, &ctx.limits)
        {
            self.close(Close::Slow, ctx);
        }
    }

    /// Closes it, if it is open.
    pub(super) fn close(&mut self, why: Close, ctx: &Context) {
        let is_slow = self.is_open() && why == Close::Slow;
        match &mut self.transport {
            Transport::EventStream { close, .. } => {
                if let Some(close) = close.take() {
                    // If the stream is gone, it detaches by itself.
                    let _ = close.send(why);
                }
            }
            Transport::WebSocket(client) => {
                client.count_end(Some(why.code()), &ctx.metrics);
                client.close(why, ctx.clock.now());
            }
        }
        if is_slow {
            ctx.metrics.slow_clients.inc();
        }
    }
}

/// The 64-bit hash of a user in heartbeats.
pub(super) fn user_hash(user: &UserId) -> u64 {
    let Fingerprint { high, low } = user.fingerprint();
    high ^ low
}

fn is_full<T>(sent: &Result<(), mpsc::error::TrySendError<T>>) -> bool {
    matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
}
