//! A bare TCP connection: for bytes that no client library would send, and for clients that do not behave.

use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::contract::{asyncapi, openapi};
use super::{PATIENCE, Replica};

/// The first byte of a whole frame: FIN and the opcode.
pub const TEXT: u8 = 0x81;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
pub const CLOSE: u8 = 0x88;

pub struct Raw {
    stream: TcpStream,
    /// Read and not yet looked at.
    unread: Vec<u8>,
}

/// An answer of HTTP.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Raw {
    pub async fn connect(replica: &Replica) -> Self {
        TcpStream::connect(address(replica)).await.unwrap().into()
    }

    /// After a WebSocket handshake made by hand.
    pub async fn websocket(replica: &Replica, query: &str) -> Self {
        Self::connect(replica).await.upgraded(query).await
    }

    /// The same, with a receive buffer that holds next to nothing.
    pub async fn narrow_websocket(replica: &Replica, query: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2_048).unwrap();
        let stream = socket.connect(address(replica).parse().unwrap()).await.unwrap();
        Self::from(stream).upgraded(query).await
    }

    async fn upgraded(mut self, query: &str) -> Self {
        let request = format!(
            "GET /api/creator/broadcast/ws{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        );
        self.send(request.as_bytes()).await;
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // RFC 6455 gives this answer to the key of its example.
        assert!(
            head.to_ascii_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{head}"
        );
        assert!(
            !head.to_ascii_lowercase().contains("extensions"),
            "compression is offered, and not taken: {head}"
        );
        self
    }

    /// Sends bytes; the peer may have closed already.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Up to the empty line that ends an HTTP head, or to the end.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                return String::from_utf8_lossy(&self.take(end + 4)).into_owned();
            }
            if !self.fill().await {
                let rest = self.unread.len();
                return String::from_utf8_lossy(&self.take(rest)).into_owned();
            }
        }
    }

    /// An answer of HTTP that says how long it is and is JSON.
    pub async fn answer(&mut self) -> Answered {
        let head = self.head().await;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        let fields = lines.filter_map(|line| line.split_once(": "));
        let fields =
            fields.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        let headers: HeaderMap = fields.collect();
        let length = headers.get("content-length").map(|length| length.to_str().unwrap().parse().unwrap());
        let length = length.unwrap_or_else(|| panic!("no length: {head:?}"));
        self.need(length).await.expect("a body as long as it says");
        let body = serde_json::from_slice(&self.take(length)).unwrap();
        Answered { status: status.unwrap_or_else(|| panic!("no answer: {head:?}")), headers, body }
    }

    /// An answer to what is no request, or to a client for whom there is no place; the connection ends with it.
    pub async fn refusal(&mut self) -> (u16, String) {
        let Answered { status, headers, body } = self.answer().await;
        openapi::hold_anywhere(status, &headers, &serde_json::to_vec(&body).unwrap());
        assert_eq!(headers["connection"], "close");
        assert_eq!(headers.contains_key(RETRY_AFTER), status == 503, "{body}");
        assert_eq!(self.rest().await, b"", "it ends with its answer");
        (status, body["code"].as_str().unwrap().to_owned())
    }

    /// The status of an answer to what is no request of HTTP/1.1, which the parser gives without a body; the connection ends
    /// with it.
    pub async fn unparsable(&mut self) -> u16 {
        let head = self.head().await;
        assert!(head.contains("connection: close\r\n") && head.contains("content-length: 0\r\n"), "{head}");
        assert_eq!(self.rest().await, b"", "it ends with its answer");
        head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {head}"))
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.unread)
    }

    /// A frame, masked as a client's must be.
    pub async fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&Self::masked(first, payload)).await;
    }

    /// The bytes of a frame as clients send it.
    pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(payload.len()).unwrap() {
            short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
            long => {
                frame.push(0x80 | 0x7e);
                frame.extend(long.to_be_bytes());
            }
        }
        let mask = [7, 1, 8, 2];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// The next frame of the server: its first byte and its payload; `None` at the end.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        self.need(2).await?;
        let (first, short) = (self.unread[0], self.unread[1]);
        assert!(short & 0x80 == 0, "a server does not mask");
        let (head, length) = match short {
            126 => {
                self.need(4).await?;
                (4, usize::from(u16::from_be_bytes([self.unread[2], self.unread[3]])))
            }
            127 => panic!("no message of ours is that long"),
            short => (2, usize::from(short)),
        };
        self.need(head + length).await?;
        let payload = self.take(head + length).split_off(head);
        match first {
            TEXT => asyncapi::hold_told(std::str::from_utf8(&payload).unwrap()),
            CLOSE => asyncapi::hold_closed(u16::from_be_bytes([payload[0], payload[1]])),
            _ => {}
        }
        Some((first, payload))
    }

    /// Reads on to the close frame and returns its code; `None` when the connection just ended.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            let (first, payload) = self.frame().await?;
            if first == CLOSE {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
    }

    async fn need(&mut self, bytes: usize) -> Option<()> {
        while self.unread.len() < bytes {
            if !self.fill().await {
                return None;
            }
        }
        Some(())
    }

    /// Reads what there is; `false` at the end, which a reset is, too.
    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        read.expect("the server says something in time").is_ok_and(|bytes| bytes > 0)
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.unread.split_off(bytes);
        std::mem::replace(&mut self.unread, rest)
    }
}

impl From<TcpStream> for Raw {
    fn from(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }
}

fn address(replica: &Replica) -> String {
    replica.url().trim_start_matches("http://").to_owned()
}
