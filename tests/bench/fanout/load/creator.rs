//! The creator: one connection that posts a broadcast after the other, and notes when each is accepted.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with, sockopt,
};
use serde_json::{Value, json};

use super::super::frames::{find, number_after};

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

/// One HTTP connection.
pub struct Creator {
    pub(super) socket: OwnedFd,
    server: SocketAddrV4,
    posted: Instant,
    received: Vec<u8>,
}

impl Creator {
    /// Connects, and waits for that.
    pub(super) fn connect(server: SocketAddrV4) -> anyhow::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &server).context("the creator connects")?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        Ok(Self { socket, server, posted: Instant::now(), received: Vec::new() })
    }

    /// Posts a broadcast, and does not wait.
    pub(super) fn post(&mut self, message: &str) -> anyhow::Result<()> {
        let body = json!({"message": message, "type": "info"}).to_string();
        let request = format!(
            "POST /api/creator/broadcast HTTP/1.1\r\nHost: {}\r\nX-User-Id: bench\r\nX-User-Role: creator\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.server,
            body.len()
        );
        self.posted = Instant::now();
        let sent = send(&self.socket, request.as_bytes(), SendFlags::NOSIGNAL)?;
        ensure!(sent == request.len(), "the request fits into the socket's buffer");
        Ok(())
    }

    /// Reads what there is; the answer, once it is whole.
    pub(super) fn read(&mut self) -> anyhow::Result<Option<Accepted>> {
        let at = Instant::now();
        let mut buffer = [0; 16 * 1024];
        let (read, _) = recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT)?;
        ensure!(read > 0, "the server closed the creator's connection");
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
        Ok(Some(accepted))
    }
}
