//! An audience of good clients: they come back when they are told to, say how far they were, and write everything down.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::choose_cryptography;
use crate::support::client::Closed;
use crate::support::{Client, Events};

/// Between two attempts to connect, when the first one failed.
const RETRY: Duration = Duration::from_millis(200);

/// What one client was told, over all its connections.
#[derive(Debug, Default)]
pub struct Journal {
    pub user: String,
    /// The broadcasts that were shown, as news or as the state on connect.
    pub shown: Vec<String>,
    /// Those of them that came as news.
    pub news: Vec<String>,
    /// Broadcasts whose acknowledgement was confirmed.
    pub confirmed: HashSet<String>,
    /// How its connections ended.
    pub ends: Vec<End>,
    pub turned_away: usize,
    /// The position of the last message of the log that it has; empty before the first.
    position: String,
    acknowledges: bool,
}

/// How a connection ended, and when to come back.
#[derive(Debug)]
pub struct End {
    /// For a message of a test that fails.
    #[expect(dead_code, reason = "shown when a test fails")]
    pub how: String,
    pub retry_after_ms: Option<u64>,
}

impl Journal {
    /// Whether it was shown this, and has had its acknowledgement confirmed when it makes any.
    pub fn is_done_with(&self, id: &str) -> bool {
        self.shown.last().is_some_and(|last| last == id)
            && (!self.acknowledges || self.confirmed.contains(id))
    }

    /// Takes a message in; returns the broadcast to acknowledge.
    fn hear(&mut self, message: &Value) -> Option<String> {
        if let Some(position) = message["position"].as_str() {
            position.clone_into(&mut self.position);
        }
        let kind = message["type"].as_str().unwrap();
        match kind {
            "new_broadcast" | "active_broadcast" => {
                let id = message["broadcast"]["id"].as_str()?.to_owned();
                if kind == "new_broadcast" {
                    self.news.push(id.clone());
                }
                self.shown.push(id.clone());
                return self.acknowledges.then_some(id);
            }
            "acknowledged" => {
                self.confirmed.insert(message["broadcast_id"].as_str().unwrap().to_owned());
            }
            "connected" | "broadcast_acknowledged" => {}
            other => panic!("{} was told {other}: {message}", self.user),
        }
        None
    }
}

/// A client at work.
pub struct Member {
    pub journal: Arc<Mutex<Journal>>,
    task: JoinHandle<()>,
}

impl Member {
    pub fn websocket(url: &str, user: String) -> Self {
        let journal = Journal { user, acknowledges: true, ..Journal::default() };
        let journal = Arc::new(Mutex::new(journal));
        let task = tokio::spawn(listen_by_websocket(url.replace("http", "ws"), journal.clone()));
        Self { journal, task }
    }

    pub fn event_stream(url: String, user: String) -> Self {
        let journal = Arc::new(Mutex::new(Journal { user, ..Journal::default() }));
        let task = tokio::spawn(listen_to_events(url, journal.clone()));
        Self { journal, task }
    }

    /// Ends it, and returns what it wrote down.
    pub fn leave(self) -> Journal {
        assert!(!self.task.is_finished(), "a client ended by itself");
        self.task.abort();
        std::mem::take(&mut *self.journal.lock().unwrap())
    }
}

async fn listen_by_websocket(url: String, journal: Arc<Mutex<Journal>>) {
    let user = journal.lock().unwrap().user.clone();
    loop {
        let seen = journal.lock().unwrap().position.clone();
        let wanted = if seen.is_empty() { seen } else { format!("&min_position={seen}") };
        let address = format!("{url}/api/creator/broadcast/ws?user_id={user}{wanted}");
        let Ok(mut client) = Client::try_connect(&address, None).await else {
            journal.lock().unwrap().turned_away += 1;
            sleep(RETRY).await;
            continue;
        };
        let closed = loop {
            let text = match client.next_text().await {
                Ok(text) => text,
                Err(closed) => break closed,
            };
            if text == "ping" {
                client.send_text("pong").await;
                continue;
            }
            let wanted = journal.lock().unwrap().hear(&serde_json::from_str(&text).unwrap());
            if let Some(id) = wanted {
                client.try_send(json!({"type": "acknowledge_broadcast", "broadcast_id": id})).await;
            }
        };
        come_back(&journal, ended(&closed)).await;
    }
}

fn ended(closed: &Closed) -> End {
    let hint = serde_json::from_str::<Value>(&closed.reason).ok().filter(|_| closed.code == 1012);
    End {
        how: format!("{closed:?}"),
        retry_after_ms: hint.and_then(|reason| reason["retry_after_ms"].as_u64()),
    }
}

async fn listen_to_events(url: String, journal: Arc<Mutex<Journal>>) {
    choose_cryptography();
    let http = reqwest::Client::new();
    let user = journal.lock().unwrap().user.clone();
    loop {
        let seen = journal.lock().unwrap().position.clone();
        let request = http.get(format!("{url}/api/creator/broadcast/events?user_id={user}"));
        let request = request.header("Last-Event-ID", seen);
        let Some(answer) = request.send().await.ok().filter(|answer| answer.status() == 200) else {
            journal.lock().unwrap().turned_away += 1;
            sleep(RETRY).await;
            continue;
        };
        let mut events = Events::of(answer);
        let mut retry_after_ms = None;
        while let Some(event) = events.next().await {
            retry_after_ms = event.retry_ms;
            if !event.data.is_null() {
                journal.lock().unwrap().hear(&event.data);
            }
        }
        come_back(&journal, End { how: "the stream ended".to_owned(), retry_after_ms }).await;
    }
}

/// Notes how a connection ended, and waits as long as it was asked to.
async fn come_back(journal: &Mutex<Journal>, end: End) {
    let pause = Duration::from_millis(end.retry_after_ms.unwrap_or(0));
    journal.lock().unwrap().ends.push(end);
    sleep(pause).await;
}
