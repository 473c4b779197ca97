//! The rules of the faults: those of the judge, and what real replicas say of themselves.

use tidings::log::{Epoch, RawMessage};

use super::hearing;
use super::people::{Diary, SECRET, Session, Tried};
use crate::judge::{self, Model, Observed};
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

/// Fails with every invariant that does not hold.
pub fn judge(evidence: &Evidence) {
    let model = Model::read(&evidence.log);
    let observed = Observed {
        commands: evidence.diaries.iter().flat_map(|diary| &diary.tried).map(Tried::observed).collect(),
        acknowledgements: evidence.diaries.iter().flat_map(|diary| &diary.acknowledged).cloned().collect(),
        replayed: evidence.replayed.clone(),
        digests: evidence.digests.clone(),
    };
    let findings: Vec<String> = [
        judge::judge(&observed, &model),
        no_gap(evidence),
        hearing::told_everything_once(evidence, &model),
        at_rest(evidence),
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
        model.log.len()
    );
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    assert!(tried > 3 && acknowledged > 0, "this is no load");
}

/// No gap is applied.
fn no_gap(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for (expected, event) in (1..).zip(&evidence.log) {
        if event.sequence != expected {
            findings.push(format!("the log has a gap at {expected}"));
            break;
        }
    }
    for (n, standing) in evidence.after.iter().enumerate() {
        if standing.holes > 0 {
            findings.push(format!("replica {n} applied {} holes", standing.holes));
        }
    }
    findings
}

/// Nothing waits any more.
fn at_rest(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for (n, standing) in evidence.after.iter().enumerate() {
        for (what, waits) in standing.waiting.iter().filter(|(_, waits)| *waits > 0) {
            findings.push(format!("replica {n}: {what} is {waits} in the end"));
        }
    }
    findings
}

/// Memory and descriptors stay in bounds, and are what they were in the end.
fn in_bounds(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for (n, before) in evidence.before.iter().enumerate() {
        let (before, crowd) = (before.footprint, f64::from(evidence.crowds[n]));
        for (bound, then) in [evidence.after[n].footprint, evidence.most[n]].into_iter().enumerate() {
            let descriptors = before.descriptors + MORE_DESCRIPTORS[bound] + crowd * CLIENT.descriptors;
            let memory_bytes = before.memory_bytes + MORE_MEMORY_BYTES[bound] + crowd * CLIENT.memory_bytes;
            if then.descriptors > descriptors || then.memory_bytes > memory_bytes {
                findings.push(format!("replica {n} took {before:?}, then {then:?}"));
            }
        }
    }
    findings
}

/// No panic, and no secret in what a replica says of itself.
fn clean_diagnostics(evidence: &Evidence) -> Vec<String> {
    let mut findings = Vec::new();
    for (n, said) in evidence.diagnostics.iter().enumerate() {
        for line in said.lines().filter(|line| line.contains("panicked at") || line.contains(SECRET)) {
            findings.push(format!("replica {n} said: {line}"));
        }
    }
    findings
}

/// Every checkpoint is true, and none forks. Those of a log that was lost are not of this one.
fn signed_truly(evidence: &Evidence) -> Vec<String> {
    let found = checkpoints::faults(&evidence.signed, evidence.epoch, &evidence.log);
    found.into_iter().map(|fault| format!("checkpoint: {fault}")).collect()
}

/// An auditor who recomputes everything finds nothing: each guard was held, each event is as it should be.
fn nothing_for_an_auditor(evidence: &Evidence) -> Vec<String> {
    evidence.irregular.iter().map(|finding| format!("audit: {finding}")).collect()
}
