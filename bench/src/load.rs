//! The load: as many clients as wanted and one creator, on one thread over epoll, at a low cost of its own.

mod creator;
mod plan;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send, socket_with,
    sockopt,
};

use crate::frames::{PONG, TEXT, find, frame_at, of_client};
use crate::heard::{Heard, Reaction, long_message, message};
use crate::identity::Issuer;
pub use creator::Accepted;
use creator::Creator;
pub use plan::Plan;

/// Clients that connect from one loopback address. Each load takes new ones: all of 127.0.0.0/8 is there, and no port is
/// waited for that an earlier load has left.
const CLIENTS_AN_ADDRESS: usize = 5_000;
const ADDRESSES_A_LOAD: u32 = 64;

/// What the kernel keeps for a client that does not read: little, so that it is slow soon.
const DEAF_RECEIVE_BUFFER: usize = 4 * 1024;

/// Sockets that are looked at in one go. Few, so that the creator's answer is seen when it comes.
const EVENTS: usize = 64;

/// What did not happen by then does not happen.
const TIMEOUT: Duration = Duration::from_mins(3);

/// What comes twice comes the second time soon.
const AFTERWARDS: Duration = Duration::from_millis(100);

/// The creator, among the clients.
const CREATOR: u64 = u64::MAX;

enum Phase {
    Connecting,
    Upgrading,
    Open,
    /// It is open, and does not read any more.
    Deaf,
    Gone,
}

struct Client {
    socket: Option<OwnedFd>,
    phase: Phase,
    becomes_deaf: bool,
    /// The number of the broadcast that it gets next.
    next: u64,
    /// What came of a message that is not whole yet.
    rest: Vec<u8>,
}

/// Clients of one server.
pub struct Load {
    epoll: OwnedFd,
    server: SocketAddrV4,
    plan: Plan,
    /// A client's by its number; made before anybody connects.
    tokens: Vec<String>,
    clients: Vec<Client>,
    creator: Creator,
    accepted: Option<Accepted>,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    pong: Vec<u8>,
    next_number: u64,
    first_address: u32,
    /// How long it looks away once it has seen all that there is.
    looks_away: Duration,
    /// What the clients have heard.
    pub heard: Heard,
    /// Clients whose handshake was accepted.
    pub upgraded: usize,
    /// Clients that did not get in.
    pub refused: usize,
    /// Clients that were in and lost their connection, but for those that do not read.
    pub lost: usize,
}

impl Load {
    /// Nobody connects yet, and everybody has a token of this issuer. The so many-th load of this process has addresses of its own.
    pub fn of(server: SocketAddrV4, plan: Plan, number: u32, issuer: &Issuer) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            server,
            plan,
            tokens: issuer.tokens("user", plan.clients)?,
            clients: Vec::with_capacity(plan.clients),
            creator: Creator::of(server, issuer.token("bench", "creator")?),
            accepted: None,
            events: Vec::with_capacity(EVENTS),
            buffer: vec![0; 64 * 1024],
            pong: of_client(PONG, b""),
            next_number: 0,
            // 127.0.0.1 is everybody's.
            first_address: u32::from(Ipv4Addr::new(127, 0, 1, 0)) + number * ADDRESSES_A_LOAD,
            looks_away: Duration::ZERO,
            heard: Heard::default(),
            upgraded: 0,
            refused: 0,
            lost: 0,
        })
    }

    /// Connects all, and waits until each is in or refused, and greeted if that is planned. Returns how long it took.
    pub fn connect(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        while self.clients.len() < self.plan.clients {
            let done = self.upgraded + self.refused;
            if self.clients.len() - done < self.plan.at_once {
                self.begin_client()?;
            } else {
                self.turn()?;
            }
        }
        let Plan { clients, greeted, .. } = self.plan;
        self.until("every handshake is answered", |load| {
            let served = if greeted { load.heard.greeted } else { load.upgraded };
            served + load.refused + load.lost >= clients
        })?;
        let took = begun.elapsed();
        for (index, client) in self.clients.iter_mut().enumerate().filter(|(_, client)| client.becomes_deaf) {
            client.phase = Phase::Deaf;
            if let Some(socket) = &client.socket {
                epoll::modify(&self.epoll, socket, data(index), epoll::EventFlags::empty())?;
            }
        }
        Ok(took)
    }

    fn begin_client(&mut self) -> anyhow::Result<()> {
        let index = self.clients.len();
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .context("a socket (ulimit -n allows too few?)")?;
        // Spread evenly among the others.
        let becomes_deaf = index * self.plan.deaf % self.plan.clients < self.plan.deaf;
        if becomes_deaf {
            sockopt::set_socket_recv_buffer_size(&socket, DEAF_RECEIVE_BUFFER)?;
        }
        let address = self.first_address + u32::try_from(index / CLIENTS_AN_ADDRESS)?;
        bind(&socket, &SocketAddrV4::new(address.into(), 0)).context("a source address")?;
        match connect(&socket, &self.server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => bail!("a client connects to {}: {error}", self.server),
        }
        epoll::add(&self.epoll, &socket, data(index), epoll::EventFlags::OUT)?;
        let (rest, next) = (Vec::new(), self.next_number);
        self.clients.push(Client {
            socket: Some(socket),
            phase: Phase::Connecting,
            becomes_deaf,
            next,
            rest,
        });
        Ok(())
    }

    /// An address that none of its clients connects from.
    pub fn spare_address(&self) -> Ipv4Addr {
        (self.first_address + ADDRESSES_A_LOAD - 1).into()
    }

    /// How many clients get a broadcast.
    pub const fn everybody(&self) -> usize {
        self.plan.clients - self.plan.deaf
    }

    /// Posts the next broadcast, and returns its number.
    pub fn post(&mut self) -> anyhow::Result<u64> {
        let number = self.next_number;
        self.next_number += 1;
        self.accepted = None;
        let text = if self.plan.long { long_message(number) } else { message(number) };
        self.creator.post(&text, &self.epoll, epoll::EventData::new_u64(CREATOR))?;
        Ok(number)
    }

    /// Waits until the last one that was posted is accepted.
    pub fn accepted(&mut self) -> anyhow::Result<Accepted> {
        let begun = Instant::now();
        loop {
            if let Some(accepted) = self.accepted.take() {
                return Ok(accepted);
            }
            ensure!(begun.elapsed() < TIMEOUT, "a broadcast is not answered");
            self.turn()?;
        }
    }

    /// Waits until everybody has a broadcast, and returns when the last client got it.
    pub fn delivered(&mut self, number: u64) -> anyhow::Result<Instant> {
        self.until("everybody has the broadcast", |load| load.heard.completed_at(number).is_some())?;
        self.heard.completed_at(number).context("it is complete")
    }

    /// One client acknowledges a broadcast.
    pub fn acknowledge(&mut self, client: usize, broadcast: &str) -> anyhow::Result<()> {
        let text = format!(r#"{{"type":"acknowledge_broadcast","broadcast_id":"{broadcast}"}}"#);
        let frame = of_client(TEXT, text.as_bytes());
        let socket = self.clients[client].socket.as_ref().context("the client is connected")?;
        let sent = send(socket, &frame, SendFlags::NOSIGNAL)?;
        ensure!(sent == frame.len(), "an acknowledgement fits into a socket's buffer");
        Ok(())
    }

    /// Waits for something to be so of the clients.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !done(self) {
            if begun.elapsed() > TIMEOUT {
                let Self { upgraded, refused, lost, .. } = *self;
                let Heard { greeted, deliveries, confirmed, .. } = self.heard;
                bail!(
                    "not after {} s: {what}. Of {} clients {upgraded} got in, {greeted} were greeted, {refused} refused and \
                     {lost} lost; {deliveries} deliveries, {confirmed} confirmations; {:?}",
                    TIMEOUT.as_secs(),
                    self.plan.clients,
                    self.heard.trouble
                );
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Hears what is still under way, so that a broadcast which comes once more does not come too late to count.
    pub fn overhear(&mut self) -> anyhow::Result<()> {
        self.listen(AFTERWARDS)
    }

    /// Listens for so long.
    pub fn listen(&mut self, how_long: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < how_long {
            self.turn()?;
        }
        Ok(())
    }

    /// From now on it looks away for so long whenever it has seen all that there is. A load that sleeps until something comes is
    /// woken by whoever sends it something, message by message, on the sender's time; clients on other machines are not.
    pub const fn look_away_for(&mut self, looks_away: Duration) {
        self.looks_away = looks_away;
    }

    /// Handles what there is, or waits for it for a moment.
    fn turn(&mut self) -> anyhow::Result<()> {
        let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&moment)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for sockets"),
        }
        for event in &events {
            match event.data.u64() {
                CREATOR => {
                    let first = || format!("the first trouble of clients: {:?}", self.heard.trouble);
                    if let Some(accepted) = self.creator.read().with_context(first)? {
                        self.accepted = Some(accepted);
                    }
                }
                index => self.serve(usize::try_from(index)?)?,
            }
        }
        if events.len() < EVENTS && !self.looks_away.is_zero() {
            sleep(self.looks_away);
        }
        self.events = events;
        Ok(())
    }

    fn serve(&mut self, index: usize) -> anyhow::Result<()> {
        match self.clients[index].phase {
            Phase::Connecting => return self.ask(index),
            // Nothing wakes it but the end of its connection.
            Phase::Deaf => return self.lose(index, "it was reset, for it does not read"),
            Phase::Upgrading | Phase::Open | Phase::Gone => {}
        }
        let client = &mut self.clients[index];
        let Some(socket) = &client.socket else { return Ok(()) };
        let read = match recv(socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => return self.lose(index, "the server closed"),
            Ok((read, _)) => read,
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return self.lose(index, &error.to_string()),
        };
        if client.rest.is_empty() && matches!(client.phase, Phase::Open) {
            let buffer = std::mem::take(&mut self.buffer);
            let taken = self.take(index, &buffer[..read])?;
            self.clients[index].rest.extend(&buffer[taken..read]);
            self.buffer = buffer;
            return Ok(());
        }
        client.rest.extend(&self.buffer[..read]);
        let rest = std::mem::take(&mut client.rest);
        let taken = self.take(index, &rest)?;
        self.clients[index].rest = rest[taken..].to_vec();
        Ok(())
    }

    /// It is connected, or could not be: then it asks to be upgraded.
    fn ask(&mut self, index: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[index];
        let Some(socket) = &client.socket else { return Ok(()) };
        if let Err(error) = sockopt::socket_error(socket)? {
            return self.lose(index, &error.to_string());
        }
        let request = format!(
            "GET /api/creator/broadcast/ws?user_id=user-{index}&role=user HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {}\r\n\r\n",
            self.server, self.tokens[index]
        );
        match send(socket, request.as_bytes(), SendFlags::NOSIGNAL) {
            Ok(sent) => ensure!(sent == request.len(), "a handshake fits into a socket's buffer"),
            Err(error) => return self.lose(index, &error.to_string()),
        }
        epoll::modify(&self.epoll, socket, data(index), epoll::EventFlags::IN)?;
        client.phase = Phase::Upgrading;
        Ok(())
    }

    /// Takes what is whole of what a client received, and returns how much that is.
    fn take(&mut self, index: usize, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut at = 0;
        if matches!(self.clients[index].phase, Phase::Upgrading) {
            let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(0) };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                self.lose(index, &String::from_utf8_lossy(bytes))?;
                return Ok(bytes.len());
            }
            self.clients[index].phase = Phase::Open;
            self.upgraded += 1;
            at = end + 4;
        }
        while let Some(frame) = frame_at(bytes, at) {
            let everybody = self.everybody();
            match self.heard.hear(bytes, &frame, &mut self.clients[index].next, everybody) {
                Reaction::None => {}
                Reaction::Pong => {
                    if let Some(socket) = &self.clients[index].socket {
                        send(socket, &self.pong, SendFlags::NOSIGNAL).context("a pong")?;
                    }
                }
                Reaction::Close => {
                    self.lose(index, "")?;
                    return Ok(bytes.len());
                }
            }
            at = frame.payload.end;
        }
        Ok(at)
    }

    /// A client is gone.
    fn lose(&mut self, index: usize, why: &str) -> anyhow::Result<()> {
        let client = &mut self.clients[index];
        if let Some(socket) = client.socket.take() {
            epoll::delete(&self.epoll, socket)?;
        }
        match std::mem::replace(&mut client.phase, Phase::Gone) {
            Phase::Open => self.lost += 1,
            Phase::Connecting | Phase::Upgrading => self.refused += 1,
            Phase::Deaf | Phase::Gone => {}
        }
        self.heard.note(format!("client {index} is gone: {why}"));
        Ok(())
    }
}

fn data(index: usize) -> epoll::EventData {
    epoll::EventData::new_u64(index as u64)
}

#[cfg(test)]
mod tests;
