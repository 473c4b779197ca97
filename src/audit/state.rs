//! State at: what was true after an event of the log, folded with the server's own `evolve`.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::source::Source;
use super::terminal::{Column, Table};
use crate::domain::{Acknowledgement, BroadcastId, BroadcastState, Change, Channel, State, evolve};
use crate::log::envelope::{Decoded, decode};
use crate::log::names::Subject;
use crate::log::reader::LogEntry;

const COLUMNS: [Column; 6] = [
    Column::number("SEQUENCE", 8),
    Column::text("RECORDED", 24),
    Column::text("STATE", 10),
    Column::text("WHO", 14),
    Column::number("ACKS", 6),
    Column::text("MESSAGE", 36),
];

/// A fold over a part of the log, with what `State` does not keep: who acknowledged, by name.
#[derive(Debug, Default)]
pub struct StateAt {
    /// The folded state.
    pub state: State,
    /// Who acknowledged, in the order of the log, with the sequence.
    pub acknowledged: HashMap<BroadcastId, Vec<(u64, Acknowledgement)>>,
    /// Messages that had no effect because this build cannot read them, and holes.
    pub passed_over: u64,
}

/// Folds the log up to and including a sequence.
pub async fn state_at(source: &Source, at: u64) -> anyhow::Result<StateAt> {
    fold_up_to(source, at, |_| {}).await
}

/// The same; `progress` hears how far it is.
pub async fn fold_up_to(source: &Source, at: u64, mut progress: impl FnMut(u64)) -> anyhow::Result<StateAt> {
    let mut folded = StateAt::default();
    let fold = |entry: LogEntry| {
        folded.fold(&entry);
        progress(entry.sequence());
        Ok(())
    };
    source.each_entry(1, at, fold).await?;
    Ok(folded)
}

impl StateAt {
    fn fold(&mut self, entry: &LogEntry) {
        let LogEntry::Message(raw) = entry else {
            self.passed_over += 1;
            return;
        };
        let Decoded::Event(recorded) = decode(raw) else {
            self.passed_over += 1;
            if let Ok(Subject::Lifecycle(channel)) = raw.subject.parse() {
                self.state.note_lifecycle_head(&channel, raw.sequence);
            }
            return;
        };
        if let Change::Acknowledged { id, new } = evolve(&mut self.state, &recorded) {
            let known = self.acknowledged.entry(id).or_default();
            known.extend(new.into_iter().map(|acknowledgement| (recorded.sequence, acknowledgement)));
        }
    }

    /// The whole as JSON: by channel, what is active and every broadcast with who acknowledged it.
    pub fn to_json(&self, at: u64) -> Value {
        let channels: serde_json::Map<_, _> = self
            .state
            .channels
            .iter()
            .map(|(channel, known)| {
                let broadcasts = self.broadcasts_of(channel).into_iter();
                let broadcasts: Vec<_> = broadcasts.map(|broadcast| self.broadcast(broadcast)).collect();
                let value = json!({
                    "active": known.active,
                    "broadcasts_created": known.created,
                    "broadcasts": broadcasts,
                });
                (channel.to_string(), value)
            })
            .collect();
        json!({
            "at_sequence": at,
            "digest": self.state.digest,
            "passed_over": self.passed_over,
            "channels": channels,
        })
    }

    /// The whole for people: by channel, what is active, and a line for each broadcast.
    pub fn to_table(&self, at: u64, width: usize) -> String {
        let table = Table { columns: &COLUMNS, width };
        let mut text = format!("After sequence {at}; {} passed over.\n", self.passed_over);
        for (channel, known) in &self.state.channels {
            let active =
                known.active.map_or_else(|| "nothing active".to_owned(), |id| format!("active: {id}"));
            text.extend(["\n", channel.as_str(), ": ", &active, "\n", &table.heading()]);
            let broadcasts = self.broadcasts_of(channel);
            text.extend(broadcasts.into_iter().map(|broadcast| table.row(&cells(broadcast))));
        }
        text
    }

    fn broadcasts_of(&self, channel: &Channel) -> Vec<&BroadcastState> {
        let mut broadcasts: Vec<_> =
            self.state.broadcasts.values().filter(|broadcast| broadcast.channel == *channel).collect();
        broadcasts.sort_by_key(|broadcast| broadcast.sequence);
        broadcasts
    }

    fn broadcast(&self, known: &BroadcastState) -> Value {
        let acknowledged_by: Vec<_> = self
            .acknowledged
            .get(&known.broadcast.id)
            .into_iter()
            .flatten()
            .map(|(sequence, a)| json!({"user": a.user, "at": a.at, "sequence": sequence}))
            .collect();
        json!({
            "broadcast": known.broadcast,
            "sequence": known.sequence,
            "recorded_at": known.recorded_at,
            "late": known.late,
            "end": known.end,
            "acknowledged": known.acknowledged,
            "time_to_acknowledge_ms": {"p50": known.delays.quantile(0.5), "p95": known.delays.quantile(0.95)},
            "acknowledged_by": acknowledged_by,
        })
    }
}

fn cells(known: &BroadcastState) -> [String; COLUMNS.len()] {
    let state = match &known.end {
        Some(end) => end.reason.as_str(),
        None if known.late => "late",
        None => "active",
    };
    [
        known.sequence.to_string(),
        known.recorded_at.to_string(),
        state.to_owned(),
        known.broadcast.created_by.to_string(),
        known.acknowledged.to_string(),
        known.broadcast.message.as_str().to_owned(),
    ]
}
