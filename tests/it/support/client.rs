//! A WebSocket client that remembers everything it was told.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::PATIENCE;
use super::contract::asyncapi;
use super::contract::openapi::{self, Answer, Asked};

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Every JSON message so far, in order.
    pub heard: Vec<Value>,
    /// The subprotocol that the server selected.
    pub protocol: Option<String>,
}

impl Client {
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url, None).await.unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    /// Connects, from a page of this origin when one is named.
    pub async fn try_connect(url: &str, origin: Option<&str>) -> Result<Self, Error> {
        let origin: Vec<_> = origin.into_iter().map(|origin| ("Origin", origin)).collect();
        Self::try_connect_with(url, &origin).await
    }

    /// Connects with these headers.
    pub async fn try_connect_with(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let asked = Asked {
            method: Method::GET,
            url: request.uri().to_string().replacen("ws", "http", 1).parse().unwrap(),
            headers: request.headers().clone(),
            body: Vec::new(),
        };
        let connected = connect_async(request).await;
        let answer = match &connected {
            Ok((_, answer)) => Some(answer),
            Err(Error::Http(answer)) => Some(&**answer),
            Err(_) => None,
        };
        if let Some(answer) = answer {
            let (status, headers) = (answer.status(), answer.headers());
            openapi::hold(&asked, &Answer { status, headers, body: answer.body().as_deref() });
        }
        let (socket, answer) = connected?;
        let protocol = answer.headers().get("Sec-WebSocket-Protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().unwrap().to_owned());
        Ok(Self { socket, heard: Vec::new(), protocol })
    }

    /// The next text, JSON or not; `Err` when the connection ended.
    pub async fn next_text(&mut self) -> Result<String, Closed> {
        timeout(PATIENCE, self.read_text()).await.expect("the server says something in time")
    }

    async fn read_text(&mut self) -> Result<String, Closed> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    asyncapi::hold_told(&text);
                    return Ok(text.to_string());
                }
                Some(Ok(Message::Close(frame))) => {
                    // Sends the answer that a close asks for.
                    let _ = self.socket.flush().await;
                    return Err(closed(frame));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(closed(None)),
            }
        }
    }

    /// The next JSON message. The text heartbeat is answered and passed over, as the seed's client does.
    pub async fn next(&mut self) -> Value {
        loop {
            let text = self.next_text().await;
            let text = text.unwrap_or_else(|closed| panic!("closed: {closed:?}; heard {:?}", self.heard));
            if let Some(message) = self.hear(&text).await {
                return message;
            }
        }
    }

    /// Listens, however long nothing comes, until told to stop or until the connection has ended.
    pub async fn listen_until(&mut self, stop: &mut watch::Receiver<bool>) -> Option<Closed> {
        while !*stop.borrow_and_update() {
            tokio::select! {
                text = self.read_text() => match text {
                    Ok(text) => drop(self.hear(&text).await),
                    Err(closed) => return Some(closed),
                },
                _ = stop.changed() => {}
            }
        }
        None
    }

    /// Asks what is active, and hears everything up to the answer.
    pub async fn ask_what_is_active(&mut self) -> Result<Value, Closed> {
        self.try_send(json!({"type": "get_active_broadcast"})).await;
        loop {
            let text = self.next_text().await?;
            if let Some(message) = self.hear(&text).await
                && message["type"] == "active_broadcast"
            {
                return Ok(message["broadcast"].clone());
            }
        }
    }

    async fn hear(&mut self, text: &str) -> Option<Value> {
        match text {
            "ping" => self.send_raw(Message::text("pong")).await,
            "pong" => {}
            json => {
                let message: Value = serde_json::from_str(json).unwrap();
                self.heard.push(message.clone());
                return Some(message);
            }
        }
        None
    }

    /// The next message, which must be of this type. Statistics come when they like and are passed over.
    pub async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
            assert_eq!(message["type"], "stats_update", "expected {kind}, heard {message}");
        }
    }

    /// Reads on until a message satisfies this.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let message = self.next().await;
                if wanted(&message) {
                    return message;
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("not heard in time: {what}"))
    }

    /// What every connection begins with; returns what is active.
    pub async fn greeted(&mut self) -> Value {
        self.expect("connected").await;
        self.expect("active_broadcast").await["broadcast"].clone()
    }

    /// Fails when anything but statistics comes within a time.
    pub async fn expect_silence(&mut self, time: Duration) {
        let heard = timeout(time, async {
            loop {
                let message = self.next().await;
                if message["type"] != "stats_update" {
                    return message;
                }
            }
        });
        if let Ok(message) = heard.await {
            panic!("expected silence, heard {message}");
        }
    }

    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends it unless the connection has ended.
    pub async fn try_send(&mut self, message: Value) {
        self.send_raw(Message::text(message.to_string())).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub async fn send_raw(&mut self, message: Message) {
        let _ = self.socket.send(message).await;
    }

    /// Acknowledges, and returns the answer; what else comes meanwhile is remembered in `heard`.
    pub async fn acknowledge(&mut self, id: &str) -> Value {
        self.send(json!({"type": "acknowledge_broadcast", "broadcast_id": id})).await;
        self.until("the answer to an acknowledgement", |m| {
            m["type"] == "acknowledged" || m["type"] == "error"
        })
        .await
    }

    /// Reads on until the connection ends.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next_text().await {
                return closed;
            }
        }
    }

    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Ids of the broadcasts heard as new, in order.
    pub fn broadcasts(&self) -> Vec<String> {
        let new = self.heard.iter().filter(|message| message["type"] == "new_broadcast");
        new.map(|message| message["broadcast"]["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn closed(frame: Option<CloseFrame>) -> Closed {
    let Some(frame) = frame else { return Closed { code: 1006, reason: String::new() } };
    asyncapi::hold_closed(frame.code.into());
    Closed { code: frame.code.into(), reason: frame.reason.to_string() }
}
