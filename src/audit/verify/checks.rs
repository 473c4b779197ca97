//! What can be said of each message by itself and by what came before it: schema, envelope, facts, guard, time.

use std::collections::HashMap;

use super::exact::is_as_written;
use super::schemas::Schemas;
use crate::audit::finding::{Finding, FindingKind};
use crate::domain::{Channel, Event, Recorded, Timestamp};
use crate::log::envelope::{Skipped, attribute, headers};
use crate::log::facts::root_of;
use crate::log::names::header::FACTS_ROOT;
use crate::log::{NewEvent, RawMessage};
use crate::projection::decoded_entry::EntryKind;

/// The clock of a replica may be ahead of NATS's by this much.
const CLOCKS_APART_MS: i64 = 5 * 60 * 1_000;

/// The guard under which NATS took a message: it keeps the header.
const GUARD: &str = "Nats-Expected-Last-Subject-Sequence";

/// Looks at one message after the other, in the order of the log.
pub(super) struct MessageChecks {
    schemas: Schemas,
    /// The last sequence on each channel's lifecycle subject.
    heads: HashMap<Channel, u64>,
}

impl MessageChecks {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { schemas: Schemas::load()?, heads: HashMap::new() })
    }

    /// Tells of everything that is wrong with a message.
    pub(super) fn check(&mut self, raw: &RawMessage, kind: &EntryKind, report: &mut impl FnMut(Finding)) {
        let mut find = |kind, what: String| report(Finding::at(raw.sequence, kind, what));
        match kind {
            EntryKind::Event(recorded, trace) => {
                if !is_as_written(raw, recorded, *trace) {
                    check_in_full(&self.schemas, raw, recorded, &mut find);
                }
                if let Some(fault) = time_fault(raw, recorded) {
                    find(FindingKind::Time, fault);
                }
            }
            EntryKind::Skipped(Skipped::Future { what }, _) => {
                find(FindingKind::Unknown, format!("this build does not know {what}; a newer one may"));
            }
            EntryKind::Skipped(Skipped::Foreign { why }, _) => {
                find(FindingKind::Unknown, format!("it is no event of Tidings: {why}"));
            }
            EntryKind::Hole => {}
        }
        if let Some(channel) = kind.lifecycle_channel() {
            let before = self.heads.insert(channel.clone(), raw.sequence).unwrap_or(0);
            if let Some(fault) = guard_fault(raw, before) {
                find(FindingKind::Guard, fault);
            }
        }
    }
}

/// Whether a message is by its schemas, and its headers are those of its event.
pub(super) fn check_in_full(
    schemas: &Schemas,
    raw: &RawMessage,
    recorded: &Recorded,
    find: &mut impl FnMut(FindingKind, String),
) {
    if let Some(fault) = schemas.fault(raw) {
        find(FindingKind::Schema, fault);
    }
    for fault in envelope_faults(raw, recorded).unwrap_or_default() {
        find(FindingKind::Envelope, fault);
    }
    if let Some(fault) = facts_fault(raw, &recorded.event) {
        find(FindingKind::Facts, fault);
    }
}

/// Headers that are not those that this build would write for the event; `None` when an attribute cannot be read.
fn envelope_faults(raw: &RawMessage, recorded: &Recorded) -> Option<Vec<String>> {
    let mut event = recorded.event.clone();
    if let Event::Acknowledged(acknowledged) = &mut event {
        // The root of the facts is looked at by itself.
        acknowledged.salt = None;
    }
    let again = NewEvent {
        subject: raw.subject.parse().ok()?,
        id: recorded.id,
        event,
        time: attribute(raw, "time")?.parse().ok()?,
        source: attribute(raw, "source")?.into_owned(),
        expected: None,
        trace: None,
        sent_to: recorded.sent_to,
    };
    let differ = headers(&again).into_iter().filter(|(name, value)| raw.header(name) != Some(value));
    let differ = differ.map(|(name, expected)| {
        let found = raw.header(name).map_or_else(|| "absent".to_owned(), |found| format!("{found:?}"));
        format!("{name} is {found}; by its body and its subject it would be {expected:?}")
    });
    Some(differ.collect())
}

fn facts_fault(raw: &RawMessage, event: &Event) -> Option<String> {
    let stated = raw.header(FACTS_ROOT);
    let Event::Acknowledged(acknowledged) = event else {
        return stated.map(|_| format!("it carries {FACTS_ROOT}, which belongs to acknowledgements alone"));
    };
    let root = root_of(acknowledged).map(|root| root.to_string());
    if stated == root.as_deref() {
        return None;
    }
    Some(match root {
        Some(root) => format!(
            "who acknowledged, or when, was changed: the root over them is {root}, not the one stated"
        ),
        None => "it has no salt for the root that it states".to_owned(),
    })
}

fn guard_fault(raw: &RawMessage, before: u64) -> Option<String> {
    let Some(guard) = raw.header(GUARD) else {
        return Some("it was appended without the guard of its subject".to_owned());
    };
    (guard != before.to_string())
        .then(|| format!("it was appended behind {guard}, and the last before it on its subject is {before}"))
}

/// What was accepted later than it was recorded was not accepted then; and the body says the time once more.
fn time_fault(raw: &RawMessage, recorded: &Recorded) -> Option<String> {
    let accepted: Timestamp = attribute(raw, "time")?.parse().ok()?;
    let stated = match &recorded.event {
        Event::Created(broadcast) => Some(broadcast.created_at),
        Event::Cleared(cleared) => Some(cleared.cleared_at),
        Event::Acknowledged(_) => None,
    };
    if let Some(stated) = stated.filter(|stated| *stated != accepted) {
        return Some(format!("its body says {stated}, and its envelope {accepted}"));
    }
    let early = accepted.as_unix_ms().saturating_sub(recorded.recorded_at.as_unix_ms());
    (early > CLOCKS_APART_MS).then(|| {
        format!("it was accepted at {accepted} and recorded before that, at {}", recorded.recorded_at)
    })
}
