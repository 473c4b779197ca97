//! The lines of an exported log: an object each, and what each kind of them says. `schemas/export.json` describes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::audit::log_head::LogHead;
use crate::audit::terminal::json_line;
use crate::domain::Timestamp;
use crate::log::merkle::Hash;
use crate::log::reader::LogEntry;
use crate::log::time::{parse_rfc3339, rfc3339};
use crate::log::{Epoch, RawMessage};
use crate::notary::stream::StoredCheckpoint;

/// The version of the form, which the header has.
pub(super) const VERSION: u64 = 1;

/// Bytes that a line has at most, its end apart. A message of the log has 256 KiB at most, and 1 MiB where NATS is left
/// to its defaults; each of its bytes takes six at most in JSON.
pub(super) const MAX_LINE_BYTES: usize = 8 << 20;

/// What a line says.
#[derive(Debug)]
pub(super) enum ExportLine {
    Header(Header),
    Checkpoint(StoredCheckpoint),
    Entry(LogEntry),
    Footer(Footer),
}

/// The first line, as far as it can be read.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: Option<u64>,
    pub(super) epoch: Option<Epoch>,
    pub(super) last_sequence: Option<u64>,
    /// Why it is not as it was written.
    pub(super) fault: Option<String>,
}

/// The last line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Footer {
    pub(super) end: u64,
    pub(super) root: Hash,
}

/// A line that says nothing to rely on.
#[derive(Debug)]
pub(super) struct LineError {
    /// The place that it names all the same.
    pub(super) sequence: Option<u64>,
    pub(super) what: String,
}

/// Reads a line, without its end.
pub(super) fn read(line: &[u8]) -> Result<ExportLine, LineError> {
    // Nearly every line is a place, so that is tried before it is asked what it is.
    let entry_line = match serde_json::from_slice::<EntryLine>(line) {
        Ok(entry_line) => {
            let sequence = Some(entry_line.sequence);
            return entry_line.entry().map(ExportLine::Entry).map_err(|what| LineError { sequence, what });
        }
        Err(error) => error,
    };
    let unreadable = |error: &serde_json::Error| LineError { sequence: None, what: why(error) };
    let fields: MarkerFields = serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
    match fields {
        MarkerFields { tidings_export: Some(_), checkpoint: None, sequence: None, end: None } => {
            Ok(ExportLine::Header(Header::of(line)))
        }
        MarkerFields { tidings_export: None, checkpoint: Some(_), sequence: None, end: None } => {
            let signed: CheckpointLine = serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
            signed.stored().map(ExportLine::Checkpoint).map_err(|what| LineError { sequence: None, what })
        }
        MarkerFields { tidings_export: None, checkpoint: None, sequence: None, end: Some(_) } => {
            serde_json::from_slice(line).map(ExportLine::Footer).map_err(|error| unreadable(&error))
        }
        MarkerFields { tidings_export: None, checkpoint: None, sequence: Some(sequence), end: None } => {
            Err(LineError { sequence: sequence.as_u64(), what: why(&entry_line) })
        }
        _ => Err(LineError {
            sequence: None,
            what: "it is not one of a header, a checkpoint, a place and an end".to_owned(),
        }),
    }
}

/// What tells the kinds of lines apart.
#[derive(Deserialize)]
struct MarkerFields {
    tidings_export: Option<IgnoredAny>,
    checkpoint: Option<IgnoredAny>,
    sequence: Option<Value>,
    end: Option<IgnoredAny>,
}

/// Says what is wrong with a line without calling it line 1, as the parser does, which sees no other.
fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("{what} (column {column})"),
        None => text,
    }
}

impl Header {
    fn of(line: &[u8]) -> Self {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct StrictHeader {
            tidings_export: u64,
            epoch: Epoch,
            last_sequence: u64,
            #[serde(rename = "exported_at")]
            _exported_at: Timestamp,
        }
        match serde_json::from_slice::<StrictHeader>(line) {
            Ok(strict) => Self {
                version: Some(strict.tidings_export),
                epoch: Some(strict.epoch),
                last_sequence: Some(strict.last_sequence),
                fault: None,
            },
            Err(error) => {
                let value: Value = serde_json::from_slice(line).unwrap_or_default();
                Self {
                    version: value["tidings_export"].as_u64(),
                    epoch: value["epoch"].as_str().and_then(|epoch| epoch.parse().ok()),
                    last_sequence: value["last_sequence"].as_u64(),
                    fault: Some(why(&error)),
                }
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: u64,
    time: String,
    note: String,
}

impl CheckpointLine {
    fn stored(self) -> Result<StoredCheckpoint, String> {
        Ok(StoredCheckpoint { number: self.checkpoint, time_ns: time(&self.time)?, text: self.note })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    sequence: u64,
    #[serde(default, deserialize_with = "there")]
    hole: Option<bool>,
    #[serde(default, deserialize_with = "there")]
    time: Option<String>,
    #[serde(default, deserialize_with = "there")]
    subject: Option<String>,
    #[serde(default, deserialize_with = "there")]
    headers: Option<Vec<(String, String)>>,
    #[serde(default, deserialize_with = "there")]
    body: Option<String>,
    #[serde(default, deserialize_with = "there")]
    body_base64: Option<String>,
}

/// A field that may be absent, but not `null`.
fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl EntryLine {
    fn entry(self) -> Result<LogEntry, String> {
        let sequence = self.sequence;
        if sequence == 0 {
            return Err("sequences count from 1".to_owned());
        }
        let (at, subject, headers, body) =
            match (self.hole, self.time, self.subject, self.headers, self.body, self.body_base64) {
                (Some(true), None, None, None, None, None) => return Ok(LogEntry::Hole(sequence)),
                (None, Some(time), Some(subject), Some(headers), Some(text), None) => {
                    (time, subject, headers, text.into_bytes())
                }
                (None, Some(time), Some(subject), Some(headers), None, Some(base64)) => {
                    let body = STANDARD.decode(base64).map_err(|e| format!("its body is not base64: {e}"))?;
                    (time, subject, headers, body)
                }
                _ => {
                    return Err(
                        "it is neither a hole nor a message: a message has a time, a subject, headers, \
                                 and a body or a body_base64, and a hole has none of them"
                            .to_owned(),
                    );
                }
            };
        let time_ns = time(&at)?;
        Ok(LogEntry::Message(RawMessage { sequence, time_ns, subject, headers, body: body.into() }))
    }
}

fn time(text: &str) -> Result<i64, String> {
    parse_rfc3339(text).map_err(|why| format!("its time cannot be read: {why}"))
}

pub(super) fn header(head: LogHead, exported_at: Timestamp) -> String {
    json_line(&json!({
        "tidings_export": VERSION,
        "epoch": head.epoch,
        "last_sequence": head.last_sequence,
        "exported_at": exported_at,
    }))
}

pub(super) fn checkpoint(stored: &StoredCheckpoint) -> String {
    json_line(&json!({"checkpoint": stored.number, "time": rfc3339(stored.time_ns), "note": stored.text}))
}

pub(super) fn entry_line(entry: &LogEntry) -> String {
    let raw = match entry {
        LogEntry::Message(raw) => raw,
        LogEntry::Hole(sequence) => return json_line(&json!({"sequence": sequence, "hole": true})),
    };
    let (name, body) = match std::str::from_utf8(&raw.body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", STANDARD.encode(&raw.body)),
    };
    json_line(&json!({
        "sequence": raw.sequence,
        "time": rfc3339(raw.time_ns),
        "subject": raw.subject,
        "headers": raw.headers,
        name: body,
    }))
}

pub(super) fn end(end: u64, root: Hash) -> String {
    json_line(&json!({"end": end, "root": root}))
}
