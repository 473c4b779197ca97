//! The floor: sockets that were accepted, a loop that writes the same bytes to each, and an answer to whatever a client says.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, getsockname, listen,
    recv, send, socket_with,
};
use tungstenite::handshake::derive_accept_key;

use crate::frames::{TEXT, find, number_after, of_server};

const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 256;

struct Server {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// By their descriptor's place in this list; `None` for one that is gone.
    sockets: Vec<Option<OwnedFd>>,
    /// Those that were upgraded.
    clients: Vec<usize>,
    /// What a client is answered that acknowledges.
    confirmation: Vec<u8>,
    /// Those that have acknowledged and wait for their answer, and how many of them may while others acknowledge.
    unanswered: VecDeque<usize>,
    may_wait: usize,
}

/// How a client's message begins: a text that is not in pieces.
const TEXT_OF_CLIENT: u8 = 0x80 | TEXT;

/// When nobody has acknowledged anything for so long, all that wait are answered.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Who acknowledges is answered when so many others have done so too, or nobody does.
pub(super) fn run(may_wait: usize) -> anyhow::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, super::BACKLOG.into())?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    super::say(SocketAddr::try_from(getsockname(&listener)?)?)?;
    let confirmation = of_server(&super::confirmation());
    let (sockets, clients, unanswered) = (Vec::new(), Vec::new(), VecDeque::new());
    let mut server = Server { epoll, listener, sockets, clients, confirmation, unanswered, may_wait };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        let patience = (!server.unanswered.is_empty()).then_some(&QUIET);
        match epoll::wait(&server.epoll, spare_capacity(&mut events), patience) {
            Ok(0) => server.answer_all_but(0)?,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => server.accept()?,
                index => server.read(usize::try_from(index)?)?,
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let index = EventData::new_u64(self.sockets.len() as u64);
                    epoll::add(&self.epoll, &socket, index, EventFlags::IN)?;
                    self.sockets.push(Some(socket));
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            }
        }
    }

    /// A handshake, a broadcast, an acknowledgement, or what nobody asked a client for. Whoever asks does so in one piece, and
    /// alone.
    fn read(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(socket) = &self.sockets[index] else { return Ok(()) };
        let mut buffer = [0; 4 * 1024];
        let request = match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((read @ 1.., _)) => &buffer[..read],
            Err(Errno::AGAIN) => return Ok(()),
            Ok(_) | Err(_) => {
                self.sockets[index] = None;
                return Ok(());
            }
        };
        if request.starts_with(&[TEXT_OF_CLIENT]) {
            self.unanswered.push_back(index);
            return self.answer_all_but(self.may_wait);
        }
        if request.starts_with(b"POST ") {
            return self.broadcast(index, request);
        }
        if request.starts_with(b"GET ") {
            let key = header(request, b"Sec-WebSocket-Key: ").context("a handshake has a key")?;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(key)
            );
            let sent = send(socket, answer.as_bytes(), SendFlags::NOSIGNAL)?;
            ensure!(sent == answer.len(), "an answer fits into a socket's buffer");
            self.clients.push(index);
        }
        Ok(())
    }

    /// Answers acknowledgements in their order, but for the last so many.
    fn answer_all_but(&mut self, rest: usize) -> anyhow::Result<()> {
        while self.unanswered.len() > rest
            && let Some(first) = self.unanswered.pop_front()
        {
            let Some(socket) = &self.sockets[first] else { continue };
            let sent = send(socket, &self.confirmation, SendFlags::NOSIGNAL)?;
            ensure!(sent == self.confirmation.len(), "a confirmation fits into a socket's buffer");
        }
        Ok(())
    }

    fn broadcast(&self, creator: usize, request: &[u8]) -> anyhow::Result<()> {
        let end = find(request, b"\r\n\r\n").context("a head ends")? + 4;
        let length = number_after(request, b"Content-Length: ").context("a body has a length")?;
        let body =
            request.get(end..end + usize::try_from(length)?).context("a broadcast comes in one piece")?;
        let frame = of_server(&super::told(&serde_json::from_slice(body)?));
        let json = super::answer().to_string();
        let answer = format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{json}", json.len());
        if let Some(creator) = &self.sockets[creator] {
            send(creator, answer.as_bytes(), SendFlags::NOSIGNAL)?;
        }
        for client in self.clients.iter().filter_map(|client| self.sockets[*client].as_ref()) {
            // One whose buffer is full misses it, which the load notices.
            let _ = send(client, &frame, SendFlags::NOSIGNAL);
        }
        Ok(())
    }
}

fn header<'a>(request: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = &request[find(request, name)? + name.len()..];
    Some(&value[..find(value, b"\r\n")?])
}
