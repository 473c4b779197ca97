//! The creator: one connection that posts a broadcast after the other, and notes when each is accepted.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use rustix::event::epoll;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with, sockopt,
};
use serde_json::{Value, json};

use crate::frames::{find, number_after};

/// A broadcast that was posted, and accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The broadcast's id.
    pub id: String,
    /// When it was posted.
    pub posted: Instant,
    /// When the answer came.
    pub at: Instant,
}

/// One HTTP connection, from the first post on: a server does not wait long for the first request of a connection. When it
/// is closed in between, the next post takes another one.
pub struct Creator {
    socket: Option<OwnedFd>,
    server: SocketAddrV4,
    token: String,
    posted: Instant,
    /// Whether what was posted last is not answered yet.
    waits: bool,
    received: Vec<u8>,
}

impl Creator {
    /// One that has not connected yet.
    pub(super) fn of(server: SocketAddrV4, token: String) -> Self {
        Self { socket: None, server, token, posted: Instant::now(), waits: false, received: Vec::new() }
    }

    /// Its connection; when there is none it connects, and waits for that, and is watched from then on.
    fn connected(&mut self, epoll: &OwnedFd, data: epoll::EventData) -> anyhow::Result<&OwnedFd> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            none => {
                let socket =
                    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                connect(&socket, &self.server).context("the creator connects")?;
                sockopt::set_tcp_nodelay(&socket, true)?;
                epoll::add(epoll, &socket, data, epoll::EventFlags::IN)?;
                Ok(none.insert(socket))
            }
        }
    }

    /// Posts a broadcast, and does not wait.
    pub(super) fn post(
        &mut self,
        message: &str,
        epoll: &OwnedFd,
        data: epoll::EventData,
    ) -> anyhow::Result<()> {
        let body = json!({"message": message, "type": "info"}).to_string();
        let request = format!(
            "POST /api/creator/broadcast HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.server,
            self.token,
            body.len()
        );
        let socket = self.connected(epoll, data)?;
        let posted = Instant::now();
        let sent = send(socket, request.as_bytes(), SendFlags::NOSIGNAL)?;
        (self.posted, self.waits) = (posted, true);
        ensure!(sent == request.len(), "the request fits into the socket's buffer");
        Ok(())
    }

    /// Reads what there is; the answer, once it is whole.
    pub(super) fn read(&mut self) -> anyhow::Result<Option<Accepted>> {
        let at = Instant::now();
        let mut buffer = [0; 16 * 1024];
        let socket = self.socket.as_ref().context("who is answered is connected")?;
        let (read, _) = recv(socket, &mut buffer, RecvFlags::DONTWAIT)?;
        if read == 0 {
            ensure!(!self.waits, "the server closed the creator's connection");
            // It has been idle for too long. The next post takes another one.
            self.socket = None;
            return Ok(None);
        }
        self.received.extend(&buffer[..read]);
        let Some(end) = find(&self.received, b"\r\n\r\n") else { return Ok(None) };
        let head = self.received[..end].to_ascii_lowercase();
        let length = number_after(&head, b"content-length: ").context("an answer has a length")?;
        let body = end + 4..end + 4 + usize::try_from(length)?;
        let Some(body) = self.received.get(body) else { return Ok(None) };
        let answer: Value = serde_json::from_slice(body).context("an answer is JSON")?;
        let Some(id) = answer["id"].as_str().filter(|_| head.starts_with(b"http/1.1 201")) else {
            bail!("a broadcast was not accepted: {answer}");
        };
        let accepted = Accepted { id: id.to_owned(), posted: self.posted, at };
        self.received.clear();
        self.waits = false;
        Ok(Some(accepted))
    }
}
