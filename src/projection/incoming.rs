//! What the reader hands on, decoded while what came before it is folded, and joined with what waits behind it.

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::ledger::{Step, What};
use crate::blocking::blocking;
use crate::domain::{Event, Recorded};
use crate::log::Epoch;
use crate::log::reader::{Delivery, LogEntry, MAX_BATCH};

/// Places of the log that are folded together at most, and acknowledgements in them: what waits is written as one batch,
/// since a batch costs the store about as much as what is in it.
const TOGETHER: usize = 1_024;
pub(super) const ACKS_TOGETHER: usize = 1 << 15;

/// So many entries are decoded where they are; more of them off the threads of the runtime.
const FEW: usize = 4;

/// What the reader handed on, decoded.
pub(super) enum Decoded {
    Epoch(Epoch),
    Head(u64),
    Steps(Vec<Step>),
}

/// Decodes what comes while that before it is folded. Ends with the reader, and when nobody folds any more.
pub(super) fn decoded(mut deliveries: mpsc::Receiver<Delivery>) -> mpsc::Receiver<anyhow::Result<Decoded>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(delivery) = deliveries.recv().await {
            let decoded = match delivery {
                Delivery::Epoch(epoch) => Ok(Decoded::Epoch(epoch)),
                Delivery::Head(head) => Ok(Decoded::Head(head)),
                Delivery::Batch(entries) if entries.len() <= FEW => Ok(Decoded::Steps(steps(&entries))),
                Delivery::Batch(entries) => {
                    let steps = blocking(move || steps(&entries)).await;
                    steps.map(Decoded::Steps).context("decoding panicked")
                }
            };
            if sender.send(decoded).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn steps(entries: &[LogEntry]) -> Vec<Step> {
    entries.iter().map(Step::of).collect()
}

pub(super) fn acknowledgements(steps: &[Step]) -> usize {
    let of_each = steps.iter().map(|step| match &step.what {
        What::Event(Recorded { event: Event::Acknowledged(brought), .. }, _) => {
            brought.acknowledgements.len()
        }
        _ => 0,
    });
    of_each.sum()
}

/// Adds what waits to be folded. Returns what comes after that and is something else.
pub(super) fn add_waiting(
    steps: &mut Vec<Step>,
    decoded: &mut mpsc::Receiver<anyhow::Result<Decoded>>,
) -> Option<anyhow::Result<Decoded>> {
    let mut acks = acknowledgements(steps);
    while steps.len() + MAX_BATCH <= TOGETHER && acks < ACKS_TOGETHER {
        match decoded.try_recv() {
            Ok(Ok(Decoded::Steps(more))) => {
                acks += acknowledgements(&more);
                steps.extend(more);
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

/// What was taken already, or what comes next.
pub(super) async fn next_of(
    taken: &mut Option<anyhow::Result<Decoded>>,
    decoded: &mut mpsc::Receiver<anyhow::Result<Decoded>>,
) -> Option<anyhow::Result<Decoded>> {
    match taken.take() {
        Some(taken) => Some(taken),
        None => decoded.recv().await,
    }
}
