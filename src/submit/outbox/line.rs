//! A line of the outbox: a checksum and the JSON of one entry. Lines are found again by their ends, so that a damaged
//! one costs itself alone.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Base, OutboxEntry};
use crate::domain::event::DecodeError;
use crate::domain::{Event, Precondition, Timestamp};
use crate::log::NewEvent;
use crate::log::names::{InvalidSubject, Subject};

/// Hexadecimal digits of a line's checksum: the first half of a SHA-256 over the JSON.
const CHECKSUM_DIGITS: usize = 32;

/// The JSON of a line. Field names are for ever: a newer build must read what an older one left behind.
#[derive(Serialize, Deserialize)]
struct LineFields {
    entry: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Base>,
    #[serde(default, skip_serializing_if = "Precondition::is_always")]
    condition: Precondition,
    subject: String,
    id: Uuid,
    time: Timestamp,
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent_to: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    version: u16,
    data: serde_json::Value,
}

/// The line of an entry, with its end.
pub(super) fn line(entry: &OutboxEntry) -> serde_json::Result<Vec<u8>> {
    let kind = entry.new.event.event_type();
    let json = serde_json::to_string(&LineFields {
        entry: entry.number,
        base: entry.base,
        condition: entry.condition.clone(),
        subject: entry.new.subject.to_string(),
        id: entry.new.id,
        time: entry.new.time,
        source: entry.new.source.clone(),
        traceparent: entry.new.trace.map(|trace| trace.to_string()),
        sent_to: entry.new.sent_to.map(|sent_to| sent_to.to_string()),
        kind: kind.name.to_owned(),
        version: kind.version,
        data: serde_json::from_slice(&entry.new.event.to_json()?)?,
    })?;
    Ok(format!("{} {json}\n", checksum(json.as_bytes())).into_bytes())
}

fn checksum(json: &[u8]) -> String {
    let hash = Sha256::digest(json);
    hash.iter().take(CHECKSUM_DIGITS / 2).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Something in the file that is no entry.
pub(super) struct DamagedLine<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) why: String,
    /// Whether whole entries follow: then it was damaged after it had been written, and not cut off while it was.
    pub(super) inside: bool,
}

/// The entries of a file, and what in it is none.
pub(super) fn read(file: &[u8]) -> (VecDeque<Arc<OutboxEntry>>, Vec<DamagedLine<'_>>) {
    let (mut entries, mut damaged) = (VecDeque::new(), Vec::<DamagedLine<'_>>::new());
    for bytes in file.split_inclusive(|byte| *byte == b'\n') {
        match parse(bytes) {
            Ok(entry) => {
                entries.push_back(Arc::new(entry));
                for earlier in &mut damaged {
                    earlier.inside = true;
                }
            }
            Err(why) => damaged.push(DamagedLine { bytes, why, inside: false }),
        }
    }
    (entries, damaged)
}

fn parse(line: &[u8]) -> Result<OutboxEntry, String> {
    let line = line.strip_suffix(b"\n").ok_or("its end is missing")?;
    let (sum, json) = line.split_at_checked(CHECKSUM_DIGITS).ok_or("it is too short")?;
    let json = json.strip_prefix(b" ").ok_or("it has no checksum")?;
    if checksum(json).as_bytes() != sum {
        return Err("its checksum is wrong".to_owned());
    }
    let line: LineFields = serde_json::from_slice(json).map_err(|e| format!("it is no entry: {e}"))?;
    let data = serde_json::to_vec(&line.data).map_err(|e| e.to_string())?;
    let event = Event::from_json(&line.kind, line.version, &data).map_err(|unreadable| match unreadable {
        DecodeError::UnknownType => format!("this build does not know {}:{}", line.kind, line.version),
        DecodeError::UnknownField(field) => {
            format!("this build does not know the field `{}` of {}", field.escape_debug(), line.kind)
        }
        DecodeError::Malformed(e) => format!("it is not a {}: {e}", line.kind),
    })?;
    let subject: Subject = line.subject.parse().map_err(|error: InvalidSubject| error.to_string())?;
    let trace = line.traceparent.and_then(|trace| trace.parse().ok());
    let sent_to = line.sent_to.and_then(|sent_to| sent_to.parse().ok());
    let LineFields { entry: number, base, condition, id, time, source, .. } = line;
    let new = NewEvent { subject, id, event, time, source, expected: None, trace, sent_to };
    Ok(OutboxEntry { number, base, condition, new })
}
