//! The outbox: what was accepted while the log was away, on disk until the log has it.
//!
//! A file of lines, each a checksum and the JSON of one entry. It is not a database: an entry is written once, in order,
//! synced before it is confirmed, and read again only at the next start. When the log has everything the file is emptied.

mod files;
mod line;

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{error, warn};

use crate::crash_point::CrashPoint;
use crate::disk;
use crate::domain::{Channel, Precondition};
use crate::log::names::Subject;
use crate::log::{Epoch, NewEvent};
use files::{ENTRIES, REJECTED};
use line::{DamagedLine, line, read};

/// The limits of an outbox.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Entries; one may carry up to 1,000 acknowledgements.
    pub entries: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What an entry was decided on: the last lifecycle event of its channel at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// An event of the log.
    Log {
        /// The epoch of the log.
        epoch: Option<Epoch>,
        /// Its sequence; 0 when the channel had none.
        sequence: u64,
    },
    /// An entry of this outbox, by its number.
    Entry(u64),
}

/// One event that waits for the log.
#[derive(Clone, Debug)]
pub struct OutboxEntry {
    /// Its number, from 1, since the outbox was last empty.
    pub number: u64,
    /// What it was decided on; `None` for acknowledgements, which are a set.
    pub base: Option<Base>,
    /// What has to be active for a `broadcast.created` to take effect.
    pub condition: Precondition,
    /// The event. Its guard is found when it is relayed.
    pub new: NewEvent,
}

/// An event that is about to go into the outbox; for the fields see [`OutboxEntry`].
#[derive(Clone, Debug)]
pub struct Draft {
    /// What the event was decided on.
    pub base: Option<Base>,
    /// What has to be active for a post to take effect.
    pub condition: Precondition,
    /// The event.
    pub new: NewEvent,
}

/// The size of an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Entries.
    pub entries: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Entries that the log will never take, since the replica started.
    pub rejected: u64,
}

/// Why an event was not written to the outbox.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// The outbox has reached its limit.
    #[error("the outbox is full")]
    Full,
    /// Writing to the disk failed.
    #[error("{0:#}")]
    Disk(anyhow::Error),
}

/// The outbox of one replica. Its calls block on the disk.
#[derive(Debug)]
pub struct Outbox {
    directory: PathBuf,
    /// `None` when it could not be opened, or holds something that could not be undone: then it is written anew before
    /// anything is added.
    file: Option<File>,
    /// What was found in it and is no entry, until it is kept elsewhere.
    damaged: Vec<(Vec<u8>, String)>,
    /// Bytes of the file that hold whole entries.
    bytes: u64,
    bounds: OutboxLimits,
    waiting: VecDeque<Arc<OutboxEntry>>,
    last: u64,
    /// The last entry about what is active in each channel, since the outbox was last empty.
    last_lifecycle: HashMap<Channel, u64>,
    /// The log that the view showed when the first of what is pending was accepted, see [`Outbox::pending_over`].
    pending_over: Option<Epoch>,
    stats: watch::Sender<OutboxStats>,
}

impl Outbox {
    /// Opens the outbox in a directory, with what an earlier run left in it. What cannot be read (the end of a write
    /// that was cut off, a damaged disk) goes to the rejected file, and is said. On a full disk it has what waits, and
    /// takes nothing until there is room.
    pub fn open(directory: &Path, bounds: OutboxLimits) -> anyhow::Result<Self> {
        let path = directory.join(ENTRIES);
        let found = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let (waiting, damaged) = read(&found);
        damaged.iter().for_each(log_damaged);
        let bytes = found.len() as u64;
        let damaged =
            damaged.into_iter().map(|DamagedLine { bytes, why, .. }| (bytes.to_vec(), why)).collect();
        let last = waiting.back().map_or(0, |entry| entry.number);
        let last_lifecycle = waiting.iter().filter_map(about_active).collect();
        let directory = directory.to_owned();
        let stats = watch::Sender::new(OutboxStats { entries: waiting.len(), bytes, rejected: 0 });
        let mut outbox = Self {
            directory,
            file: None,
            damaged,
            bytes,
            bounds,
            waiting,
            last,
            last_lifecycle,
            pending_over: None,
            stats,
        };
        match outbox.begin() {
            Err(error) if disk::is_full(&error) => {
                error!("the outbox takes nothing until its disk does: {error:#}");
            }
            begun => begun?,
        }
        Ok(outbox)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        if !self.damaged.is_empty() {
            return self.write_anew();
        }
        self.file = Some(files::open(&self.directory)?);
        Ok(())
    }

    /// Follows what waits.
    pub fn stats(&self) -> watch::Receiver<OutboxStats> {
        self.stats.subscribe()
    }

    fn publish(&self) {
        self.stats.send_modify(|stats| {
            stats.entries = self.waiting.len();
            stats.bytes = self.bytes;
        });
    }

    /// What waits, oldest first.
    pub const fn waiting(&self) -> &VecDeque<Arc<OutboxEntry>> {
        &self.waiting
    }

    /// The last entry about what is active in a channel, since the outbox was last empty. It may have left it already.
    pub fn last_lifecycle(&self, channel: &Channel) -> Option<u64> {
        self.last_lifecycle.get(channel).copied()
    }

    /// The log whose sequences the view of a channel has while something is pending: the view keeps what it took from that
    /// log, also when another log takes its place meanwhile. `None` when that is not known.
    pub const fn pending_over(&self) -> Option<Epoch> {
        self.pending_over
    }

    /// Nothing is pending yet, and from now on something is, over what this log said.
    pub const fn begin_pending_over(&mut self, epoch: Option<Epoch>) {
        self.pending_over = epoch;
    }

    /// Writes entries, all or none, and returns when the disk has them.
    pub fn append(&mut self, drafts: Vec<Draft>) -> Result<(), OutboxError> {
        if !self.is_as_written() {
            self.write_anew().map_err(OutboxError::Disk)?;
        }
        let entries: Vec<_> = (self.last + 1..)
            .zip(drafts)
            .map(|(number, Draft { base, condition, new })| {
                Arc::new(OutboxEntry { number, base, condition, new })
            })
            .collect();
        let lines: Vec<u8> = entries.iter().try_fold(Vec::new(), |mut lines, entry| {
            lines.extend(line(entry).map_err(|e| OutboxError::Disk(e.into()))?);
            Ok(lines)
        })?;
        let grown = self.bytes + lines.len() as u64;
        if self.waiting.len() + entries.len() > self.bounds.entries || grown > self.bounds.bytes {
            return Err(OutboxError::Full);
        }
        CrashPoint::BeforeOutboxWrite.reached();
        self.write(&lines).map_err(OutboxError::Disk)?;
        CrashPoint::AfterOutboxWrite.reached();
        self.bytes = grown;
        self.last += entries.len() as u64;
        self.last_lifecycle.extend(entries.iter().filter_map(about_active));
        self.waiting.extend(entries);
        self.publish();
        Ok(())
    }

    /// Whether the file has what was written to it: it may have been deleted or truncated.
    fn is_as_written(&self) -> bool {
        let found = self.file.as_ref().and_then(|file| file.metadata().ok());
        found.is_some_and(|found| found.len() == self.bytes && found.nlink() > 0)
    }

    /// Replaces the file by one with all waiting entries.
    fn write_anew(&mut self) -> anyhow::Result<()> {
        self.file = None;
        if !self.damaged.is_empty() {
            let damaged = self.damaged.iter();
            files::reject(&self.directory, damaged.map(|(bytes, why)| (bytes.as_slice(), why.as_str())))?;
            self.damaged.clear();
        }
        let lines = self.waiting.iter().map(|entry| line(entry)).collect::<Result<Vec<_>, _>>()?.concat();
        self.file = Some(files::replace(&self.directory, &lines)?);
        self.bytes = lines.len() as u64;
        self.publish();
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        let file = self.file.as_mut().context("the outbox is not open")?;
        let Err(error) = file.write_all(lines).and_then(|()| file.sync_data()) else { return Ok(()) };
        // Taken back, so that the next one does not follow its remains; and synced, or a crash could bring back what
        // was refused.
        if file.set_len(self.bytes).and_then(|()| file.sync_data()).is_err() {
            self.file = None;
        }
        Err(error).context("writing the outbox")
    }

    /// The log has the oldest entry, or has overruled it. Once nothing waits, [`Outbox::empty`] frees the disk.
    pub fn done(&mut self) {
        self.waiting.pop_front();
        self.publish();
    }

    /// Moves the oldest entry to the rejected file: the log will never take it.
    pub fn reject(&mut self, why: &str) -> anyhow::Result<()> {
        let Some(entry) = self.waiting.front() else { return Ok(()) };
        let text = line(entry)?;
        files::reject(&self.directory, [(text.as_slice(), why)])?;
        self.stats.send_modify(|stats| stats.rejected += 1);
        self.done();
        Ok(())
    }

    /// Empties the file when nothing waits any more. What a crash leaves in it is found in the log at the next start.
    pub fn empty(&mut self) {
        if !self.waiting.is_empty() || self.bytes == 0 {
            return;
        }
        // One that is not open is written anew before anything is added.
        let Some(file) = &self.file else { return };
        match file.set_len(0).and_then(|()| file.sync_data()) {
            Ok(()) => {
                (self.bytes, self.last) = (0, 0);
                self.last_lifecycle.clear();
                self.publish();
            }
            Err(error) => warn!("the outbox is done but cannot be emptied: {error}"),
        }
    }
}

/// The channel and the number of an entry about what is active there.
fn about_active(entry: &Arc<OutboxEntry>) -> Option<(Channel, u64)> {
    match &entry.new.subject {
        Subject::Lifecycle(channel) => Some((channel.clone(), entry.number)),
        _ => None,
    }
}

fn log_damaged(DamagedLine { bytes, why, inside }: &DamagedLine<'_>) {
    let size = bytes.len();
    if *inside {
        error!("{size} bytes inside the outbox are damaged ({why}); they are kept in {REJECTED}");
    } else {
        warn!(
            "the end of the outbox was cut off before anyone was told of it ({size} bytes: {why}); it is kept in {REJECTED}"
        );
    }
}

#[cfg(test)]
mod tests;
