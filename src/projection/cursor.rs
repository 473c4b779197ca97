//! The cursor: where the projection stands in the log, and whether this build can go on from there.

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::domain::{Digest, Event};
use crate::log::Epoch;
use crate::log::reader::{Cursor, Last};

/// Changes with every change of a key or a record: a store of another format is rebuilt.
const FORMAT: u32 = 3;

/// Where the projection stands, written in the same batch as what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRecord {
    format: u32,
    /// The log that the sequence counts in.
    pub epoch: Option<Epoch>,
    /// The last sequence folded.
    pub sequence: u64,
    /// The fingerprint of what stands there, in hexadecimal; empty for a hole or for nothing yet.
    last: String,
    /// Every event type and version that the writer of this record could read.
    known: Vec<String>,
    /// Messages skipped because a newer build may know them.
    pub skipped_future: u64,
    /// Messages skipped because they are not of Tidings.
    pub skipped_foreign: u64,
    /// Places where the log has lost its message.
    pub holes: u64,
    /// The digest at `sequence`.
    pub digest: Digest,
    /// The last sequence that is a multiple of 256, and the digest there: two replicas can always compare that one.
    pub milestone: (u64, Digest),
}

impl Default for CursorRecord {
    fn default() -> Self {
        Self {
            format: FORMAT,
            epoch: None,
            sequence: 0,
            last: String::new(),
            known: known_events(),
            skipped_future: 0,
            skipped_foreign: 0,
            holes: 0,
            digest: Digest::default(),
            milestone: (0, Digest::default()),
        }
    }
}

impl CursorRecord {
    /// The record, unless another format wrote it, or a build that knew fewer events skipped some.
    pub fn believed(mut self) -> anyhow::Result<Self> {
        if self.format != FORMAT {
            bail!("it has format {}, and this build writes {FORMAT}", self.format);
        }
        let known = known_events();
        if self.skipped_future > 0 && known.iter().any(|event| !self.known.contains(event)) {
            bail!("it skipped events that this build knows");
        }
        self.known = known;
        Ok(self)
    }

    /// Notes what stands at the cursor.
    pub fn remember(&mut self, last: Last) {
        self.last = match last {
            Last::Message(fingerprint) => to_hex(&fingerprint),
            Last::Hole => String::new(),
        };
    }

    /// Where a reader goes on.
    pub fn cursor(&self) -> anyhow::Result<Cursor> {
        let last = match (self.sequence, self.last.as_str()) {
            (0, _) => None,
            (_, "") => Some(Last::Hole),
            (_, hex) => Some(Last::Message(from_hex(hex)?)),
        };
        Ok(Cursor { epoch: self.epoch, sequence: self.sequence, last })
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn from_hex(hex: &str) -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        bail!("a fingerprint has 64 hexadecimal digits");
    }
    for (byte, digits) in bytes.iter_mut().zip(0..32) {
        *byte = u8::from_str_radix(&hex[digits * 2..digits * 2 + 2], 16)?;
    }
    Ok(bytes)
}

fn known_events() -> Vec<String> {
    Event::TYPES.iter().map(|kind| format!("{}:{}", kind.name, kind.version)).collect()
}
