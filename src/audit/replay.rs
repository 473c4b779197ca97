//! Replay: the log as CloudEvents 1.0 in their JSON format, or as a table for people.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::source::Source;
use super::terminal::{Column, Table, json_line};
use crate::domain::{Channel, Event, Kind, Recorded, UserId};
use crate::log::RawMessage;
use crate::log::envelope::{Decoded, Skipped, attribute, decode, trace_of};
use crate::log::epoch::rfc3339;
use crate::log::names::Subject;
use crate::log::reader::Entry;
use crate::log::trace::TRACEPARENT;

/// Which events to print.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// From this sequence on.
    pub from: u64,
    /// Recorded at this moment or later, in nanoseconds since 1970-01-01T00:00:00Z.
    pub since_ns: Option<i64>,
    /// Of this channel.
    pub channel: Option<Channel>,
    /// Of this type.
    pub event_type: Option<String>,
    /// That this user caused or is part of.
    pub user: Option<UserId>,
}

impl Filter {
    /// Where the log has to be read from: the later one of the sequence and the moment.
    pub(super) async fn start(&self, source: &Source) -> anyhow::Result<u64> {
        let by_time = match self.since_ns {
            Some(since) => source.last_before(since).await? + 1,
            None => 1,
        };
        Ok(self.from.max(by_time))
    }

    fn wants_time(&self, raw: &RawMessage) -> bool {
        self.since_ns.is_none_or(|since| raw.time_ns >= since)
    }

    fn wants(&self, raw: &RawMessage, event: &Event) -> bool {
        let subject = raw.subject.parse::<Subject>().ok();
        let channel = subject.as_ref().map(Subject::channel);
        let kind = attribute(raw, "type");
        self.channel.as_ref().is_none_or(|wanted| channel == Some(wanted))
            && self.event_type.as_ref().is_none_or(|wanted| kind.as_ref() == Some(wanted))
            && self.user.as_ref().is_none_or(|wanted| involves(event, wanted))
    }
}

fn involves(event: &Event, user: &UserId) -> bool {
    match event {
        Event::Created(broadcast) => broadcast.created_by == *user,
        Event::Cleared(cleared) => cleared.cleared_by == *user,
        Event::Acknowledged(acked) => acked.acknowledgements.iter().any(|a| a.user == *user),
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A CloudEvent a line.
    Ndjson,
    /// A table of this width.
    Table(usize),
}

const COLUMNS: [Column; 6] = [
    Column::number("SEQUENCE", 8),
    Column::text("RECORDED", 24),
    Column::text("CHANNEL", 10),
    Column::text("TYPE", 13),
    Column::text("WHO", 14),
    Column::text("WHAT", 36),
];

impl Form {
    /// What stands before the first event.
    pub(super) fn heading(self) -> String {
        match self {
            Self::Ndjson => String::new(),
            Self::Table(width) => Table { columns: &COLUMNS, width }.heading(),
        }
    }

    fn line(self, raw: &RawMessage, recorded: &Recorded) -> String {
        match self {
            Self::Ndjson => json_line(&cloud_event(raw, recorded.late)),
            Self::Table(width) => Table { columns: &COLUMNS, width }.row(&cells(recorded)),
        }
    }
}

/// Prints the events up to the end that the log has now.
pub async fn replay(
    source: &Source,
    filter: &Filter,
    form: Form,
    out: &mut impl Write,
    note: &mut impl FnMut(String),
) -> anyhow::Result<()> {
    let head = source.head().await?.last_sequence;
    let from = filter.start(source).await?;
    out.write_all(form.heading().as_bytes())?;
    let print = |entry| {
        if let Some(line) = told(&entry, filter, form, note) {
            out.write_all(line.as_bytes())?;
        }
        Ok(())
    };
    source.each_entry(from, head, print).await
}

/// The line for one place of the log, when it is asked for. What is passed over is said in a note.
pub(super) fn told(
    entry: &Entry,
    filter: &Filter,
    form: Form,
    note: &mut impl FnMut(String),
) -> Option<String> {
    let raw = match entry {
        Entry::Message(raw) if filter.wants_time(raw) => raw,
        Entry::Message(_) => return None,
        Entry::Hole(sequence) => {
            note(format!("sequence {sequence}: the log has lost its message"));
            return None;
        }
    };
    match decode(raw) {
        Decoded::Event(recorded) => filter.wants(raw, &recorded.event).then(|| form.line(raw, &recorded)),
        Decoded::Skipped(Skipped::Future { what: why } | Skipped::Foreign { why }) => {
            note(format!("sequence {}: passed over: {why}", raw.sequence));
            None
        }
    }
}

/// The event with its data in place, and extensions: the log's `sequence`, the time at which it recorded it, whether it
/// was overtaken, and the trace of the request.
fn cloud_event(raw: &RawMessage, late: bool) -> Value {
    let names = ["specversion", "id", "type", "source", "time", "subject", "datacontenttype", "dataschema"];
    let mut event: Map<String, Value> =
        names.into_iter().filter_map(|name| Some((name.to_owned(), attribute(raw, name)?.into()))).collect();
    // The extension `sequence` of CloudEvents sorts as text.
    event.insert("sequence".to_owned(), format!("{:020}", raw.sequence).into());
    event.insert("recordedtime".to_owned(), rfc3339(raw.time_ns).into());
    if late {
        event.insert("late".to_owned(), true.into());
    }
    if let Some(trace) = trace_of(raw) {
        event.insert(TRACEPARENT.to_owned(), trace.to_string().into());
    }
    event.insert("data".to_owned(), serde_json::from_slice(&raw.body).unwrap_or_else(|_| json!(null)));
    Value::Object(event)
}

fn cells(recorded: &Recorded) -> [String; COLUMNS.len()] {
    let (who, what) = match &recorded.event {
        Event::Created(broadcast) => {
            let message = broadcast.message.as_str();
            let kind = match broadcast.kind {
                Kind::Info => String::new(),
                loud => format!("[{}] ", loud.as_str()),
            };
            (broadcast.created_by.to_string(), kind + message)
        }
        Event::Cleared(cleared) => (cleared.cleared_by.to_string(), cleared.broadcast_id.to_string()),
        Event::Acknowledged(acked) => match &acked.acknowledgements[..] {
            [one] => (one.user.to_string(), acked.broadcast_id.to_string()),
            all => (format!("{} users", all.len()), acked.broadcast_id.to_string()),
        },
    };
    let name = recorded.event.event_type().name;
    let short = name.strip_prefix("broadcast.").unwrap_or(name);
    let late = if recorded.late { "late " } else { "" };
    [
        recorded.sequence.to_string(),
        recorded.recorded_at.to_string(),
        recorded.channel.to_string(),
        format!("{late}{short}"),
        who,
        what,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Acknowledged, Acknowledgement, Broadcast, BroadcastId, Cleared, Timestamp};
    use uuid::Uuid;

    fn row(late: bool, event: Event) -> String {
        let recorded = Recorded {
            sequence: 42,
            recorded_at: Timestamp::from_unix_ms(5),
            channel: "creator".parse().unwrap(),
            id: Uuid::from_u128(7),
            late,
            event,
        };
        Table { columns: &COLUMNS, width: 0 }.row(&cells(&recorded))
    }

    #[test]
    fn a_row_says_who_did_what() {
        let (id, at) = (BroadcastId(Uuid::from_u128(7)), Timestamp::from_unix_ms(1));
        let user = |name: &str| name.parse::<UserId>().unwrap();
        let ack = |name: &str| Acknowledgement { user: user(name), at };
        let created = |kind, message: &str| {
            let message = message.to_owned().try_into().unwrap();
            Event::Created(Broadcast { id, message, kind, created_by: user("ann"), created_at: at })
        };
        let acks = |acknowledgements| {
            Event::Acknowledged(Acknowledged { broadcast_id: id, acknowledgements, salt: None })
        };
        let cleared =
            Event::Cleared(Cleared { broadcast_id: id, cleared_by: user("b\u{1b}b"), cleared_at: at });
        let begin = "      42  1970-01-01T00:00:00.005Z  creator     ";
        let uuid = "00000000-0000-0000-0000-000000000007";
        for (late, event, rest) in [
            (false, created(Kind::Info, "two\nlines"), "created        ann             two lines".to_owned()),
            (true, created(Kind::Alert, "fire"), "late created   ann             [alert] fire".to_owned()),
            (false, acks(vec![ack("eve")]), format!("acknowledged   eve             {uuid}")),
            (false, acks(vec![ack("a"), ack("b")]), format!("acknowledged   2 users         {uuid}")),
            (false, cleared, format!("cleared        b\u{FFFD}b             {uuid}")),
        ] {
            assert_eq!(row(late, event), format!("{begin}{rest}\n"));
        }
    }
}
