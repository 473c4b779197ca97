//! The protocol of NATS by hand, as any tool that was written by others speaks it: lines over TCP, and JSON for JetStream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Nats, PATIENCE};

/// What comes over the wire, but for pings.
#[derive(Debug)]
pub enum Heard {
    Message(Delivered),
    /// The server complains of what was sent.
    Error(String),
    Pong,
}

/// A message as it comes.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub subject: String,
    /// Where an answer is wanted. Of a delivery it says where the message stands.
    pub reply: String,
    /// The number and the words behind `NATS/1.0`, if there are any.
    pub status: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Delivered {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A connection.
pub struct Wire {
    stream: BufReader<TcpStream>,
    asked: u32,
}

impl Wire {
    /// Connects as a user, who may be turned away later, and hears what is sent to `_INBOX.wire.*`.
    pub async fn connect(nats: &Nats, user: &str, password: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", nats.port())).await.unwrap();
        let mut wire = Self { stream: BufReader::new(stream), asked: 0 };
        assert!(wire.line().await.starts_with("INFO {"));
        let hello = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "user": user, "pass": password, "name": "by hand", "lang": "test", "version": "0", "protocol": 1,
        });
        wire.send(&format!("CONNECT {hello}\r\nPING\r\n")).await;
        assert!(matches!(wire.heard().await, Heard::Pong), "it is let in");
        wire.send("SUB _INBOX.wire.* 1\r\n").await;
        wire
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await.expect("a line in time").unwrap();
        line.trim_end().to_owned()
    }

    /// What comes next.
    pub async fn heard(&mut self) -> Heard {
        loop {
            let line = self.line().await;
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["PING"] => self.send("PONG\r\n").await,
                ["PONG"] => return Heard::Pong,
                ["-ERR", ..] => return Heard::Error(line),
                ["INFO", ..] => {}
                ["MSG", subject, _, size] => return self.message(subject, "", "0", size).await,
                ["MSG", subject, _, reply, size] => return self.message(subject, reply, "0", size).await,
                ["HMSG", subject, _, head, size] => return self.message(subject, "", head, size).await,
                ["HMSG", subject, _, reply, head, size] => {
                    return self.message(subject, reply, head, size).await;
                }
                _ => panic!("NATS says {line:?}"),
            }
        }
    }

    async fn message(&mut self, subject: &str, reply: &str, head: &str, size: &str) -> Heard {
        let (head, size): (usize, usize) = (head.parse().unwrap(), size.parse().unwrap());
        let mut bytes = vec![0; size + 2];
        self.stream.read_exact(&mut bytes).await.unwrap();
        let (status, headers) = read_headers(std::str::from_utf8(&bytes[..head]).unwrap());
        Heard::Message(Delivered {
            subject: subject.to_owned(),
            reply: reply.to_owned(),
            status,
            headers,
            body: bytes[head..size].to_vec(),
        })
    }

    pub async fn publish(&mut self, subject: &str, reply: &str, body: &str) {
        self.send(&format!("PUB {subject} {reply} {}\r\n{body}\r\n", body.len())).await;
    }

    /// Asks, and hands back everything that is heard until `last` says so.
    pub async fn ask(
        &mut self,
        subject: &str,
        body: &Value,
        mut last: impl FnMut(usize, &Delivered) -> bool,
    ) -> Vec<Delivered> {
        self.asked += 1;
        self.publish(subject, &format!("_INBOX.wire.{}", self.asked), &body.to_string()).await;
        let mut heard = Vec::new();
        loop {
            match self.heard().await {
                Heard::Message(message) => heard.push(message),
                other => panic!("asking {subject}: {other:?}"),
            }
            if last(heard.len(), heard.last().unwrap()) {
                return heard;
            }
        }
    }

    /// The one answer to a question, in JSON.
    pub async fn answer(&mut self, subject: &str, body: Value) -> Value {
        self.ask(subject, &body, |_, _| true).await[0].json()
    }

    /// What the server complains of about what was sent until now.
    pub async fn complaints(&mut self) -> Vec<String> {
        self.send("PING\r\n").await;
        let mut complaints = Vec::new();
        loop {
            match self.heard().await {
                Heard::Pong => return complaints,
                Heard::Error(error) => complaints.push(error),
                Heard::Message(_) => {}
            }
        }
    }
}

/// The words behind `NATS/1.0`, and each header.
pub fn read_headers(head: &str) -> (String, Vec<(String, String)>) {
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default().trim_start_matches("NATS/1.0").trim().to_owned();
    let headers = lines.filter_map(|line| line.split_once(':'));
    (status, headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// The bytes behind base64.
pub fn decoded(text: &Value) -> Vec<u8> {
    STANDARD.decode(text.as_str().unwrap_or_default()).unwrap()
}
