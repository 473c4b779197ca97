//! Sources: where an auditor reads the log.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::export::reader::ExportFile;
use super::log_head::LogHead;
use super::{READ_AHEAD, time_point};
use crate::log::EventLog;
use crate::log::reader::{Cursor, Delivery, LogEntry, Reader};

/// A log to read from its start to its end. Reading it changes nothing.
#[derive(Clone)]
pub enum Source {
    /// The log itself, on NATS.
    Log(Arc<dyn EventLog>),
    /// What was exported of it. Reading it waits for the disk on the thread that asks.
    File(Arc<ExportFile>),
}

impl Source {
    /// Which log it is, and where it ends now.
    pub async fn head(&self) -> anyhow::Result<LogHead> {
        match self {
            Self::Log(log) => {
                let info = log.info().await.context("asking the log who it is")?;
                Ok(LogHead { epoch: info.epoch, last_sequence: info.last_sequence })
            }
            Self::File(export) => Ok(export.head()),
        }
    }

    /// The sequence of the last message that the log recorded before a moment, in nanoseconds since 1970; 0 when there is
    /// none.
    pub async fn last_before(&self, moment_ns: i64) -> anyhow::Result<u64> {
        match self {
            Self::Log(log) => Ok(time_point::last_before(&**log, moment_ns).await?),
            Self::File(export) => export.last_before(moment_ns),
        }
    }

    /// Visits the log from one sequence to another in order, holes included.
    pub async fn each_entry(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(LogEntry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if from > to {
            return Ok(());
        }
        match self {
            Self::Log(log) => each_of_log(log.clone(), from, to, &mut visit).await,
            Self::File(export) => export.each(from, to, visit),
        }
    }
}

async fn each_of_log(
    log: Arc<dyn EventLog>,
    from: u64,
    to: u64,
    visit: &mut impl FnMut(LogEntry) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let epoch = log.info().await.context("asking the log who it is")?.epoch;
    let (sender, mut deliveries) = mpsc::channel(READ_AHEAD);
    let cursor = Cursor { epoch: Some(epoch), sequence: from - 1, last: None };
    let (_never, reconnected) = watch::channel(0);
    let (reader, _) = Reader::new(log, cursor, sender, reconnected);
    let mut reading = JoinSet::new();
    reading.spawn(reader.run());
    let visited = visit_up_to(to, &mut deliveries, visit).await;
    // A reader that outlives its connection would complain of it.
    reading.shutdown().await;
    visited
}

async fn visit_up_to(
    to: u64,
    deliveries: &mut mpsc::Receiver<Delivery>,
    visit: &mut impl FnMut(LogEntry) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while let Some(delivery) = deliveries.recv().await {
        match delivery {
            Delivery::Head(_) => {}
            Delivery::Epoch(_) => bail!("the log was replaced by another one while it was read; start again"),
            Delivery::Batch(entries) => {
                for entry in entries {
                    let sequence = entry.sequence();
                    if sequence <= to {
                        visit(entry)?;
                    }
                    if sequence >= to {
                        return Ok(());
                    }
                }
            }
        }
    }
    bail!("reading the log ended before its end")
}
