//! Feed: a part of the log, or the log as it grows, for one reader who takes it as fast as they can.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::READ_AHEAD;
use super::replay::{Filter, Form, told};
use crate::log::reader::{Cursor, Delivery, Entry, Reader};
use crate::log::{EventLog, LogInfo};

/// Lines are handed on together up to this many bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// A reader who takes nothing for so long is gone.
const READER_PATIENCE: Duration = Duration::from_secs(30);

/// After so long without news, an empty line is sent: who has left is noticed by that, and whoever is between does not close
/// the connection.
const SILENCE: Duration = Duration::from_secs(15);

/// A part that has an end is given up when the log cannot be read for so long.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Which part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From this sequence on.
    pub from: u64,
    /// So many events at most; `None`: all of them.
    pub limit: Option<u64>,
    /// Whether it goes on with what the log gets later.
    pub follow: bool,
}

/// Sends the events of a part as NDJSON, each once and in order. `info` is what the log said of itself a moment ago. An error
/// when the log is replaced by another one meanwhile, or cannot be read, or the reader does not read.
pub async fn feed(
    log: Arc<dyn EventLog>,
    reconnected: watch::Receiver<u64>,
    info: LogInfo,
    part: Part,
    lines: &mpsc::Sender<String>,
) -> anyhow::Result<()> {
    if !part.follow && part.from > info.last_sequence {
        return Ok(());
    }
    let sequence = (part.from - 1).min(info.last_sequence);
    let (sender, mut deliveries) = mpsc::channel(READ_AHEAD);
    let (reader, _) =
        Reader::new(log, Cursor { epoch: Some(info.epoch), sequence, last: None }, sender, reconnected);
    let mut reading = JoinSet::new();
    reading.spawn(reader.run());
    let end = if part.follow { u64::MAX } else { info.last_sequence };
    let mut feeding = Feeding { lines, part, end, left: part.limit.unwrap_or(u64::MAX), text: String::new() };
    let fed = feeding.run(&mut deliveries).await;
    // A reader that outlives its connection would complain of it.
    reading.shutdown().await;
    fed
}

/// One reader's part, under way.
struct Feeding<'a> {
    lines: &'a mpsc::Sender<String>,
    part: Part,
    /// The last sequence of it.
    end: u64,
    /// Events that may still be told.
    left: u64,
    text: String,
}

impl Feeding<'_> {
    async fn run(&mut self, deliveries: &mut mpsc::Receiver<Delivery>) -> anyhow::Result<()> {
        let mut heard = Instant::now();
        let patience = if self.part.follow { SILENCE } else { LOG_PATIENCE };
        loop {
            tokio::select! {
                delivery = deliveries.recv() => match delivery {
                    None => bail!("reading the log ended"),
                    Some(Delivery::Head(_)) => {}
                    Some(Delivery::Epoch(epoch)) => bail!("the log is another one now, of {epoch}"),
                    Some(Delivery::Batch(entries)) => {
                        if self.tell(entries).await? {
                            return Ok(());
                        }
                        heard = Instant::now();
                    }
                },
                () = sleep_until(heard + patience) => {
                    if !self.part.follow {
                        bail!("the log could not be read for {} s", LOG_PATIENCE.as_secs());
                    }
                    self.text.push('\n');
                    self.hand_on().await?;
                    heard = Instant::now();
                }
                () = self.lines.closed() => return Ok(()),
            }
        }
    }

    /// Whether that was all.
    async fn tell(&mut self, entries: Vec<Entry>) -> anyhow::Result<bool> {
        for entry in entries {
            let sequence = entry.sequence();
            if sequence >= self.part.from
                && let Some(line) = told(&entry, &Filter::default(), Form::Ndjson, &mut |_| {})
            {
                self.text.push_str(&line);
                self.left -= 1;
            }
            let over = sequence >= self.end || self.left == 0;
            if over || self.text.len() >= CHUNK_BYTES {
                self.hand_on().await?;
            }
            if over {
                return Ok(true);
            }
        }
        self.hand_on().await?;
        Ok(false)
    }

    async fn hand_on(&mut self) -> anyhow::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        match timeout(READER_PATIENCE, self.lines.send(std::mem::take(&mut self.text))).await {
            Ok(_) => Ok(()),
            Err(_) => bail!("its reader took nothing for {} s", READER_PATIENCE.as_secs()),
        }
    }
}
