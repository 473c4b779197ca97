//! Those who use the replicas of a world, and what they write down of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::judge::{Acknowledgement, Answer, Command, Done};
use crate::support::client::Closed;
use crate::support::{Client, Http, PATIENCE};

/// What is in every message and password, and belongs into no diagnostics.
pub const SECRET: &str = "hush";

/// How long a creator or a user waits for an answer: longer than a replica tries an append.
const ANSWER_PATIENCE: Duration = Duration::from_secs(8);

/// Between two requests of one person: a world is under load, not under siege.
const PAUSE: Duration = Duration::from_millis(60);

/// What a replica said to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// `200` or `201`: it is in the log. A clear that found nothing has no place there.
    Done { id: Option<String>, sequence: Option<u64> },
    /// `202`: it is in the outbox. A clear that found nothing is not.
    Kept { id: Option<String> },
    /// An error that says that nothing was changed.
    Refused { code: String },
    /// `503` with `"outcome":"unknown"`.
    Unknown,
    /// No answer: the connection was refused, or ended, or nothing came in time.
    Nothing,
}

/// A creator's command, under an `Idempotency-Key` of its own, and what was said to each try.
#[derive(Clone, Debug)]
pub struct Tried {
    pub key: String,
    /// The text of a broadcast, which no other has; `None` for a clear.
    pub message: Option<String>,
    /// Nobody else is called so.
    pub by: String,
    pub said: Vec<Said>,
}

impl Tried {
    /// Sends it through a replica, and writes down what that says.
    pub async fn again(&mut self, http: &Http, url: &str) {
        let (path, body) = match &self.message {
            Some(message) => ("", json!({"message": message})),
            None => ("/clear", json!({})),
        };
        let request = http.request(Method::POST, format!("{url}/api/creator/broadcast{path}")).json(&body);
        let request = request.header("X-User-Id", &self.by).header("X-User-Role", "creator");
        let sent = request.header("Idempotency-Key", &self.key).send().await;
        self.said.push(match sent {
            Err(_) => Said::Nothing,
            Ok(answer) => {
                let status = answer.status().as_u16();
                understood(status, &answer.json().await.unwrap_or_default())
            }
        });
    }

    /// Whether it is known what became of it. What was refused each time changed nothing.
    pub fn is_settled(&self) -> bool {
        let confirmed = |said: &Said| matches!(said, Said::Done { .. } | Said::Kept { .. });
        self.said.last().is_some_and(confirmed) || self.was_refused()
    }

    /// Whether each try was told that nothing was changed.
    pub fn was_refused(&self) -> bool {
        self.said.iter().all(|said| matches!(said, Said::Refused { .. }))
    }

    /// The command as the judge knows it.
    pub fn observed(&self) -> Command {
        Command {
            by: self.by.clone(),
            is_conditional: false,
            answers: self.said.iter().map(|said| self.answer(said)).collect(),
            is_open: !self.is_settled(),
            may_be_lost: false,
            described: format!("{self:?}"),
        }
    }

    fn answer(&self, said: &Said) -> Answer {
        let done = |id: &Option<String>, sequence, local| match id {
            None => Answer::NothingToClear,
            Some(broadcast) => Answer::Done(Done {
                event: self.message.as_ref().map(|_| broadcast.clone()),
                broadcast: broadcast.clone(),
                sequence,
                local,
                sent_to: None,
            }),
        };
        match said {
            Said::Done { id, sequence } => done(id, *sequence, false),
            Said::Kept { id } => done(id, None, true),
            Said::Refused { code } if code == "idempotency_key_reused" => Answer::KeyReused,
            Said::Refused { .. } => Answer::Refused,
            Said::Unknown | Said::Nothing => Answer::Unknown,
        }
    }

    /// Whether any try was confirmed.
    pub fn was_confirmed(&self) -> bool {
        self.said
            .iter()
            .any(|said| matches!(said, Said::Done { id: Some(_), .. } | Said::Kept { id: Some(_) }))
    }
}

fn understood(status: u16, body: &Value) -> Said {
    let id = || body.get("id").or_else(|| body.get("broadcast_id"))?.as_str().map(ToOwned::to_owned);
    match status {
        200 | 201 => Said::Done { id: id(), sequence: body["sequence"].as_u64() },
        202 => Said::Kept { id: id() },
        503 if body["outcome"] == "unknown" => Said::Unknown,
        _ => Said::Refused { code: body["code"].as_str().unwrap_or_default().to_owned() },
    }
}

/// What the person at one replica wrote down.
#[derive(Clone, Debug, Default)]
pub struct Diary {
    pub tried: Vec<Tried>,
    /// What was confirmed.
    pub acknowledged: Vec<Acknowledgement>,
}

impl Diary {
    /// Takes out what was kept as this entry of an outbox.
    pub fn release(&mut self, entry: &Value) {
        let by = [&entry["data"]["created_by"], &entry["data"]["cleared_by"]];
        self.tried.retain(|tried| !by.contains(&&json!(tried.by)));
        let users = entry["data"]["acknowledgements"].as_array().into_iter().flatten();
        let users: Vec<_> = users.map(|ack| &ack["user"]).collect();
        self.acknowledged.retain(|ack| {
            entry["data"]["broadcast_id"] != *ack.broadcast || !users.contains(&&json!(ack.user))
        });
    }
}

/// A creator who posts and clears, and users who acknowledge what was posted last, through one replica.
pub struct Person {
    diary: Arc<Mutex<Diary>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Person {
    pub fn start(name: String, url: String, random: Rng) -> Self {
        let (diary, stop) = (Arc::new(Mutex::new(Diary::default())), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(work(name, url, random, diary.clone(), stop.clone()));
        Self { diary, stop, task }
    }

    /// Whether there is something to lose.
    pub fn has_begun(&self) -> bool {
        let diary = self.diary.lock().unwrap();
        diary.tried.iter().filter(|tried| tried.was_confirmed()).count() > 2 && !diary.acknowledged.is_empty()
    }

    /// Says that it is enough.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub async fn leave(self) -> Diary {
        self.stop();
        self.task.await.unwrap();
        std::mem::take(&mut *self.diary.lock().unwrap())
    }
}

async fn work(name: String, url: String, mut random: Rng, diary: Arc<Mutex<Diary>>, stop: Arc<AtomicBool>) {
    let http = Http::patient(ANSWER_PATIENCE);
    let mut last: Option<String> = None;
    let mut commands = 0;
    while !stop.load(Ordering::Relaxed) {
        match (random.u8(..10), &last) {
            (0..6, Some(id)) => {
                let user = format!("user {}", random.u8(..50));
                let confirmed = acknowledge(&http, &url, id, &user).await;
                diary.lock().unwrap().acknowledged.extend(confirmed);
            }
            (what, _) => {
                commands += 1;
                let key = format!("{name}-{commands}");
                let message = (what < 9).then(|| format!("{SECRET} {key}"));
                let by = format!("creator {key}");
                let mut tried = Tried { key, message, by, said: Vec::new() };
                tried.again(&http, &url).await;
                if let (Some(_), Some(Said::Done { id, .. } | Said::Kept { id })) =
                    (&tried.message, tried.said.last())
                {
                    last.clone_from(id);
                }
                diary.lock().unwrap().tried.push(tried);
            }
        }
        sleep(PAUSE).await;
    }
}

/// The acknowledgement, if it was confirmed.
async fn acknowledge(http: &Http, url: &str, broadcast: &str, user: &str) -> Option<Acknowledgement> {
    let request = http.request(Method::POST, format!("{url}/api/creator/broadcast/acknowledge"));
    let request = request.header("X-User-Id", user).json(&json!({"broadcast_id": broadcast}));
    let answer = request.send().await.ok().filter(|answer| answer.status().is_success())?;
    let body: Value = answer.json().await.ok()?;
    Some(Acknowledgement {
        broadcast: broadcast.to_owned(),
        user: user.to_owned(),
        sequence: body["sequence"].as_u64(),
        already: body["already"].as_bool(),
    })
}

/// One connection of a listener.
#[derive(Clone, Debug)]
pub struct Session {
    pub replica: usize,
    pub begun: Timestamp,
    pub ended: Timestamp,
    pub heard: Vec<Value>,
    /// How it ended; `None` when the listener left, having heard everything.
    pub closed: Option<Closed>,
}

/// A client that listens, and comes back when its connection ends.
pub struct Listener {
    pub sessions: Arc<Mutex<Vec<Session>>>,
    task: JoinHandle<()>,
    leave: watch::Sender<bool>,
}

impl Listener {
    pub fn start(replica: usize, url: String, user: String) -> Self {
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let leave = watch::Sender::new(false);
        let task = tokio::spawn(listen(replica, url, user, sessions.clone(), leave.subscribe()));
        Self { sessions, task, leave }
    }

    /// Has it ask what is active, listen up to the answer, and leave.
    pub async fn leave(self) -> Vec<Session> {
        self.leave.send_replace(true);
        timeout(PATIENCE, self.task).await.expect("a listener leaves in time").unwrap();
        std::mem::take(&mut *self.sessions.lock().unwrap())
    }
}

async fn listen(
    replica: usize,
    url: String,
    user: String,
    sessions: Arc<Mutex<Vec<Session>>>,
    mut leave: watch::Receiver<bool>,
) {
    let url = format!("{}/api/creator/broadcast/ws?user_id={user}", url.replace("http", "ws"));
    while !*leave.borrow() {
        let begun = SystemClock.now();
        let Ok(Ok(mut client)) = timeout(ANSWER_PATIENCE, Client::try_connect(&url, None)).await else {
            sleep(PAUSE).await;
            continue;
        };
        let closed = client.listen_until(&mut leave).await;
        let closed = match closed {
            None => client.ask_what_is_active().await.err(),
            closed => closed,
        };
        let heard = std::mem::take(&mut client.heard);
        sessions.lock().unwrap().push(Session { replica, begun, ended: SystemClock.now(), heard, closed });
    }
}
