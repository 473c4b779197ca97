//! The log as the judge reads it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidings::log::RawMessage;
use tidings::log::names::header::SENT_TO;

/// An event as it stands in the log.
#[derive(Debug)]
pub struct Logged {
    pub sequence: u64,
    pub id: String,
    pub kind: String,
    pub channel: String,
    pub late: bool,
    /// To how many it went; empty without an idempotency key.
    pub sent_to: String,
    pub data: Value,
}

impl Logged {
    pub fn read(message: &RawMessage) -> Self {
        let header =
            |name| message.header(name).unwrap_or_else(|| panic!("no {name}: {message:?}")).to_owned();
        let mut tokens = message.subject.split('.').skip(1);
        Self {
            sequence: message.sequence,
            id: header("ce-id"),
            kind: header("ce-type"),
            channel: tokens.next().unwrap().to_owned(),
            late: tokens.next() == Some("late"),
            sent_to: message.header(SENT_TO).unwrap_or_default().to_owned(),
            data: serde_json::from_slice(&message.body).unwrap(),
        }
    }

    /// What it says under a name; empty when it says nothing.
    pub fn says(&self, name: &str) -> &str {
        self.data[name].as_str().unwrap_or_default()
    }

    /// Whether it is of this creator's.
    pub fn is_by(&self, creator: &str) -> bool {
        [self.says("created_by"), self.says("cleared_by")].contains(&creator)
    }

    /// When it was accepted. RFC 3339 in one form sorts as text.
    pub fn accepted_at(&self) -> &str {
        if self.is_created() { self.says("created_at") } else { self.says("cleared_at") }
    }

    pub fn is_created(&self) -> bool {
        self.kind == "broadcast.created"
    }

    pub fn is_cleared(&self) -> bool {
        self.kind == "broadcast.cleared"
    }
}

/// From an event on, this is active in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub sequence: u64,
    pub channel: String,
    pub active: Option<String>,
}

/// What a log means.
#[derive(Default)]
pub struct Model {
    pub log: Vec<Logged>,
    pub turns: Vec<Turn>,
    /// Lifecycle events that changed nothing. A guard that holds leaves none.
    pub idle: Vec<u64>,
    /// Every broadcast, and its channel.
    pub broadcasts: BTreeMap<String, String>,
    /// Who acknowledged a broadcast, and with which event first.
    pub acknowledged: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Model {
    pub fn read(log: &[RawMessage]) -> Self {
        let mut model = Self::default();
        for event in log.iter().map(Logged::read) {
            model.fold(&event);
            model.log.push(event);
        }
        model
    }

    fn fold(&mut self, event: &Logged) {
        if event.is_created() {
            let new = self.broadcasts.insert(event.id.clone(), event.channel.clone()).is_none();
            self.turn(event, Some(event.id.clone()), new);
        } else if event.is_cleared() {
            let active =
                self.active(&event.channel, u64::MAX).is_some_and(|id| id == event.says("broadcast_id"));
            self.turn(event, None, active);
        } else {
            let known = self.broadcasts.contains_key(event.says("broadcast_id"));
            let users = self.acknowledged.entry(event.says("broadcast_id").to_owned()).or_default();
            for ack in event.data["acknowledgements"].as_array().into_iter().flatten().filter(|_| known) {
                users.entry(ack["user"].as_str().unwrap().to_owned()).or_insert(event.sequence);
            }
        }
    }

    fn turn(&mut self, event: &Logged, active: Option<String>, effective: bool) {
        match (event.late, effective) {
            (true, _) => {}
            (false, true) => {
                let (sequence, channel) = (event.sequence, event.channel.clone());
                self.turns.push(Turn { sequence, channel, active });
            }
            (false, false) => self.idle.push(event.sequence),
        }
    }

    /// What was active in a channel after a place of the log.
    pub fn active(&self, channel: &str, at: u64) -> Option<&str> {
        let turns = self.turns.iter().rev();
        let mut here = turns.filter(|turn| turn.channel == channel && turn.sequence <= at);
        here.next()?.active.as_deref()
    }

    pub fn at(&self, sequence: u64) -> Option<&Logged> {
        self.log.iter().find(|event| event.sequence == sequence)
    }

    /// The event with which a user first acknowledged a broadcast.
    pub fn first_ack(&self, broadcast: &str, user: &str) -> Option<u64> {
        self.acknowledged.get(broadcast)?.get(user).copied()
    }

    /// Every event of this creator's.
    pub fn by<'a>(&'a self, creator: &'a str) -> impl Iterator<Item = &'a Logged> {
        self.log.iter().filter(move |event| event.is_by(creator))
    }

    /// Every event that is in the log a second time. The guard keeps it from that, and acknowledgements, which have none,
    /// count once: only those that wait in an outbox for longer than the duplicate window may come twice.
    pub fn doubles(&self) -> impl Iterator<Item = &Logged> {
        let mut ids = BTreeSet::new();
        self.log.iter().filter(move |event| {
            let is_new = ids.insert(&event.id);
            !is_new && event.kind != "broadcast.acknowledged"
        })
    }
}
