//! Writing an export.

use std::io::Write;

use anyhow::{Context as _, bail};

use super::line;
use crate::audit::log_head::LogHead;
use crate::audit::source::Source;
use crate::domain::Timestamp;
use crate::log::merkle::{Frontier, Hash};
use crate::log::reader::LogEntry;
use crate::notary::stream::{CheckpointStream, StoredCheckpoint};

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSummary {
    /// Which log, and up to where.
    pub head: LogHead,
    /// The root over all places.
    pub root: Hash,
    /// How many places the log has lost.
    pub holes: u64,
    /// How many checkpoints there are.
    pub checkpoints: u64,
}

/// Writes an export, a line at a time, in the order that the form wants.
pub struct ExportWriter<W> {
    out: W,
    head: LogHead,
    tree: Frontier,
    holes: u64,
    checkpoints: u64,
}

impl<W: Write> ExportWriter<W> {
    /// Begins with the header.
    pub fn begin(mut out: W, head: LogHead, exported_at: Timestamp) -> anyhow::Result<Self> {
        out.write_all(line::header(head, exported_at).as_bytes())?;
        Ok(Self { out, head, tree: Frontier::default(), holes: 0, checkpoints: 0 })
    }

    /// The next checkpoint; all of them come before the first place.
    pub fn checkpoint(&mut self, stored: &StoredCheckpoint) -> anyhow::Result<()> {
        self.checkpoints += 1;
        let written = self.write(&line::checkpoint(stored));
        written.with_context(|| format!("writing checkpoint {}", stored.number))
    }

    /// The next place.
    pub fn entry(&mut self, entry: &LogEntry) -> anyhow::Result<()> {
        self.holes += u64::from(matches!(entry, LogEntry::Hole(_)));
        self.tree.push(entry.leaf());
        self.write(&line::entry_line(entry)).with_context(|| format!("writing sequence {}", entry.sequence()))
    }

    fn write(&mut self, line: &str) -> anyhow::Result<()> {
        if line.len() > line::MAX_LINE_BYTES {
            bail!("its line would be longer than the {} MiB of one", line::MAX_LINE_BYTES >> 20);
        }
        Ok(self.out.write_all(line.as_bytes())?)
    }

    /// Ends with the root. Fails when the log did not come whole.
    pub fn end(mut self) -> anyhow::Result<ExportSummary> {
        let Self { head, holes, checkpoints, .. } = self;
        if self.tree.size() != head.last_sequence {
            bail!("the log has {} places, and {} were read", head.last_sequence, self.tree.size());
        }
        let root = self.tree.root();
        self.out.write_all(line::end(head.last_sequence, root).as_bytes())?;
        self.out.flush()?;
        Ok(ExportSummary { head, root, holes, checkpoints })
    }
}

/// Exports a log up to the end that it has now. `at` hears how far it is, and to where it goes.
pub async fn export(
    source: &Source,
    signed: Option<&CheckpointStream>,
    exported_at: Timestamp,
    out: impl Write,
    mut at: impl FnMut(u64, u64),
) -> anyhow::Result<ExportSummary> {
    // Before the log is asked where it ends: nothing was signed up to here that the file does not have.
    let last_signed = match signed {
        Some(signed) => signed.extent().await?.last,
        None => 0,
    };
    let head = source.head().await?;
    let mut writer = ExportWriter::begin(out, head, exported_at)?;
    if let Some(signed) = signed {
        let write = |batch: Vec<StoredCheckpoint>| {
            let asked = batch.iter().take_while(|stored| stored.number <= last_signed);
            asked.into_iter().try_for_each(|stored| writer.checkpoint(stored))
        };
        signed.each(write).await?;
    }
    let entry = |entry: LogEntry| {
        at(entry.sequence(), head.last_sequence);
        writer.entry(&entry)
    };
    source.each_entry(1, head.last_sequence, entry).await?;
    if source.head().await?.epoch != head.epoch {
        bail!("the log was replaced by another one while it was exported; start again");
    }
    writer.end()
}
