//! A shard's sockets: those that are ready are read and written, those whose time has come are looked after.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::sync::mpsc;

use super::{Connecting, ConnectionId, Request, Shard, Upgraded};
use crate::push::client::{Client, From, Refreshed, Tick};
use crate::push::connection::{Connection, Means};
use crate::push::hub::Outgoing;
use crate::push::moment::{Moment, Stopwatch};
use crate::push::readiness::Readiness;
use crate::push::session::Action;
use crate::push::socket::{Extent, Parting, Read, Socket, Stage};
use crate::push::timers::Timers;
use crate::push::wire::{Frame, Token};

/// All sockets of a shard are read through one buffer of this size.
const READ_BUFFER: usize = 16 * 1024;

/// What the kernel holds for a client that does not read. By itself it would let that grow to some megabytes, for each.
const SEND_BUFFER: usize = 64 * 1024;

/// Sockets that had more to read than they had a turn for, and have another one in the same round.
const READ_ON_AT_ONCE: usize = 256;

/// Clients that are looked after in one round because their time has come. Many can have one deadline: those who came together.
const KEPT_AT_ONCE: usize = 256;

/// Connections that were refused after their handshake and may hear why. Beyond that they are cut off.
const MAX_REFUSED: usize = 1_024;

/// The text `ping`, for clients that hear texts alone, and a ping frame, which libraries answer by themselves.
const HEARTBEAT: &[u8] = b"\x81\x04ping\x89\x00";

/// What is heard of a client.
enum Heard {
    /// What it said with its handshake.
    Handshake(Bytes),
    /// What its socket has, so far.
    Socket(Extent),
}

/// What a shard has for its sockets.
pub(super) struct Sockets {
    readiness: Readiness,
    timers: Timers,
    buffer: Box<[u8]>,
    /// Those that may have more to read than they had a turn for.
    unread: VecDeque<usize>,
    /// Those that were refused and say goodbye.
    refused: BTreeMap<usize, Client>,
    actions: Vec<Action>,
}

impl Sockets {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            readiness: Readiness::new()?,
            timers: Timers::default(),
            buffer: vec![0; READ_BUFFER].into(),
            unread: VecDeque::new(),
            refused: BTreeMap::new(),
            actions: Vec::new(),
        })
    }

    pub(super) fn are_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(super) async fn wait_for_one(&self) {
        self.readiness.wait().await;
    }

    pub(super) async fn wait_for_deadline(&self, watch: &Stopwatch) {
        self.timers.wait(watch).await;
    }
}

impl Shard {
    /// A WebSocket's name for the kernel and the timers: its id, and on which floor it is.
    fn name(&self, floor: usize, id: ConnectionId) -> usize {
        usize::try_from(id).unwrap_or_default() * self.floors.len() + floor
    }

    pub(super) fn place(&self, name: usize) -> Option<(usize, ConnectionId)> {
        let of = self.floors.len();
        Some((name.checked_rem(of)?, (name / of) as u64))
    }

    fn client(&mut self, name: usize) -> Option<&mut Client> {
        let (floor, id) = self.place(name)?;
        match self.floors[floor].room.connections.get_mut(id) {
            Some(connection) => connection.client(),
            None => self.sockets.refused.get_mut(&name),
        }
    }

    /// Takes a WebSocket over after its handshake.
    pub(super) fn adopt(&mut self, who: &Connecting, upgraded: Upgraded, inbox: &mpsc::WeakSender<Request>) {
        let Upgraded { stream, read, lasts, places } = upgraded;
        let now = self.means.watch.now();
        let mut client = Client::new(Socket::new(stream), now, lasts, places);
        let admitted = self.admit(&who.channel);
        let (floor, id) = admitted.clone().unwrap_or_else(|_| {
            self.attached += 1;
            (0, self.attached * self.number.1 as u64 + self.number.0 as u64)
        });
        let name = self.name(floor, id);
        let stream = client.socket.stream();
        // Where the system does not take it, what waits here is bounded all the same.
        let _ = set_socket_send_buffer_size(&*stream, SEND_BUFFER);
        if self.sockets.readiness.watch(stream, name).is_err() {
            // The kernel has no room for it.
            if admitted.is_ok() {
                self.local.leave();
            }
            return;
        }
        if let Err(why) = admitted {
            client.count_end(Some(why.code()), &self.means.metrics);
            client.end(why, now);
            self.sockets.timers.arm(&mut client, name, &self.means.limits);
            if self.sockets.refused.len() < MAX_REFUSED {
                self.sockets.refused.insert(name, client);
            }
            return;
        }
        let connection = Connection::of_socket(who.staff, self.floors[floor].room.tape(), client);
        self.add(floor, id, connection, &who.user);
        self.greet(floor, id, who.heartbeat_seconds);
        if !read.is_empty() {
            self.hear(name, Heard::Handshake(read), now, inbox);
        }
        self.look_after(name);
    }

    /// Reads and writes the sockets that are ready.
    pub(super) fn attend(&mut self, inbox: &mpsc::WeakSender<Request>) {
        let now = self.means.watch.now();
        let count = self.sockets.unread.len().min(READ_ON_AT_ONCE);
        for name in self.sockets.unread.drain(..count).collect::<Vec<_>>() {
            self.hear(name, Heard::Socket(Extent::End), now, inbox);
            self.look_after(name);
        }
        let ready = self.sockets.readiness.take();
        for (name, readable, is_writable) in ready {
            if is_writable && let Some(client) = self.client(name) {
                client.flush(now);
            }
            if let Some(extent) = readable {
                self.hear(name, Heard::Socket(extent), now, inbox);
            }
            self.look_after(name);
        }
    }

    /// Hears what a client says, or said with its handshake, and does what that asks for.
    fn hear(&mut self, name: usize, heard: Heard, now: Moment, inbox: &mpsc::WeakSender<Request>) {
        let mut buffer = std::mem::take(&mut self.sockets.buffer);
        let mut actions = std::mem::take(&mut self.sockets.actions);
        let limits = self.means.limits;
        let mut read = Read::Later;
        if let Some(client) = self.client(name) {
            read = match heard {
                Heard::Handshake(bytes) => {
                    let from = From::Handshake(&mut Vec::from(bytes));
                    client.read(from, now, &limits, &mut actions)
                }
                Heard::Socket(extent) => {
                    client.read(From::Socket(&mut buffer, extent), now, &limits, &mut actions)
                }
            };
        }
        for action in actions.drain(..) {
            self.act(name, action, inbox);
        }
        match read {
            Read::Later => {}
            Read::Again => self.sockets.unread.push_back(name),
            Read::Ended(parting) => self.part(name, parting),
        }
        (self.sockets.buffer, self.sockets.actions) = (buffer, actions);
    }

    fn part(&mut self, name: usize, parting: Parting) {
        let (now, metrics) = (self.means.watch.now(), self.means.metrics.clone());
        if let Some(client) = self.client(name) {
            client.part(parting, now);
            let code = match parting {
                Parting::Goodbye(_) => None,
                Parting::Violation(violation) => Some(violation.code()),
            };
            client.count_end(code, &metrics);
        }
    }

    fn act(&mut self, name: usize, action: Action, inbox: &mpsc::WeakSender<Request>) {
        let Some((floor, id)) = self.place(name) else { return };
        let floor = &mut self.floors[floor];
        match action {
            Action::Reply(message) => {
                floor.room.tell(id, &Outgoing::Frame(message.frame()), &self.means);
            }
            Action::Pong => {
                floor.room.tell(id, &Outgoing::Frame(Frame::text(b"pong")), &self.means);
            }
            Action::Heartbeat => {
                let Means { limits, watch, .. } = self.means;
                if let Some(client) = self.client(name) {
                    // Too much waits already: its time runs out by itself.
                    let _ = client.say(Bytes::from_static(HEARTBEAT), &watch, &limits);
                }
            }
            Action::SendActive => floor.room.send_active(id, &self.means, self.sequence),
            Action::Close(why) => floor.room.end(id, why, &self.means),
            Action::Acknowledge(broadcast) => self.acknowledge(name, broadcast),
            Action::Refresh(token) => self.refresh(name, token, inbox),
        }
    }

    /// Has a token looked at for a client, whose session lets one be under way.
    fn refresh(&mut self, name: usize, token: Token, inbox: &mpsc::WeakSender<Request>) {
        let Some((floor, id)) = self.place(name) else { return };
        let Some(connection) = self.floors[floor].room.connections.get(id) else { return };
        let (user, channel) = (connection.user().clone(), self.floors[floor].channel.clone());
        let (refreshed, inbox) = (self.means.tokens.verify(token, user, channel), inbox.clone());
        tokio::spawn(async move {
            let refreshed = refreshed.await;
            if let Some(inbox) = inbox.upgrade() {
                // The shard has ended: the replica stops.
                let _ = inbox.send(Request::Refreshed(name, refreshed)).await;
            }
        });
    }

    pub(super) fn refreshed(&mut self, name: usize, refreshed: Refreshed) {
        if let Some((floor, id)) = self.place(name) {
            self.floors[floor].room.refreshed(id, refreshed, &self.means);
            self.look_after(name);
        }
    }

    /// Sees to it that a client whose state has changed is looked after in time; one who is gone, at once.
    fn look_after(&mut self, name: usize) {
        let limits = self.means.limits;
        let mut timers = std::mem::take(&mut self.sockets.timers);
        let is_gone = self.client(name).is_some_and(|client| {
            timers.arm(client, name, &limits);
            client.socket.stage() == Stage::Over
        });
        self.sockets.timers = timers;
        if is_gone {
            self.forget(name);
        }
    }

    fn forget(&mut self, name: usize) {
        self.sockets.refused.remove(&name);
        if let Some((floor, id)) = self.place(name) {
            self.remove(floor, id);
        }
    }

    /// Those for which something has changed while others were served.
    pub(super) fn look_after_troubled(&mut self) {
        for floor in 0..self.floors.len() {
            for id in std::mem::take(&mut self.floors[floor].room.troubled) {
                self.look_after(self.name(floor, id));
            }
        }
    }

    /// Does what the time asks for. What is left is due in the next round.
    pub(super) fn keep_time(&mut self, inbox: &mpsc::WeakSender<Request>) {
        let Means { limits, watch, .. } = self.means;
        let now = watch.now();
        for _ in 0..KEPT_AT_ONCE {
            let Some((at, name)) = self.sockets.timers.take(now) else { return };
            let Some(client) = self.client(name).filter(|client| client.armed == Some(at)) else { continue };
            client.armed = None;
            match client.tick(now, &limits) {
                Tick::Gone => self.forget(name),
                Tick::Act(action) => {
                    self.act(name, action, inbox);
                    self.look_after(name);
                }
                Tick::Wait => self.look_after(name),
            }
        }
    }
}
