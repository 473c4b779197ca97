//! Audit: what the log says, told from the log alone, with the server's own decoding and its own `evolve`.
//!
//! Nothing here asks a replica, and nothing is written.

pub mod follow;
pub mod moment;
pub mod replay;
pub mod state;
pub mod terminal;

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::log::EventLog;
use crate::log::reader::{Cursor, Delivery, Entry, Reader};

/// Batches read ahead of whoever looks at them.
const READ_AHEAD: usize = 4;

/// Visits the log from one sequence to another in order, holes included.
pub async fn each_entry(
    log: Arc<dyn EventLog>,
    from: u64,
    to: u64,
    mut visit: impl FnMut(Entry) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if from > to {
        return Ok(());
    }
    let epoch = log.info().await.context("asking the log who it is")?.epoch;
    let (sender, mut deliveries) = mpsc::channel(READ_AHEAD);
    let cursor = Cursor { epoch: Some(epoch), sequence: from - 1, last: None };
    let (_never, reconnected) = watch::channel(0);
    let (reader, _) = Reader::new(log, cursor, sender, reconnected);
    let mut reading = JoinSet::new();
    reading.spawn(reader.run());
    let visited = visit_up_to(to, &mut deliveries, &mut visit).await;
    // A reader that outlives its connection would complain of it.
    reading.shutdown().await;
    visited
}

async fn visit_up_to(
    to: u64,
    deliveries: &mut mpsc::Receiver<Delivery>,
    visit: &mut impl FnMut(Entry) -> anyhow::Result<()>,
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
