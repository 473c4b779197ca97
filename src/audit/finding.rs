//! Findings: faults of a log, each with a kind and a sentence.

use std::fmt;

use serde_json::{Value, json};
use strum::IntoStaticStr;

use super::terminal::printable;

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum FindingKind {
    /// The exported file is not as it was written.
    File,
    /// The log has lost a message.
    Hole,
    /// A message is no event of Tidings that this build knows.
    Unknown,
    /// Headers or a body are not by their schema.
    Schema,
    /// The headers of an event contradict its body or its place.
    Envelope,
    /// The acknowledgements of an event are not those under its root.
    Facts,
    /// An event was not appended under the guard that its subject needs.
    Guard,
    /// An event that should have had an effect had none: the order of a channel's life is broken.
    Order,
    /// An event is of a time that cannot be.
    Time,
    /// A checkpoint is not what it should be, or the log is not what was signed.
    Checkpoint,
    /// The log is not the one that this auditor has verified before.
    Known,
    /// A live replica has read something else.
    Replica,
    /// The KV mirror says something else.
    Mirror,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What sort of thing.
    pub kind: FindingKind,
    /// Where in the log; `None` when it is about no single place.
    pub sequence: Option<u64>,
    /// What it is.
    pub what: String,
}

impl Finding {
    /// Something about a place of the log.
    pub fn at(sequence: u64, kind: FindingKind, what: impl Into<String>) -> Self {
        Self { kind, sequence: Some(sequence), what: what.into() }
    }

    /// The log has lost the messages from one sequence to another.
    pub fn hole(first: u64, last: u64) -> Self {
        Self::at(first, FindingKind::Hole, lost(first, last))
    }

    /// Something about the whole.
    pub fn of_all(kind: FindingKind, what: impl Into<String>) -> Self {
        Self { kind, sequence: None, what: what.into() }
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let kind: &str = self.kind.into();
        json!({"finding": kind, "sequence": self.sequence, "message": self.what})
    }
}

/// What is said of messages that the log has lost.
pub(super) fn lost(first: u64, last: u64) -> String {
    match last - first {
        0 => "the log has lost its message".to_owned(),
        _ => format!("the log has lost the messages from {first} to {last}"),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind: &str = self.kind.into();
        let what = printable(&self.what);
        match self.sequence {
            Some(sequence) => write!(f, "sequence {sequence}: {kind}: {what}"),
            None => write!(f, "{kind}: {what}"),
        }
    }
}
