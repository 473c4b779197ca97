//! Opening a file: a look at each of its lines, which notices everything that is wrong with it.

use std::ops::Range;

use anyhow::bail;

use super::checkpoints::CheckpointIndex;
use super::line::{self, ExportLine, Footer, Header, LineError, MAX_LINE_BYTES, VERSION};
use super::lines::LineStart;
use super::tracker::{FileFault, SeekPoint, SequenceCheck, SequenceTracker};
use crate::audit::log_head::LogHead;
use crate::log::Epoch;
use crate::log::leaf::Statement;
use crate::log::merkle::{Frontier, Hash};
use crate::log::reader::LogEntry;
use crate::notary::stream::StoredCheckpoint;

/// Faults that are kept; the rest is counted.
const MAX_FAULTS: usize = 1_000;

/// Characters of a fault that are kept: what is wrong with a line may quote it.
const MAX_FAULT_CHARS: usize = 400;

/// Lines from one mark to the next.
const SEEK_POINT_EVERY: u64 = 1_024;

/// What is known of a file up to a line.
#[derive(Debug, Default)]
pub(super) struct ExportScan {
    header: Option<Header>,
    end: Option<Footer>,
    checkpoints: CheckpointIndex,
    /// A line is of the form, whatever the rest is.
    recognised: bool,
    tracker: SequenceTracker,
    tree: Frontier,
    seek_points: Vec<SeekPoint>,
    /// What was missing when something later came. Each is a fault, so there is no use for more than those kept.
    gaps: Vec<Range<u64>>,
    faults: Vec<FileFault>,
    more_faults: u64,
}

/// What is known of a file.
#[derive(Debug)]
pub(super) struct ExportIndex {
    pub(super) head: LogHead,
    pub(super) root: Hash,
    pub(super) checkpoints: CheckpointIndex,
    pub(super) seek_points: Vec<SeekPoint>,
    pub(super) faults: Vec<FileFault>,
    pub(super) more_faults: u64,
}

impl ExportScan {
    /// Of a file of so many bytes.
    pub(super) fn of(file_bytes: u64) -> Self {
        Self { tracker: SequenceTracker::of(file_bytes), ..Self::default() }
    }

    /// Takes the next line; `None` stands for one that is too long. Fails when the file is of another version.
    pub(super) fn take(&mut self, start: LineStart, line: Option<&[u8]>) -> anyhow::Result<()> {
        if self.end.is_some() {
            self.fault(start.number(), None, "it stands after the end line");
            return Ok(());
        }
        let too_long =
            || LineError { sequence: None, what: format!("it has more than {MAX_LINE_BYTES} bytes") };
        let line = line.ok_or_else(too_long).and_then(line::read);
        self.recognised |= line.is_ok();
        match line {
            Ok(ExportLine::Header(header)) => return self.header(start, header),
            Ok(ExportLine::Checkpoint(stored)) => self.checkpoint(start, &stored),
            Ok(ExportLine::Entry(entry)) => self.place(start, &entry),
            Ok(ExportLine::Footer(end)) => self.end = Some(end),
            Err(LineError { sequence, what }) => {
                self.fault(start.number(), sequence, format!("it cannot be read: {what}"));
            }
        }
        Ok(())
    }

    fn header(&mut self, start: LineStart, header: Header) -> anyhow::Result<()> {
        if let Some(version) = header.version.filter(|version| *version != VERSION) {
            bail!("it is an export of version {version}, and this build reads version {VERSION}");
        }
        if start.before > 0 {
            self.fault(start.number(), None, "a header that is not the first line");
        }
        if let Some(why) = &header.fault {
            self.fault(start.number(), None, format!("the header is not as it was written: {why}"));
        }
        self.header.get_or_insert(header);
        Ok(())
    }

    fn checkpoint(&mut self, start: LineStart, stored: &StoredCheckpoint) {
        let number = stored.number;
        if self.tracker.last > 0 {
            self.fault(start.number(), None, format!("checkpoint {number} stands among the places"));
        }
        match self.checkpoints.tracker.takes(stored) {
            Ok(()) => self.checkpoints.take(start, stored),
            Err(why) => self.fault(start.number(), None, format!("checkpoint {number} {why}")),
        }
    }

    fn place(&mut self, start: LineStart, entry: &LogEntry) {
        let (sequence, last) = (entry.sequence(), self.tracker.last);
        let what = match self.tracker.check(sequence) {
            SequenceCheck::Next(_) => {
                self.miss(start.number(), last + 1..sequence);
                self.mark(start, entry);
                self.tracker.take(sequence);
                self.tree.push(entry.leaf());
                return;
            }
            SequenceCheck::Duplicate if self.is_in_a_gap(sequence) => {
                format!("sequence {sequence} is out of order: it comes after {last}")
            }
            SequenceCheck::Duplicate => format!("sequence {sequence} is there twice"),
            SequenceCheck::TooFar => format!("sequence {sequence} cannot be: it comes after {last}"),
        };
        self.fault(start.number(), Some(sequence), what);
    }

    fn is_in_a_gap(&self, sequence: u64) -> bool {
        let at = self.gaps.partition_point(|gap| gap.end <= sequence);
        self.gaps.get(at).is_some_and(|gap| gap.contains(&sequence))
    }

    /// Takes note of places that are not there.
    fn miss(&mut self, line: u64, gap: Range<u64>) {
        if gap.is_empty() {
            return;
        }
        let (first, last) = (gap.start, gap.end - 1);
        let what = if first == last {
            format!("sequence {first} is missing")
        } else {
            format!("sequences {first} to {last} are missing")
        };
        self.fault(line, Some(first), what);
        self.tree.extend(gap.clone().map(|sequence| Statement::hole(sequence).leaf()));
        if self.gaps.len() < MAX_FAULTS {
            self.gaps.push(gap);
        }
    }

    fn mark(&mut self, start: LineStart, entry: &LogEntry) {
        let last = self.seek_points.last().map(|mark| mark.start.before);
        if let LogEntry::Message(raw) = entry
            && last.is_none_or(|last| start.before - last >= SEEK_POINT_EVERY)
        {
            self.seek_points.push(SeekPoint { start, tracker: self.tracker, time_ns: raw.time_ns });
        }
    }

    fn fault(&mut self, line: u64, sequence: Option<u64>, what: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            let mut what = what.into();
            if let Some((end, _)) = what.char_indices().nth(MAX_FAULT_CHARS) {
                what.truncate(end);
                what.push('…');
                what.shrink_to_fit();
            }
            self.faults.push(FileFault { line, sequence, what });
        } else {
            self.more_faults += 1;
        }
    }

    /// The whole, after so many lines.
    pub(super) fn finish(mut self, lines: u64) -> anyhow::Result<ExportIndex> {
        if !self.recognised {
            bail!("it is no export of a log: no line of it is one of `tidings audit export`");
        }
        if self.header.is_none() {
            self.fault(1, None, "the header is missing");
        }
        let last_sequence = self.last_sequence();
        self.miss(lines, self.tracker.last + 1..last_sequence + 1);
        let said = self.header.as_ref().and_then(|header| header.last_sequence);
        if let Some(said) = said.filter(|said| *said != last_sequence) {
            self.fault(
                1,
                None,
                format!("the header says that the last sequence is {said}; it is {last_sequence}"),
            );
        }
        let root = self.tree.root();
        match self.end.take() {
            None => self.fault(lines, None, "the end line is missing: the tail of the file is cut off"),
            Some(said) if said.end != last_sequence => {
                let what = format!(
                    "the end line says that the last sequence is {}; it is {last_sequence}",
                    said.end
                );
                self.fault(lines, None, what);
            }
            Some(said) if said.root != root => {
                let what = format!("the end line has the root {}; that of the places is {root}", said.root);
                self.fault(lines, None, what);
            }
            Some(_) => {}
        }
        let head = LogHead { epoch: self.epoch(), last_sequence };
        let Self { checkpoints, seek_points, faults, more_faults, .. } = self;
        Ok(ExportIndex { head, root, checkpoints, seek_points, faults, more_faults })
    }

    /// What the header and the end line agree on, or the one of them that is there; else the last place that is there.
    fn last_sequence(&self) -> u64 {
        let header = self.header.as_ref().and_then(|header| header.last_sequence);
        let said = match (header, self.end.as_ref().map(|end| end.end)) {
            (Some(header), Some(end)) if header != end => None,
            (header, end) => header.or(end),
        };
        let believed = |said: &u64| {
            *said == self.tracker.last || matches!(self.tracker.check(*said), SequenceCheck::Next(_))
        };
        said.filter(believed).unwrap_or(self.tracker.last)
    }

    /// The header's, or that of the newest checkpoint.
    fn epoch(&self) -> Epoch {
        let of_header = self.header.as_ref().and_then(|header| header.epoch);
        // No checkpoint and nothing kept is of this one.
        of_header.or(self.checkpoints.epoch).unwrap_or(Epoch::from_bits(0))
    }
}
