//! Which sequences of the log were read from an exported file, and where reading can resume.

use std::fmt;

use super::lines::LineStart;
use crate::audit::terminal::printable;

/// Sequences that a file of any size may lack, and the bytes of it that allow one more. A line has ten times as many bytes, so
/// this is most of a log. A sequence or a header that would exceed it is rejected: each missing sequence costs the reader time.
const MAX_MISSING: u64 = 100_000;
const BYTES_PER_MISSING: u64 = 64;

/// A fault of an exported file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// The line where it was noticed, from 1.
    pub line: u64,
    /// The sequence that it concerns, if any.
    pub sequence: Option<u64>,
    /// What it is.
    pub what: String,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, printable(&self.what))
    }
}

/// Which sequences were read from a file so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SequenceTracker {
    /// The last one.
    pub(super) last: u64,
    /// How many before it are not there.
    pub(super) missing: u64,
    /// How many may not be there.
    pub(super) most_missing: u64,
}

/// How the next sequence in a file relates to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceCheck {
    /// It is the next one, after this many missing ones.
    Next(u64),
    /// It was read before, or is out of order.
    Duplicate,
    /// More sequences would be missing than are plausible.
    TooFar,
}

impl SequenceTracker {
    /// At the start of a file of so many bytes.
    pub(super) const fn of(file_bytes: u64) -> Self {
        Self { last: 0, missing: 0, most_missing: MAX_MISSING + file_bytes / BYTES_PER_MISSING }
    }

    pub(super) const fn check(self, sequence: u64) -> SequenceCheck {
        match sequence.checked_sub(self.last + 1) {
            None => SequenceCheck::Duplicate,
            Some(missing) if missing > self.most_missing - self.missing => SequenceCheck::TooFar,
            Some(missing) => SequenceCheck::Next(missing),
        }
    }

    pub(super) const fn take(&mut self, sequence: u64) {
        self.missing += sequence - self.last - 1;
        self.last = sequence;
    }
}

/// Where to begin to read so that not everything before has to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SeekPoint {
    /// The line of a message.
    pub(super) start: LineStart,
    /// What was taken before it.
    pub(super) tracker: SequenceTracker,
    /// When the log recorded that message.
    pub(super) time_ns: i64,
}
