//! Follow: the log as it is and as it grows, over outages of NATS.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::READ_AHEAD;
use super::replay::{Filter, HoleNotes, OutputFormat, render};
use super::source::Source;
use crate::log::EventLog;
use crate::log::reader::{Cursor, Delivery, Reader, ReaderStatus};

/// A log that cannot be followed for so long is away, also when no question about it has failed.
const LOG_TIMEOUT: Duration = Duration::from_secs(3);

/// Sends the events that the log has and every one that it gets to `lines`, each once and in order, until nobody takes
/// them any more. When the log turns out to be another one, it goes on from that one's start.
pub async fn follow(
    log: Arc<dyn EventLog>,
    reconnected: watch::Receiver<u64>,
    filter: &Filter,
    format: OutputFormat,
    lines: mpsc::Sender<String>,
    note: &mut impl FnMut(String),
) -> anyhow::Result<()> {
    let info = log.info().await.context("asking the log who it is")?;
    let mut from = filter.start(&Source::Log(log.clone())).await?;
    // A cursor behind the end would mean that the log has become shorter.
    let sequence = (from - 1).min(info.last_sequence);
    let (sender, mut deliveries) = mpsc::channel(READ_AHEAD);
    let (reader, seen) =
        Reader::new(log, Cursor { epoch: Some(info.epoch), sequence, last: None }, sender, reconnected);
    let mut reading = JoinSet::new();
    reading.spawn(reader.run());
    let mut outage = Outage { seen, since: None, is_reported: false };
    let mut text = format.heading();
    loop {
        if !text.is_empty() && lines.send(std::mem::take(&mut text)).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            delivery = deliveries.recv() => match delivery {
                None => bail!("reading the log ended"),
                Some(Delivery::Head(_)) => {}
                Some(Delivery::Epoch(epoch)) => {
                    note(format!("the log is another one now (epoch {epoch}); going on from its start"));
                    from = 1;
                }
                Some(Delivery::Batch(entries)) => {
                    let wanted = entries.iter().filter(|entry| entry.sequence() >= from);
                    let mut lost = HoleNotes::default();
                    let line = |entry| {
                        lost.look(entry, note);
                        render(entry, filter, format, note)
                    };
                    text = wanted.filter_map(line).collect();
                    lost.end(note);
                }
            },
            is_reported = outage.next() => note(is_reported),
            () = lines.closed() => return Ok(()),
        }
    }
}

/// Says when the log is away and when it is back.
struct Outage {
    seen: watch::Receiver<ReaderStatus>,
    since: Option<Instant>,
    is_reported: bool,
}

impl Outage {
    /// Waits for something to say. It may be dropped and asked again.
    async fn next(&mut self) -> String {
        loop {
            let seen = *self.seen.borrow_and_update();
            let mut until = None;
            if seen.following.is_some() {
                self.since = None;
                if std::mem::take(&mut self.is_reported) {
                    return "NATS is back: following the log again".to_owned();
                }
            } else if !self.is_reported {
                let given_up = *self.since.get_or_insert_with(Instant::now) + LOG_TIMEOUT;
                if seen.away || Instant::now() >= given_up {
                    self.is_reported = true;
                    return "NATS is away, or has no log: waiting for it".to_owned();
                }
                until = Some(given_up);
            }
            tokio::select! {
                changed = self.seen.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }
}
