//! Replay: the log as CloudEvents 1.0 in their JSON format, or as a table for people.

use std::io::Write;

use fluent_uri::UriRef;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::finding::lost;
use super::source::Source;
use super::terminal::{Column, Table, json_line};
use crate::domain::{BroadcastId, Channel, Event, Recorded, Severity, UserId};
use crate::log::RawMessage;
use crate::log::envelope::{Decoded, Skipped, attribute, decode, trace_of};
use crate::log::names::Subject;
use crate::log::reader::LogEntry;
use crate::log::time::{parse_rfc3339, rfc3339};
use crate::log::trace::TRACEPARENT;

/// Which events to print.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// From this sequence on.
    pub from: u64,
    /// Up to this sequence and including it.
    pub to: Option<u64>,
    /// Recorded at this moment or later, in nanoseconds since 1970-01-01T00:00:00Z.
    pub since_ns: Option<i64>,
    /// Recorded at this moment or before.
    pub until_ns: Option<i64>,
    /// Of this channel.
    pub channel: Option<Channel>,
    /// Of this type.
    pub event_type: Option<String>,
    /// About this broadcast.
    pub broadcast: Option<BroadcastId>,
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

    /// Up to where a log that ends at `head` has to be read: the earlier one of the sequence and the moment.
    async fn end(&self, source: &Source, head: u64) -> anyhow::Result<u64> {
        let by_time = match self.until_ns {
            Some(until) => source.last_before(until.saturating_add(1)).await?,
            None => head,
        };
        Ok(self.to.unwrap_or(head).min(by_time).min(head))
    }

    fn wants_time(&self, raw: &RawMessage) -> bool {
        self.since_ns.is_none_or(|since| raw.time_ns >= since)
            && self.until_ns.is_none_or(|until| raw.time_ns <= until)
    }

    fn wants(&self, raw: &RawMessage, event: &Event) -> bool {
        let subject = raw.subject.parse::<Subject>().ok();
        let channel = subject.as_ref().map(Subject::channel);
        let kind = attribute(raw, "type");
        self.channel.as_ref().is_none_or(|wanted| channel == Some(wanted))
            && self.event_type.as_ref().is_none_or(|wanted| kind.as_deref() == Some(wanted))
            && self.broadcast.is_none_or(|wanted| event.broadcast_id() == wanted)
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
pub enum OutputFormat {
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

impl OutputFormat {
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

/// Prints the events up to the end that the log has now. `progress` hears how far it is, and to where it goes.
pub async fn replay(
    source: &Source,
    filter: &Filter,
    format: OutputFormat,
    out: &mut impl Write,
    note: &mut impl FnMut(String),
    mut progress: impl FnMut(u64, u64),
) -> anyhow::Result<()> {
    let head = source.head().await?.last_sequence;
    let (from, to) = (filter.start(source).await?, filter.end(source, head).await?);
    let mut printed = false;
    out.write_all(format.heading().as_bytes())?;
    let mut lost = HoleNotes::default();
    let print = |entry: LogEntry| {
        lost.look(&entry, note);
        if let Some(line) = render(&entry, filter, format, note) {
            out.write_all(line.as_bytes())?;
            printed = true;
        }
        progress(entry.sequence(), to);
        Ok(())
    };
    source.each_entry(from, to, print).await?;
    lost.end(note);
    if !printed {
        note(match head {
            0 => "the log is empty".to_owned(),
            _ if from > head => format!("nothing is there to print: the log ends at sequence {head}"),
            _ if from > to => "no event was recorded between that start and that end".to_owned(),
            _ => format!("no event from sequence {from} to {to} matches"),
        });
    }
    Ok(())
}

/// Says what the log has lost: messages that follow each other once.
#[derive(Default)]
pub(super) struct HoleNotes(Option<(u64, u64)>);

impl HoleNotes {
    /// Looks at the next place.
    pub(super) fn look(&mut self, entry: &LogEntry, note: &mut impl FnMut(String)) {
        match entry {
            LogEntry::Hole(sequence) => {
                self.0 = Some((self.0.map_or(*sequence, |(first, _)| first), *sequence));
            }
            LogEntry::Message(_) => self.end(note),
        }
    }

    /// Nothing comes after it for now.
    pub(super) fn end(&mut self, note: &mut impl FnMut(String)) {
        if let Some((first, last)) = self.0.take() {
            note(format!("sequence {first}: {}", lost(first, last)));
        }
    }
}

/// The line for one place of the log, when it is asked for. What is passed over is said in a note.
pub(super) fn render(
    entry: &LogEntry,
    filter: &Filter,
    format: OutputFormat,
    note: &mut impl FnMut(String),
) -> Option<String> {
    let raw = match entry {
        LogEntry::Message(raw) if filter.wants_time(raw) => raw,
        LogEntry::Message(_) | LogEntry::Hole(_) => return None,
    };
    match decode(raw) {
        Decoded::Event(recorded) => filter.wants(raw, &recorded.event).then(|| format.line(raw, &recorded)),
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
    let said = |name: &str| attribute(raw, name).and_then(|value| allowed(name, value.into_owned()));
    let mut event: Map<String, Value> =
        names.into_iter().filter_map(|name| Some((name.to_owned(), said(name)?.into()))).collect();
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

/// An attribute as CloudEvents allow it. Not every event that is understood came from a replica: what others wrote into
/// its optional attributes is left out where no reader would take it, and a source that is no URI reference becomes one.
fn allowed(name: &str, value: String) -> Option<String> {
    match name {
        "source" if value.is_empty() => Some("/".to_owned()),
        "source" if UriRef::parse(value.as_str()).is_err() => {
            Some(utf8_percent_encode(&value, NON_ALPHANUMERIC).to_string())
        }
        "time" => {
            let separated = value.as_bytes().get(10) == Some(&b'T');
            (separated && parse_rfc3339(&value).is_ok()).then_some(value)
        }
        _ => Some(value).filter(|value| !value.is_empty()),
    }
}

fn cells(recorded: &Recorded) -> [String; COLUMNS.len()] {
    let (who, what) = match &recorded.event {
        Event::Created(broadcast) => {
            let message = broadcast.message.as_str();
            let kind = match broadcast.severity {
                Severity::Info => String::new(),
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
            relayed: false,
            sent_to: None,
            event,
        };
        Table { columns: &COLUMNS, width: 0 }.row(&cells(&recorded))
    }

    #[test]
    fn attributes_that_no_reader_of_cloudevents_would_take_are_not_passed_on() {
        for (name, value, passed) in [
            ("source", "/tidings/r1", Some("/tidings/r1")),
            ("source", "https://example.org/a?b#c", Some("https://example.org/a?b#c")),
            ("source", "", Some("/")),
            ("source", "a b<é>", Some("a%20b%3C%C3%A9%3E")),
            ("time", "2026-01-15T09:01:00.500Z", Some("2026-01-15T09:01:00.500Z")),
            ("time", "2026-01-15T09:01:00+02:00", Some("2026-01-15T09:01:00+02:00")),
            ("time", "2026-01-15x09:01:00Z", None),
            ("time", "yesterday", None),
            ("time", "", None),
            ("subject", "creator/1", Some("creator/1")),
            ("subject", "", None),
        ] {
            assert_eq!(allowed(name, value.to_owned()).as_deref(), passed, "{name}: {value}");
        }
    }

    #[test]
    fn a_row_says_who_did_what() {
        let (id, at) = (BroadcastId(Uuid::from_u128(7)), Timestamp::from_unix_ms(1));
        let user = |name: &str| name.parse::<UserId>().unwrap();
        let ack = |name: &str| Acknowledgement { user: user(name), at };
        let created = |severity, message: &str| {
            let message = message.to_owned().try_into().unwrap();
            Event::Created(Broadcast { id, message, severity, created_by: user("ann"), created_at: at })
        };
        let acks = |acknowledgements| {
            Event::Acknowledged(Acknowledged { broadcast_id: id, acknowledgements, salt: None })
        };
        let cleared =
            Event::Cleared(Cleared { broadcast_id: id, cleared_by: user("b\u{1b}b"), cleared_at: at });
        let begin = "      42  1970-01-01T00:00:00.005Z  creator     ";
        let uuid = "00000000-0000-0000-0000-000000000007";
        for (late, event, rest) in [
            (
                false,
                created(Severity::Info, "two\nlines"),
                "created        ann             two lines".to_owned(),
            ),
            (
                true,
                created(Severity::Alert, "fire"),
                "late created   ann             [alert] fire".to_owned(),
            ),
            (false, acks(vec![ack("eve")]), format!("acknowledged   eve             {uuid}")),
            (false, acks(vec![ack("a"), ack("b")]), format!("acknowledged   2 users         {uuid}")),
            (false, cleared, format!("cleared        b\u{FFFD}b             {uuid}")),
        ] {
            assert_eq!(row(late, event), format!("{begin}{rest}\n"));
        }
    }
}
