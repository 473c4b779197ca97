//! Feed: a selection of the log, or the log as it grows, for one reader at the reader's pace.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::AuditLog;
use super::replay::{Filter, OutputFormat, render};
use crate::log::LogInfo;
use crate::log::reader::{Cursor, Delivery, LogEntry, Reader};

/// Lines are sent together up to this many bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Events that are turned into lines together.
const EVENTS_AT_ONCE: usize = 32;

/// How long a reader may read nothing before it is disconnected.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

/// After this long without an event an empty line is sent: it detects readers that are gone, and keeps proxies from closing the
/// connection.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// A part that has an end is given up when the log cannot be read for so long.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);

/// Which part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
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
    AuditLog { log, reconnected, turns }: AuditLog,
    info: LogInfo,
    selection: Selection,
    lines: &mpsc::Sender<String>,
) -> anyhow::Result<()> {
    if !selection.follow && selection.from > info.last_sequence {
        return Ok(());
    }
    let sequence = (selection.from - 1).min(info.last_sequence);
    let (sender, mut deliveries) = mpsc::channel(1);
    let (reader, _) =
        Reader::new(log, Cursor { epoch: Some(info.epoch), sequence, last: None }, sender, reconnected);
    let mut reading = JoinSet::new();
    reading.spawn(reader.run());
    let end = if selection.follow { u64::MAX } else { info.last_sequence };
    let mut feed =
        Feed { lines, turns, selection, end, left: selection.limit.unwrap_or(u64::MAX), text: String::new() };
    let outcome = feed.run(&mut deliveries).await;
    // A reader that outlives its connection would complain of it.
    reading.shutdown().await;
    outcome
}

/// One reader's part, under way.
struct Feed<'a> {
    lines: &'a mpsc::Sender<String>,
    turns: Arc<Semaphore>,
    selection: Selection,
    /// The last sequence of it.
    end: u64,
    /// Events that may still be sent.
    left: u64,
    text: String,
}

impl Feed<'_> {
    async fn run(&mut self, deliveries: &mut mpsc::Receiver<Delivery>) -> anyhow::Result<()> {
        let mut last_news = Instant::now();
        let timeout_after = if self.selection.follow { KEEP_ALIVE_EVERY } else { LOG_TIMEOUT };
        loop {
            tokio::select! {
                delivery = deliveries.recv() => match delivery {
                    None => bail!("reading the log ended"),
                    Some(Delivery::Head(_)) => {}
                    Some(Delivery::Epoch(epoch)) => bail!("the log is another one now, with the epoch {epoch}"),
                    Some(Delivery::Batch(entries)) => {
                        if self.send_entries(entries).await? {
                            return Ok(());
                        }
                        last_news = Instant::now();
                    }
                },
                () = sleep_until(last_news + timeout_after) => {
                    if !self.selection.follow {
                        bail!("the log could not be read for {} s", LOG_TIMEOUT.as_secs());
                    }
                    self.text.push('\n');
                    self.hand_on().await?;
                    last_news = Instant::now();
                }
                () = self.lines.closed() => return Ok(()),
            }
        }
    }

    /// Whether that was all.
    async fn send_entries(&mut self, entries: Vec<LogEntry>) -> anyhow::Result<bool> {
        let from = self.selection.from;
        let mut entries = entries.into_iter().filter(|entry| entry.sequence() >= from).peekable();
        let mut over = false;
        while !over && entries.peek().is_some() {
            // A large event takes a while, in which the threads that serve must not stand still.
            let selection: Vec<_> = entries.by_ref().take(EVENTS_AT_ONCE).collect();
            let last = selection.last().map_or(0, LogEntry::sequence);
            let turn = self.turns.clone().acquire_owned().await?;
            let made = tokio::task::spawn_blocking(move || {
                let line = |entry| render(entry, &Filter::default(), OutputFormat::Ndjson, &mut |_| {});
                selection.iter().filter_map(line).collect::<Vec<_>>()
            });
            let made = made.await?;
            // A reader who is slow must not keep the others from their turn.
            drop(turn);
            for line in made.into_iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
                self.text.push_str(&line);
                self.left -= 1;
                if self.text.len() >= CHUNK_BYTES {
                    self.hand_on().await?;
                }
            }
            over = last >= self.end || self.left == 0;
        }
        self.hand_on().await?;
        Ok(over)
    }

    async fn hand_on(&mut self) -> anyhow::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        match timeout(READER_TIMEOUT, self.lines.send(std::mem::take(&mut self.text))).await {
            Ok(_) => Ok(()),
            Err(_) => bail!("its reader took nothing for {} s", READER_TIMEOUT.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::EventLog as _;
    use crate::log::memory::MemoryLog;
    use tokio::sync::watch;

    /// An event that this build reads, of so many bytes or a few more.
    fn append(log: &MemoryLog, n: u64, bytes: usize) {
        let id = format!("00000000-0000-0000-0000-{n:012}");
        let source = format!("/tidings/{}", "x".repeat(bytes));
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", &id),
            ("ce-type", "broadcast.cleared"),
            ("ce-source", &source),
            ("ce-dataschema", "urn:tidings:schema:broadcast.cleared:1"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let body = serde_json::json!({
            "broadcast_id": id, "cleared_by": "ann", "cleared_at": "2026-01-01T00:00:00.000Z"
        });
        let subject = crate::log::names::Subject::Lifecycle("creator".parse().unwrap()).to_string();
        log.inject(&subject, headers, body.to_string().into());
    }

    struct Fed {
        lines: mpsc::Receiver<String>,
        task: tokio::task::JoinHandle<anyhow::Result<()>>,
    }

    async fn fed(log: &MemoryLog, selection: Selection) -> Fed {
        let (sender, lines) = mpsc::channel(4);
        let info = log.info().await.unwrap();
        let (never, reconnected) = watch::channel(0);
        let log = AuditLog { log: Arc::new(log.clone()), reconnected, turns: Arc::new(Semaphore::new(1)) };
        let task = tokio::spawn(async move {
            let _never = never;
            feed(log, info, selection, &sender).await
        });
        Fed { lines, task }
    }

    impl Fed {
        /// Everything up to the end.
        async fn all(mut self) -> (usize, anyhow::Result<()>) {
            let mut count = 0;
            while let Some(text) = self.lines.recv().await {
                count += text.lines().filter(|line| !line.is_empty()).count();
            }
            (count, self.task.await.unwrap())
        }
    }

    const ALL: Selection = Selection { from: 1, limit: None, follow: false };

    #[tokio::test(start_paused = true)]
    async fn a_part_ends_at_its_limit_or_at_the_end_of_the_log() {
        let log = MemoryLog::default();
        for n in 1..=700 {
            append(&log, n, 0);
        }
        log.inject("elsewhere", vec![], "the last is no event".into());
        for (selection, count) in [
            (ALL, 700),
            (Selection { from: 300, ..ALL }, 401),
            (Selection { limit: Some(300), ..ALL }, 300),
            (Selection { from: 699, limit: Some(300), ..ALL }, 2),
            (Selection { from: 701, ..ALL }, 0),
            (Selection { from: 702, ..ALL }, 0),
            (Selection { limit: Some(3), follow: true, ..ALL }, 3),
        ] {
            let (told, fed) = fed(&log, selection).await.all().await;
            assert_eq!((told, fed.is_ok()), (count, true), "{selection:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_empty_line() {
        let log = MemoryLog::default();
        append(&log, 1, 0);
        let mut fed = fed(&log, Selection { follow: true, ..ALL }).await;
        assert!(fed.lines.recv().await.unwrap().len() > 1);
        let begun = Instant::now();
        assert_eq!(
            (fed.lines.recv().await.as_deref(), begun.elapsed() >= KEEP_ALIVE_EVERY),
            (Some("\n"), true)
        );
        append(&log, 2, 0);
        assert!(fed.lines.recv().await.unwrap().contains("000000000002"));
        drop(fed.lines);
        assert!(fed.task.await.unwrap().is_ok(), "it ends when its reader leaves");
    }

    #[tokio::test(start_paused = true)]
    async fn another_log_is_not_told_as_if_it_were_this_one() {
        let log = MemoryLog::default();
        append(&log, 1, 0);
        let mut fed = fed(&log, Selection { follow: true, ..ALL }).await;
        fed.lines.recv().await.unwrap();
        log.recreate();
        append(&log, 2, 0);
        let (told, fed) = fed.all().await;
        assert_eq!(told, 0);
        assert!(fed.unwrap_err().to_string().contains("the log is another one now"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_cut_off() {
        let log = MemoryLog::default();
        for n in 1..=20 {
            append(&log, n, CHUNK_BYTES);
        }
        let fed = fed(&log, ALL).await;
        let begun = Instant::now();
        let why = fed.task.await.unwrap().unwrap_err().to_string();
        assert!(why.contains("its reader took nothing for 30 s"), "{why}");
        assert!(begun.elapsed() >= READER_TIMEOUT);
    }
}
