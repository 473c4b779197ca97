//! An exported file as a log to read: looked through once, and then read from wherever it is wanted.

use std::fs::{File, Metadata};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};

use super::checkpoints::{CheckpointSeekPoint, SEEK_POINT_EVERY};
use super::line::{self, ExportLine};
use super::lines::{LineStart, Lines, RawLine};
use super::scan::{ExportIndex, ExportScan};
use super::tracker::{FileFault, SeekPoint, SequenceCheck, SequenceTracker};
use crate::audit::log_head::LogHead;
use crate::log::merkle::Hash;
use crate::log::reader::LogEntry;
use crate::notary::stream::StoredCheckpoint;

/// A file that `tidings audit export` wrote, or what has become of it.
///
/// Of the places it keeps a mark in a thousand or so; they are read from the file whenever somebody wants them.
#[derive(Debug)]
pub struct ExportFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    index: ExportIndex,
}

/// By what it is noticed that somebody writes into a file.
type Stamp = (u64, Option<SystemTime>);

fn stamp(of: &Metadata) -> Stamp {
    (of.len(), of.modified().ok())
}

/// What a file begins with that was compressed, by what, and with what it can be read again.
const COMPRESSED: [(&[u8], &str, &str); 2] =
    [(&[0x1f, 0x8b], "gzip", "gunzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "unzstd")];

/// An export begins with a line of JSON, whatever was done to it.
fn require_uncompressed(file: &File) -> anyhow::Result<()> {
    let mut start = [0; 4];
    let read = file.read_at(&mut start, 0)?;
    if let Some((_, by, undo)) = COMPRESSED.iter().find(|(magic, ..)| start[..read].starts_with(magic)) {
        bail!("the file is compressed ({by}): decompress it first, for example with `{undo}`");
    }
    Ok(())
}

impl ExportFile {
    /// Reads the file once. One that is damaged has [`ExportFile::faults`]; what is no export at all, of another version, or
    /// cannot be read, is an error. `at` hears how many bytes of it are read.
    pub fn open(path: &Path, mut at: impl FnMut(u64)) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("opening {shown}"))?;
        let found = file.metadata().with_context(|| format!("opening {shown}"))?;
        if !found.is_file() {
            bail!("{shown} is no regular file: it is read more than once, so a pipe has to be saved first");
        }
        require_uncompressed(&file).with_context(|| format!("reading {shown}"))?;
        let mut scan = ExportScan::of(found.len());
        let mut lines = Lines::from(&file, LineStart::default());
        while let Some(RawLine { start, text }) = lines.next().with_context(|| format!("reading {shown}"))? {
            scan.take(start, text).with_context(|| format!("reading {shown}"))?;
            at(start.offset);
        }
        let lines = lines.next_begin().before;
        let index = scan.finish(lines).with_context(|| format!("reading {shown}"))?;
        let (path, stamp) = (path.to_owned(), stamp(&found));
        let export = Self { path, file, stamp, index };
        export.require_unchanged()?;
        Ok(export)
    }

    /// Which log it is, and its last sequence: the header's, or the last one that is there when that cannot be.
    pub const fn head(&self) -> LogHead {
        self.index.head
    }

    /// The root over all places, with holes for those that are not there.
    pub const fn root(&self) -> Hash {
        self.index.root
    }

    /// Visits everything that stood in the stream of checkpoints, in order. One batch at a time is in memory.
    pub fn each_checkpoint(
        &self,
        mut visit: impl FnMut(Vec<StoredCheckpoint>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for seek_point in &self.index.checkpoints.seek_points {
            visit(self.checkpoints_from(*seek_point)?)?;
        }
        self.require_unchanged()
    }

    /// The newest checkpoint for which there is something to take.
    pub fn newest_checkpoint<T>(
        &self,
        mut take: impl FnMut(&StoredCheckpoint) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        for seek_point in self.index.checkpoints.seek_points.iter().rev() {
            if let Some(taken) = self.checkpoints_from(*seek_point)?.iter().rev().find_map(&mut take) {
                return Ok(Some(taken));
            }
        }
        self.require_unchanged().map(|()| None)
    }

    /// The checkpoints from one mark to the next.
    fn checkpoints_from(&self, seek_point: CheckpointSeekPoint) -> anyhow::Result<Vec<StoredCheckpoint>> {
        let CheckpointSeekPoint { start, mut tracker } = seek_point;
        let mut lines = Lines::from(&self.file, start);
        let mut found = Vec::new();
        while (found.len() as u64) < SEEK_POINT_EVERY
            && let Some(line) = lines.next().with_context(|| format!("reading {}", self.path.display()))?
        {
            match line.text.map(line::read) {
                Some(Ok(ExportLine::Checkpoint(stored))) if tracker.takes(&stored).is_ok() => {
                    tracker.take(&stored);
                    found.push(stored);
                }
                Some(Ok(ExportLine::Footer(_))) => break,
                _ => {}
            }
            if tracker == self.index.checkpoints.tracker {
                break;
            }
        }
        Ok(found)
    }

    /// What is wrong with the file, as it was noticed: the first thousand faults.
    pub fn faults(&self) -> &[FileFault] {
        &self.index.faults
    }

    /// How many more faults there are.
    pub const fn more_faults(&self) -> u64 {
        self.index.more_faults
    }

    /// The last sequence that was recorded before a moment, as the log itself would say; 0 when there is none. Times are
    /// taken to rise with the sequence.
    pub fn last_before(&self, moment_ns: i64) -> anyhow::Result<u64> {
        self.require_unchanged()?;
        let mut reader = self
            .read_from(self.index.seek_points.partition_point(|seek_point| seek_point.time_ns < moment_ns));
        let mut last = 0;
        while let Some(entry) = self.read(&mut reader)? {
            match entry {
                LogEntry::Message(raw) if raw.time_ns < moment_ns => last = raw.sequence,
                LogEntry::Message(_) => break,
                LogEntry::Hole(_) => {}
            }
        }
        Ok(last)
    }

    /// Visits the places from one to another in order. What is missing or cannot be read is a hole, and of a place that
    /// is there twice it is the first.
    pub fn each(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(LogEntry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.require_unchanged()?;
        let to = to.min(self.index.head.last_sequence);
        let mut reader = self
            .read_from(self.index.seek_points.partition_point(|seek_point| seek_point.tracker.last < from));
        let mut next = from.max(1);
        while next <= to {
            let found = self.read(&mut reader)?;
            let there = found.as_ref().map_or(to + 1, LogEntry::sequence);
            for hole in next..there.min(to + 1) {
                visit(LogEntry::Hole(hole))?;
            }
            next = next.max(there);
            if let Some(entry) = found.filter(|entry| entry.sequence() == next && next <= to) {
                visit(entry)?;
                next += 1;
            }
        }
        self.require_unchanged()
    }

    /// From the last one of so many marks on.
    fn read_from(&self, seek_points: usize) -> EntryReader<'_> {
        let start = || SeekPoint { tracker: SequenceTracker::of(self.stamp.0), ..SeekPoint::default() };
        let seek_point =
            seek_points.checked_sub(1).and_then(|last| self.index.seek_points.get(last)).copied();
        let seek_point = seek_point.unwrap_or_else(start);
        EntryReader { lines: Lines::from(&self.file, seek_point.start), tracker: seek_point.tracker }
    }

    fn read(&self, reader: &mut EntryReader<'_>) -> anyhow::Result<Option<LogEntry>> {
        reader.next().with_context(|| format!("reading {}", self.path.display()))
    }

    fn require_unchanged(&self) -> anyhow::Result<()> {
        if self.file.metadata().is_ok_and(|now| stamp(&now) == self.stamp) {
            return Ok(());
        }
        bail!("{} was changed while it was read; start again", self.path.display())
    }
}

/// Goes over the places that count, as they were judged when the file was opened.
struct EntryReader<'a> {
    lines: Lines<'a>,
    tracker: SequenceTracker,
}

impl EntryReader<'_> {
    fn next(&mut self) -> std::io::Result<Option<LogEntry>> {
        while let Some(found) = self.lines.next()? {
            match found.text.map(line::read) {
                Some(Ok(ExportLine::Entry(entry))) => {
                    if let SequenceCheck::Next(_) = self.tracker.check(entry.sequence()) {
                        self.tracker.take(entry.sequence());
                        return Ok(Some(entry));
                    }
                }
                Some(Ok(ExportLine::Footer(_))) => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }
}
