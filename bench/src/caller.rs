//! A caller: one HTTP connection of one user, on which a request follows the answer to the one before.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::frames::{find, number_after};

/// What is not answered by then is not answered.
const TIMEOUT: Duration = Duration::from_mins(1);

/// One connection.
pub struct Caller {
    stream: TcpStream,
    server: SocketAddrV4,
    token: String,
}

/// What came back.
pub struct Answer {
    /// The status.
    pub status: u64,
    /// The body.
    pub body: Value,
    /// From the request to the last byte of the answer.
    pub took: Duration,
}

impl Caller {
    /// Connects, to call with this token.
    pub fn connect(server: SocketAddrV4, token: String) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server).context("a caller connects")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, server, token })
    }

    /// Sends a request to a path below the channel's, with this body if there is any, and waits for the answer.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} /api/creator/broadcast{path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.server,
            self.token,
            body.len()
        );
        let begun = Instant::now();
        self.stream.write_all(request.as_bytes())?;
        let (mut received, mut buffer) = (Vec::new(), [0; 8 * 1024]);
        loop {
            let read = self.stream.read(&mut buffer).context("an answer")?;
            ensure!(read > 0, "the server closed a caller's connection");
            received.extend(buffer.get(..read).context("it was read")?);
            let Some(end) = find(&received, b"\r\n\r\n") else { continue };
            let head = received.get(..end).context("a head")?.to_ascii_lowercase();
            let length = number_after(&head, b"content-length: ").context("an answer has a length")?;
            let Some(body) = received.get(end + 4..end + 4 + usize::try_from(length)?) else { continue };
            let status = number_after(&head, b"http/1.1 ").context("an answer has a status")?;
            return Ok(Answer { status, body: serde_json::from_slice(body)?, took: begun.elapsed() });
        }
    }

    /// The same, when it must succeed: how long it took.
    pub fn succeed(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let answer = self.call(method, path, body)?;
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        Ok(answer)
    }
}
