//! Replay: the log as CloudEvents 1.0 in their JSON format.

use std::io::Write;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::each_entry;
use crate::domain::{Channel, Event, UserId};
use crate::log::envelope::{Decoded, Skipped, attribute, decode};
use crate::log::epoch::rfc3339;
use crate::log::names::Subject;
use crate::log::reader::Entry;
use crate::log::{EventLog, RawMessage};

/// Which events to print.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this channel.
    pub channel: Option<Channel>,
    /// Of this type.
    pub event_type: Option<String>,
    /// That this user caused or is part of.
    pub user: Option<UserId>,
}

impl Filter {
    fn wants(&self, raw: &RawMessage, event: Option<&Event>) -> bool {
        let subject = raw.subject.parse::<Subject>().ok();
        let channel = subject.as_ref().map(Subject::channel);
        let kind = attribute(raw, "type");
        self.channel.as_ref().is_none_or(|wanted| channel == Some(wanted))
            && self.event_type.as_ref().is_none_or(|wanted| kind.as_ref() == Some(wanted))
            && self.user.as_ref().is_none_or(|wanted| event.is_some_and(|event| involves(event, wanted)))
    }
}

fn involves(event: &Event, user: &UserId) -> bool {
    match event {
        Event::Created(broadcast) => broadcast.created_by == *user,
        Event::Cleared(cleared) => cleared.cleared_by == *user,
        Event::Acknowledged(acked) => acked.acknowledgements.iter().any(|a| a.user == *user),
    }
}

/// What was printed and what was passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// Events.
    pub events: u64,
    /// Messages that are not events of Tidings, or of a version that this build does not know; holes.
    pub passed_over: u64,
}

/// Prints the events from a sequence to the end that the log has now, a JSON object a line.
pub async fn replay(
    log: Arc<dyn EventLog>,
    from: u64,
    filter: &Filter,
    out: &mut impl Write,
    note: &mut impl FnMut(String),
) -> anyhow::Result<Printed> {
    let head = log.info().await?.last_sequence;
    let mut printed = Printed::default();
    each_entry(log, from, head, |entry| {
        let raw = match entry {
            Entry::Message(raw) => raw,
            Entry::Hole(sequence) => {
                printed.passed_over += 1;
                note(format!("sequence {sequence}: the log has lost its message"));
                return Ok(());
            }
        };
        match decode(&raw) {
            Decoded::Event(recorded) => {
                if filter.wants(&raw, Some(&recorded.event)) {
                    printed.events += 1;
                    writeln!(out, "{}", cloud_event(&raw, recorded.late))?;
                }
            }
            Decoded::Skipped(skipped) => {
                printed.passed_over += 1;
                let (Skipped::Future { what: why } | Skipped::Foreign { why }) = skipped;
                note(format!("sequence {}: passed over: {why}", raw.sequence));
            }
        }
        Ok(())
    })
    .await?;
    Ok(printed)
}

/// The event with its data in place, and two extensions: the log's `sequence`, and the time at which it recorded it.
fn cloud_event(raw: &RawMessage, late: bool) -> Value {
    let names = [
        "specversion",
        "id",
        "type",
        "source",
        "time",
        "subject",
        "datacontenttype",
        "dataschema",
        "traceparent",
    ];
    let mut event: Map<String, Value> =
        names.into_iter().filter_map(|name| Some((name.to_owned(), attribute(raw, name)?.into()))).collect();
    // The extension `sequence` of CloudEvents sorts as text.
    event.insert("sequence".to_owned(), format!("{:020}", raw.sequence).into());
    event.insert("recordedtime".to_owned(), rfc3339(raw.time_ns).into());
    if late {
        event.insert("late".to_owned(), true.into());
    }
    event.insert("data".to_owned(), serde_json::from_slice(&raw.body).unwrap_or_else(|_| json!(null)));
    Value::Object(event)
}
