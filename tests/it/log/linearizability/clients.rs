//! Clients of three replicas, and what they record.
//!
//! A read of any replica is linearizable when it names the last position that any client knows: all of them share that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::Position;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::history::Recorder;
use super::model::{
    Acknowledgement, AcknowledgementOperation, Channel, ChannelOperation, Outcome, Precondition,
};
use crate::support::{Http, Replica, Request};

/// Longer than a replica takes to answer.
const PATIENCE: Duration = Duration::from_secs(8);

const PAUSE: Duration = Duration::from_millis(15);

const USERS: usize = 30;

/// Tries of a write under one `Idempotency-Key`.
const TRIES: usize = 100;

/// What all clients share.
pub struct Service {
    urls: Vec<String>,
    http: Http,
    pub channel: Recorder<Channel>,
    /// User by user.
    pub acknowledgements: Vec<Recorder<Acknowledgement>>,
    /// The broadcast that is acknowledged.
    subject: String,
    /// The last one that is known of any answer.
    position: Mutex<Option<Position>>,
    /// The numbers of broadcasts by their ids.
    numbers: Mutex<HashMap<String, u64>>,
    posts: AtomicU64,
    answers: AtomicUsize,
    is_over: AtomicBool,
}

/// A status with the position and the body.
struct Answer {
    status: u16,
    position: Option<Position>,
    body: Value,
}

impl Answer {
    /// Of a post or a clear; `None` when nothing was changed.
    fn outcome(answer: Option<&Self>) -> Option<Outcome> {
        let Some(answer) = answer else { return Some(Outcome::Unknown) };
        match answer.status {
            200 | 201 => Some(Outcome::Done),
            412 => Some(Outcome::PreconditionFailed),
            503 if answer.body["outcome"] == "unknown" => Some(Outcome::Unknown),
            503 => None,
            status => panic!("{status}: {}", answer.body),
        }
    }
}

impl Service {
    pub fn of(replicas: &[Replica], subject: String) -> Arc<Self> {
        Arc::new(Self {
            urls: replicas.iter().map(Replica::url).collect(),
            http: Http::patient(PATIENCE),
            channel: Recorder::new(),
            acknowledgements: (0..USERS).map(|_| Recorder::new()).collect(),
            subject,
            position: Mutex::default(),
            numbers: Mutex::default(),
            posts: AtomicU64::new(0),
            answers: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        })
    }

    /// How many requests were answered.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    fn request(&self, replica: usize, method: Method, path: &str) -> Request {
        self.http.request(method, format!("{}/api/creator/broadcast{path}", self.urls[replica]))
    }

    /// A read that reflects every answer so far.
    fn read(&self, replica: usize, path: &str) -> Request {
        let request = self.request(replica, Method::GET, path);
        match *self.position.lock().unwrap() {
            Some(position) => request.header("Tidings-Min-Position", position.to_string()),
            None => request,
        }
    }

    /// `None` when no answer came.
    async fn sent(&self, request: Request) -> Option<Answer> {
        let answer = request.send().await.ok()?;
        let header = answer.headers().get("tidings-position");
        let position: Option<Position> = header.map(|position| position.to_str().unwrap().parse().unwrap());
        let status = answer.status().as_u16();
        let body = answer.json().await.ok()?;
        let mut last = self.position.lock().unwrap();
        if position.is_some_and(|new| last.is_none_or(|last| new.sequence > last.sequence)) {
            *last = position;
        }
        self.answers.fetch_add(usize::from(status < 500), Ordering::Relaxed);
        Some(Answer { status, position, body })
    }

    /// Writes, and writes again under the same key while the outcome is unknown. `None` if nothing was written.
    async fn write(&self, write: &Write, tries: &[usize]) -> Option<Written> {
        let mut written: Option<Written> = None;
        for replica in tries {
            let request = self.request(*replica, Method::POST, write.path).json(&write.body);
            let headers = write.condition.header.iter().chain(&write.key);
            let answer =
                self.sent(headers.fold(request, |request, (name, value)| request.header(*name, value))).await;
            let outcome = Answer::outcome(answer.as_ref());
            // After an unknown outcome only a success is certain: the earlier try may still be on its way.
            if written.is_none() || outcome == Some(Outcome::Done) {
                written = outcome.map(|outcome| Written { outcome, answer, replica: *replica });
            }
            if outcome == Some(Outcome::PreconditionFailed)
                || written.as_ref().is_none_or(|written| written.outcome != Outcome::Unknown)
            {
                break;
            }
            sleep(5 * PAUSE).await;
        }
        written
    }

    /// Records a write. One without a position has returned when later reads wait for what its replica had read.
    async fn record(&self, call: usize, operation: ChannelOperation, written: &Written) {
        let is_known = match (written.outcome, &written.answer) {
            (Outcome::Unknown, _) | (_, None) => false,
            (_, Some(Answer { position: Some(_), .. })) => true,
            _ => self.read_active(written.replica).await,
        };
        if is_known {
            self.channel.returned(call, operation);
        } else {
            self.channel.pending(call, operation);
        }
    }

    /// Posts without a key, and returns how that ended; `None` if nothing was written.
    pub async fn post_once(&self, replica: usize) -> Option<Outcome> {
        self.post(Conditional::always(), false, &[replica]).await
    }

    async fn post(&self, condition: Conditional, with_key: bool, tries: &[usize]) -> Option<Outcome> {
        let number = self.posts.fetch_add(1, Ordering::Relaxed) + 1;
        let precondition = condition.precondition;
        let key = with_key.then(|| ("Idempotency-Key", format!("post {number}")));
        let write = Write { path: "", body: json!({"message": format!("number {number}")}), condition, key };
        let call = self.channel.call();
        let written = self.write(&write, tries).await?;
        let outcome = written.outcome;
        if let (Outcome::Done, Some(answer)) = (outcome, &written.answer) {
            self.learn(&answer.body["id"], number);
        }
        self.record(call, ChannelOperation::Post { number, precondition, outcome }, &written).await;
        Some(outcome)
    }

    async fn clear(&self, condition: Conditional, tries: &[usize]) {
        let number = self.posts.fetch_add(1, Ordering::Relaxed) + 1;
        let precondition = condition.precondition;
        let key = Some(("Idempotency-Key", format!("clear {number}")));
        let write = Write { path: "/clear", body: json!({}), condition, key };
        let call = self.channel.call();
        let Some(written) = self.write(&write, tries).await else { return };
        let outcome = written.outcome;
        let id = written.answer.as_ref().and_then(|answer| answer.body["broadcast_id"].as_str());
        let cleared = match id {
            Some(id) => Some(self.number_of(id, written.replica).await),
            None => None,
        };
        self.record(call, ChannelOperation::Clear { cleared, precondition, outcome }, &written).await;
    }

    /// Reads what is active, and returns whether that was answered.
    async fn read_active(&self, replica: usize) -> bool {
        let call = self.channel.call();
        let answer = self.sent(self.read(replica, "/active").header("X-User-Id", "nobody")).await;
        let Some(answer) = answer.filter(|answer| answer.status == 200) else { return false };
        let broadcast = &answer.body["broadcast"];
        let active = broadcast["message"].as_str().map(numbered);
        if let Some(number) = active {
            self.learn(&broadcast["id"], number);
        }
        self.channel.returned(call, ChannelOperation::Read(active));
        true
    }

    async fn acknowledge(&self, replica: usize, user: usize) {
        let history = &self.acknowledgements[user];
        let call = history.call();
        let request = self.request(replica, Method::POST, "/acknowledge");
        let request =
            request.json(&json!({"broadcast_id": self.subject})).header("X-User-Id", user.to_string());
        let answer = self.sent(request).await;
        match Answer::outcome(answer.as_ref()) {
            Some(Outcome::Done) => {
                let already = answer.and_then(|answer| answer.body["already"].as_bool());
                history.returned(call, AcknowledgementOperation::Acknowledge { already });
            }
            Some(_) => history.pending(call, AcknowledgementOperation::Acknowledge { already: None }),
            None => {}
        }
    }

    async fn read_acknowledgements(&self, replica: usize) {
        let calls: Vec<_> = self.acknowledgements.iter().map(Recorder::call).collect();
        let answer = self.sent(self.read(replica, &format!("/{}/acks?limit=200", self.subject))).await;
        let Some(answer) = answer.filter(|answer| answer.status == 200) else { return };
        let users = answer.body["acknowledgements"].as_array().unwrap();
        for (user, call) in calls.into_iter().enumerate() {
            let name = json!(user.to_string());
            let is_there = users.iter().any(|ack| ack["user"] == name);
            self.acknowledgements[user].returned(call, AcknowledgementOperation::Read(is_there));
        }
    }

    fn learn(&self, id: &Value, number: u64) {
        self.numbers.lock().unwrap().insert(id.as_str().unwrap().to_owned(), number);
    }

    /// The number of a broadcast, of which it may be that nobody was told yet.
    async fn number_of(&self, id: &str, replica: usize) -> u64 {
        loop {
            if let Some(number) = self.numbers.lock().unwrap().get(id) {
                return *number;
            }
            let answer = self.sent(self.read(replica, &format!("/{id}"))).await;
            if let Some(answer) = answer.filter(|answer| answer.status == 200) {
                return numbered(answer.body["broadcast"]["message"].as_str().unwrap());
            }
            sleep(PAUSE).await;
        }
    }

    /// A condition that holds at times.
    fn condition(&self, random: &mut Rng) -> Conditional {
        let numbers = self.numbers.lock().unwrap();
        let newest = numbers.iter().max_by_key(|(_, number)| **number);
        match (random.u8(..10), newest) {
            (0..2, Some((id, number))) => {
                let header = Some(("If-Match", format!("\"{id}\"")));
                Conditional { precondition: Precondition::Active(*number), header }
            }
            (2..4, _) => {
                let header = Some(("If-None-Match", "*".to_owned()));
                Conditional { precondition: Precondition::NothingActive, header }
            }
            _ => Conditional::always(),
        }
    }
}

/// A precondition, and the header that demands it.
struct Conditional {
    precondition: Precondition,
    header: Option<Header>,
}

impl Conditional {
    const fn always() -> Self {
        Self { precondition: Precondition::Always, header: None }
    }
}

type Header = (&'static str, String);

/// A post or a clear.
struct Write {
    path: &'static str,
    body: Value,
    condition: Conditional,
    key: Option<Header>,
}

/// How a post or a clear ended, and what a replica answered.
struct Written {
    outcome: Outcome,
    answer: Option<Answer>,
    replica: usize,
}

/// The number in a message.
fn numbered(message: &str) -> u64 {
    message.strip_prefix("number ").unwrap().parse().unwrap()
}

/// Clients at work.
pub struct Clients {
    service: Arc<Service>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(service: &Arc<Service>, count: usize, random: &mut Rng) -> Self {
        service.is_over.store(false, Ordering::Relaxed);
        let tasks = (0..count).map(|_| tokio::spawn(client(service.clone(), random.fork()))).collect();
        Self { service: service.clone(), tasks }
    }

    /// Waits until all that was asked for is answered, or given up.
    pub async fn stop(self) {
        self.service.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// Asks one replica or another for this and that until it is over.
async fn client(service: Arc<Service>, mut random: Rng) {
    while !service.is_over.load(Ordering::Relaxed) {
        let tries: Vec<_> = (0..TRIES).map(|_| random.usize(..service.urls.len())).collect();
        match random.u8(..20) {
            0..5 => drop(service.post(service.condition(&mut random), true, &tries).await),
            5..8 => service.clear(service.condition(&mut random), &tries).await,
            8..14 => drop(service.read_active(tries[0]).await),
            14..18 => service.acknowledge(tries[0], random.usize(..USERS)).await,
            _ => service.read_acknowledgements(tries[0]).await,
        }
        sleep(PAUSE).await;
    }
}
