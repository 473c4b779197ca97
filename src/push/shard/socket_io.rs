//! The sockets of a shard: those that are ready are read and written, and timers run.

use bytes::Bytes;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::sync::mpsc;

use super::{Request, Shard};
use crate::push::attach::{Connecting, ConnectionId, Upgraded};
use crate::push::client::{Client, Input, Refreshed, TimerOutcome};
use crate::push::connection::{Connection, Transport};
use crate::push::session::Action;
use crate::push::tick::Tick;
use crate::push::websocket::{Extent, Parting, Read, Stage, WebSocket};
use crate::push::wire::{Close, Frame, Token};

/// What the kernel holds for a client that does not read. By itself it would let that grow to some megabytes, for each.
const SEND_BUFFER: usize = 64 * 1024;

/// Sockets that had more to read than they had a turn for, and have another one in the same round.
const READ_ON_AT_ONCE: usize = 256;

/// Timers that run in one round. Many can have one deadline: those of clients that came together.
const TIMERS_AT_ONCE: usize = 256;

/// Connections that are rejected after their handshake and receive a close code. Beyond that they are cut off.
const MAX_REJECTED: usize = 1_024;

/// The text `ping`, for clients that only see texts, and a ping frame, which libraries answer by themselves.
const HEARTBEAT: &[u8] = b"\x81\x04ping\x89\x00";

/// Where to read what a client sent.
enum From {
    /// It came with the handshake.
    Handshake(Bytes),
    /// From the socket, this far.
    Socket(Extent),
}

impl Shard {
    fn client(&mut self, id: ConnectionId) -> Option<&mut Client> {
        self.connections.get_mut(id)?.client()
    }

    /// Takes over a WebSocket after its handshake.
    pub(super) fn adopt(&mut self, who: &Connecting, upgraded: Upgraded, inbox: &mpsc::WeakSender<Request>) {
        let Upgraded { stream, read, lasts, permits } = upgraded;
        let now = self.ctx.clock.now();
        let mut client = Client::new(WebSocket::new(stream), now, lasts, permits);
        let admitted = self.admit(&who.channel);
        let id = self.next_id();
        let stream = client.socket.stream();
        // If the system does not set it, what waits here is bounded all the same.
        let _ = set_socket_send_buffer_size(&*stream, SEND_BUFFER);
        if self.sockets.readiness.watch(stream, id).is_err() {
            // The kernel has no room for it.
            if admitted.is_ok() {
                self.local.leave();
            }
            return;
        }
        match admitted {
            Ok(channel) => {
                self.add(id, channel, Transport::WebSocket(client), who);
                if !read.is_empty() {
                    self.read(id, From::Handshake(read), now, inbox);
                }
            }
            Err(why) => self.reject(id, client, why),
        }
        self.rearm(id);
    }

    /// Closes a WebSocket that was not admitted.
    fn reject(&mut self, id: ConnectionId, mut client: Client, why: Close) {
        client.count_end(Some(why.code()), &self.ctx.metrics);
        client.close(why, self.ctx.clock.now());
        if self.sockets.rejected < MAX_REJECTED {
            self.sockets.rejected += 1;
            self.connections.insert(id, Connection::new(None, Transport::WebSocket(client)));
        }
    }

    /// Reads and writes the sockets that are ready.
    pub(super) fn poll_sockets(&mut self, inbox: &mpsc::WeakSender<Request>) {
        let now = self.ctx.clock.now();
        let count = self.sockets.unread.len().min(READ_ON_AT_ONCE);
        for id in self.sockets.unread.drain(..count).collect::<Vec<_>>() {
            self.read(id, From::Socket(Extent::End), now, inbox);
            self.rearm(id);
        }
        for (id, readable, is_writable) in self.sockets.readiness.take() {
            if is_writable && let Some(client) = self.client(id) {
                client.flush(now);
            }
            if let Some(extent) = readable {
                self.read(id, From::Socket(extent), now, inbox);
            }
            self.rearm(id);
        }
    }

    /// Reads what a client sent, and does what that asks for.
    fn read(&mut self, id: ConnectionId, from: From, now: Tick, inbox: &mpsc::WeakSender<Request>) {
        let mut buffer = std::mem::take(&mut self.sockets.buffer);
        let mut actions = std::mem::take(&mut self.sockets.actions);
        let limits = self.ctx.limits;
        let mut read = Read::Later;
        if let Some(client) = self.client(id) {
            read = match from {
                From::Handshake(bytes) => {
                    let input = Input::Handshake(&mut Vec::from(bytes));
                    client.read(input, now, &limits, &mut actions)
                }
                From::Socket(extent) => {
                    client.read(Input::Socket(&mut buffer, extent), now, &limits, &mut actions)
                }
            };
        }
        for action in actions.drain(..) {
            self.act(id, action, inbox);
        }
        match read {
            Read::Later => {}
            Read::Again => self.sockets.unread.push_back(id),
            Read::Ended(parting) => self.part(id, parting),
        }
        (self.sockets.buffer, self.sockets.actions) = (buffer, actions);
    }

    /// Answers a client that ended the connection, or violated the protocol.
    fn part(&mut self, id: ConnectionId, parting: Parting) {
        let (now, metrics) = (self.ctx.clock.now(), self.ctx.metrics.clone());
        if let Some(client) = self.client(id) {
            client.part(parting, now);
            let code = match parting {
                Parting::Goodbye(_) => None,
                Parting::Violation(violation) => Some(violation.code()),
            };
            client.count_end(code, &metrics);
        }
    }

    fn act(&mut self, id: ConnectionId, action: Action, inbox: &mpsc::WeakSender<Request>) {
        match action {
            Action::Reply(message) => self.send(id, &message.frame()),
            Action::Pong => self.send(id, &Frame::text(b"pong")),
            Action::Heartbeat => {
                let (limits, clock) = (self.ctx.limits, self.ctx.clock);
                if let Some(client) = self.client(id) {
                    // If too much waits already, its time runs out by itself.
                    let _ = client.send(Bytes::from_static(HEARTBEAT), &clock, &limits);
                }
            }
            Action::SendActive => self.send_state(id),
            Action::Close(why) => {
                let ctx = &self.ctx;
                self.connections.update(id, |connection| connection.close(why, ctx));
            }
            Action::Acknowledge(broadcast) => self.acknowledge(id, broadcast),
            Action::Refresh(token) => self.refresh(id, token, inbox),
        }
    }

    /// Sends a connection one message, after what it lacks of its channel's backlog.
    fn send(&mut self, id: ConnectionId, frame: &Frame) {
        self.catch_up(id);
        let ctx = &self.ctx;
        self.connections.update(id, |connection| connection.send(frame, ctx));
    }

    /// Has a token verified. A session allows one at a time.
    fn refresh(&mut self, id: ConnectionId, token: Token, inbox: &mpsc::WeakSender<Request>) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(channel) = connection.channel.and_then(|channel| self.channels.get(channel)) else { return };
        let (user, channel) = (connection.user().clone(), channel.name.clone());
        let (refreshed, inbox) = (self.ctx.tokens.verify(token, user, channel), inbox.clone());
        tokio::spawn(async move {
            let refreshed = refreshed.await;
            if let Some(inbox) = inbox.upgrade() {
                // Without a receiver the shard has ended: the replica stops.
                let _ = inbox.send(Request::Refreshed(id, refreshed)).await;
            }
        });
    }

    pub(super) fn refreshed(&mut self, id: ConnectionId, refreshed: Refreshed) {
        if let Ok(granted) = &refreshed
            && let Some(channel) = self.channel_of(id)
        {
            self.channels[channel].set_staff(id, granted.staff);
        }
        self.catch_up(id);
        let ctx = &self.ctx;
        self.connections.update(id, |connection| connection.refreshed(refreshed, ctx));
        self.rearm(id);
    }

    /// Arms the timer of a client whose state has changed; removes one that is gone.
    fn rearm(&mut self, id: ConnectionId) {
        let Some(client) = self.connections.get_mut(id).and_then(Connection::client) else { return };
        self.sockets.timers.arm(client, id, &self.ctx.limits);
        if client.socket.stage() == Stage::Over {
            self.remove(id);
        }
    }

    /// Rearms the timers of clients that may need an earlier deadline.
    pub(super) fn rearm_dirty(&mut self) {
        for id in self.connections.take_dirty() {
            self.rearm(id);
        }
    }

    /// Runs the timers that are due. Those beyond the limit run in the next round.
    pub(super) fn run_timers(&mut self, inbox: &mpsc::WeakSender<Request>) {
        let (limits, now) = (self.ctx.limits, self.ctx.clock.now());
        for _ in 0..TIMERS_AT_ONCE {
            let Some((at, id)) = self.sockets.timers.take(now) else { return };
            let Some(client) = self.client(id).filter(|client| client.armed == Some(at)) else { continue };
            client.armed = None;
            match client.on_timer(now, &limits) {
                TimerOutcome::Gone => self.remove(id),
                TimerOutcome::Act(action) => {
                    self.act(id, action, inbox);
                    self.rearm(id);
                }
                TimerOutcome::Wait => self.rearm(id),
            }
        }
    }
}
