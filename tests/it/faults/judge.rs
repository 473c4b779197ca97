//! The judge: what must hold whatever happened, by what people wrote down, the log, and the replicas.
//!
//! It has its own reading of the log, and shares none with the service.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tidings::log::{Epoch, RawMessage};

use super::hearing;
use super::people::{Diary, SECRET, Said, Session, Tried};
use crate::support::Replica;
use crate::support::checkpoints::{self, SignedCheckpoint};
use crate::support::replica::metric_in;

/// Descriptors and memory that a replica may have more of than at the start: in the end, and at any moment.
const MORE_DESCRIPTORS: [f64; 2] = [40.0, 200.0];
const MORE_MEMORY_BYTES: [f64; 2] = [64.0 * MIB, 192.0 * MIB];
const MIB: f64 = 1024.0 * 1024.0;

/// What a client may take of either.
const CLIENT: Footprint = Footprint { memory_bytes: 0.0625 * MIB, descriptors: 1.0 };

/// What a replica takes of the machine, by its own metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    memory_bytes: f64,
    descriptors: f64,
}

impl Footprint {
    /// From the text of `/metrics`.
    pub fn read(metrics: &str) -> Option<Self> {
        let of = |name| metric_in(metrics, name);
        Some(Self {
            memory_bytes: of("process_resident_memory_bytes")?,
            descriptors: of("process_open_fds")?,
        })
    }

    /// The larger of each.
    pub fn most(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

/// How a replica stands, by its own metrics.
pub struct Standing {
    footprint: Footprint,
    /// What waits in any queue, and what the log will never take.
    waiting: Vec<(&'static str, u64)>,
    holes: u64,
}

impl Standing {
    /// Whether nothing waits anywhere.
    pub fn is_at_rest(&self) -> bool {
        self.waiting.iter().all(|(_, waits)| *waits == 0)
    }

    pub async fn of(replica: &Replica) -> Self {
        let mut waiting = Vec::new();
        for name in [
            "tidings_outbox_entries",
            "tidings_outbox_rejected_entries_total",
            "tidings_commands_waiting{channel=\"creator\"}",
            "tidings_acks_waiting",
            "tidings_announcements_waiting",
            "tidings_hub_requests_waiting",
            "tidings_degraded",
        ] {
            waiting.push((name, replica.count(name).await));
        }
        Self {
            footprint: Footprint::read(&replica.metrics().await).expect("a replica measures itself"),
            waiting,
            holes: replica.count("tidings_projection_holes").await,
        }
    }
}

/// Everything that is known at the end.
pub struct Evidence {
    /// Which log it is in the end.
    pub epoch: Epoch,
    pub log: Vec<RawMessage>,
    /// What an auditor finds in it.
    pub irregular: Vec<String>,
    /// Every checkpoint that can be read, of whatever log.
    pub signed: Vec<SignedCheckpoint>,
    /// The digest of a clean replay, and that of each replica.
    pub replayed: String,
    pub digests: Vec<String>,
    pub diaries: Vec<Diary>,
    pub sessions: Vec<Session>,
    /// How many more than usual were connected to each replica.
    pub crowds: [u32; 3],
    pub before: Vec<Standing>,
    pub after: Vec<Standing>,
    /// The most that each replica took meanwhile.
    pub most: Vec<Footprint>,
    /// What each replica said on stderr.
    pub diagnostics: Vec<String>,
}

/// An event as it stands in the log.
pub struct Logged {
    pub sequence: u64,
    id: String,
    kind: String,
    late: bool,
    data: Value,
}

impl Logged {
    fn read(message: &RawMessage) -> Self {
        let header =
            |name| message.header(name).unwrap_or_else(|| panic!("no {name}: {message:?}")).to_owned();
        Self {
            sequence: message.sequence,
            id: header("ce-id"),
            kind: header("ce-type"),
            late: message.subject.rsplit('.').next() == Some("late"),
            data: serde_json::from_slice(&message.body).unwrap(),
        }
    }

    fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// Whether it changed what is active.
    pub fn is_effective(&self) -> bool {
        !self.late && (self.is("broadcast.created") || self.is("broadcast.cleared"))
    }

    /// The broadcast that was active after it, if it is effective.
    pub fn active_after(&self) -> Option<&str> {
        self.is("broadcast.created").then_some(self.id.as_str())
    }
}

/// Fails with every invariant that does not hold.
pub fn judge(evidence: &Evidence) {
    let log: Vec<_> = evidence.log.iter().map(Logged::read).collect();
    let findings: Vec<String> = [
        confirmed_once(evidence, &log),
        unconfirmed_at_most_once(evidence, &log),
        equal_to_a_clean_replay(evidence),
        no_gap(evidence, &log),
        hearing::told_everything_once(evidence, &log),
        acknowledged_for_ever(evidence, &log),
        honest_mode(evidence, &log),
        in_bounds(evidence),
        clean_diagnostics(evidence),
        signed_truly(evidence),
        nothing_for_an_auditor(evidence),
    ]
    .concat();
    let tried: usize = evidence.diaries.iter().map(|diary| diary.tried.len()).sum();
    let acknowledged: usize = evidence.diaries.iter().map(|diary| diary.acknowledged.len()).sum();
    println!(
        "{tried} commands, {acknowledged} acknowledgements, {} sessions, {} events",
        evidence.sessions.len(),
        log.len()
    );
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    assert!(tried > 3 && acknowledged > 0, "this is no load");
}

/// How often the broadcast of a command is in the log.
fn times(tried: &Tried, log: &[Logged]) -> usize {
    let created = log.iter().filter(|event| event.is("broadcast.created"));
    created.filter(|event| event.data["message"].as_str() == tried.message.as_deref()).count()
}

fn commands(evidence: &Evidence) -> impl Iterator<Item = &Tried> {
    evidence.diaries.iter().flat_map(|diary| &diary.tried)
}

/// I1: a `201` is in the log exactly once, where it said.
fn confirmed_once(evidence: &Evidence, log: &[Logged]) -> Vec<String> {
    let places: HashMap<_, _> = log.iter().map(|event| (event.sequence, event)).collect();
    let stands = |tried: &Tried, id: &str, sequence| {
        let Some(event) = places.get(&sequence) else { return false };
        match tried.message {
            Some(_) => event.id == id,
            None => event.is("broadcast.cleared") && event.data["broadcast_id"] == id,
        }
    };
    let mut findings = Vec::new();
    for tried in commands(evidence) {
        let done = tried.said.iter().filter_map(|said| match said {
            Said::Done { id: Some(id), sequence: Some(sequence) } => Some((id, *sequence)),
            _ => None,
        });
        for (id, sequence) in done {
            if !stands(tried, id, sequence) {
                findings.push(format!("I1: it is not at {sequence} in the log: {tried:?}"));
            }
        }
        if tried.message.is_some() && tried.was_confirmed() && times(tried, log) != 1 {
            findings.push(format!("I1: it is in the log {} times: {tried:?}", times(tried, log)));
        }
    }
    findings
}

/// I2: what was not confirmed is there at most once, what was refused is not, and a retry is given the same id.
fn unconfirmed_at_most_once(evidence: &Evidence, log: &[Logged]) -> Vec<String> {
    let mut findings = Vec::new();
    for tried in commands(evidence) {
        let ids: HashSet<_> = tried
            .said
            .iter()
            .filter_map(|said| match said {
                Said::Done { id, .. } | Said::Kept { id } => id.as_ref(),
                _ => None,
            })
            .collect();
        if ids.len() > 1 {
            findings.push(format!("I2: a retry was given another id: {tried:?}"));
        }
        let at_most = usize::from(!tried.was_refused());
        if tried.message.is_some() && times(tried, log) > at_most {
            findings.push(format!("I2: it is in the log {} times: {tried:?}", times(tried, log)));
        }
    }
    let ids: HashSet<_> = log.iter().map(|event| &event.id).collect();
    if ids.len() != log.len() {
        findings.push(format!("I2: {} ids for {} events", ids.len(), log.len()));
    }
    findings
}

/// I3: every replica's digest is that of a clean replay.
fn equal_to_a_clean_replay(evidence: &Evidence) -> Vec<String> {
    let differ = evidence.digests.iter().enumerate().filter(|(_, digest)| **digest != evidence.replayed);
    differ.map(|(n, digest)| format!("I3: replica {n} is {digest}, not {}", evidence.replayed)).collect()
}

/// I4: no gap is applied.
fn no_gap(evidence: &Evidence, log: &[Logged]) -> Vec<String> {
    let mut findings = Vec::new();
    for (expected, event) in (1..).zip(log) {
        if event.sequence != expected {
            findings.push(format!("I4: the log has a gap at {expected}"));
            break;
        }
    }
    for (n, standing) in evidence.after.iter().enumerate() {
        if standing.holes > 0 {
            findings.push(format!("I4: replica {n} applied {} holes", standing.holes));
        }
    }
    findings
}

/// I6: a confirmed acknowledgement is in the log. That it counts once is what the digest says: I3.
fn acknowledged_for_ever(evidence: &Evidence, log: &[Logged]) -> Vec<String> {
    let mut known = HashSet::new();
    for event in log.iter().filter(|event| event.is("broadcast.acknowledged")) {
        let broadcast = event.data["broadcast_id"].as_str().unwrap();
        let users = event.data["acknowledgements"].as_array().unwrap().iter();
        known.extend(users.map(|ack| (broadcast.to_owned(), ack["user"].as_str().unwrap().to_owned())));
    }
    let confirmed = evidence.diaries.iter().flat_map(|diary| &diary.acknowledged);
    let lost = confirmed.filter(|ack| !known.contains(&(ack.broadcast.clone(), ack.user.clone())));
    lost.map(|ack| format!("I6: a confirmed acknowledgement is lost: {ack:?}")).collect()
}

/// I7: what was said to be kept is on record, with effect or without, and nothing waits any more.
fn honest_mode(evidence: &Evidence, log: &[Logged]) -> Vec<String> {
    let mut findings = Vec::new();
    for tried in commands(evidence) {
        let kept = tried.said.iter().any(|said| matches!(said, Said::Kept { id: Some(_) }));
        if kept && tried.message.is_some() && times(tried, log) != 1 {
            findings
                .push(format!("I7: it was kept, and is on record {} times: {tried:?}", times(tried, log)));
        }
    }
    for (n, standing) in evidence.after.iter().enumerate() {
        for (what, waits) in standing.waiting.iter().filter(|(_, waits)| *waits > 0) {
            findings.push(format!("I7: replica {n}: {what} is {waits} in the end"));
        }
    }
    findings
}

/// I9: memory and descriptors stay in bounds, and are what they were in the end.
fn in_bounds(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for (n, before) in evidence.before.iter().enumerate() {
        let (before, crowd) = (before.footprint, f64::from(evidence.crowds[n]));
        for (bound, then) in [evidence.after[n].footprint, evidence.most[n]].into_iter().enumerate() {
            let descriptors = before.descriptors + MORE_DESCRIPTORS[bound] + crowd * CLIENT.descriptors;
            let memory_bytes = before.memory_bytes + MORE_MEMORY_BYTES[bound] + crowd * CLIENT.memory_bytes;
            if then.descriptors > descriptors || then.memory_bytes > memory_bytes {
                findings.push(format!("I9: replica {n} took {before:?}, then {then:?}"));
            }
        }
    }
    findings
}

/// I10: no panic, and no secret in what a replica says of itself.
fn clean_diagnostics(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for (n, said) in evidence.diagnostics.iter().enumerate() {
        for line in said.lines().filter(|line| line.contains("panicked at") || line.contains(SECRET)) {
            findings.push(format!("I10: replica {n} said: {line}"));
        }
    }
    findings
}

/// I11: every checkpoint is true, and none forks. Those of a log that was lost are not of this one.
fn signed_truly(evidence: &Evidence) -> Vec<String> {
    let found = checkpoints::faults(&evidence.signed, evidence.epoch, &evidence.log);
    found.into_iter().map(|fault| format!("I11: {fault}")).collect()
}

/// I12: an auditor who recomputes everything finds nothing: each guard was held, each event is as it should be.
fn nothing_for_an_auditor(evidence: &Evidence) -> Vec<String> {
    evidence.irregular.iter().map(|finding| format!("I12: {finding}")).collect()
}
