//! What the reader delivers, decoded while the batch before it is applied, and joined with what waits behind it.

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::decoded_entry::DecodedEntry;
use super::store::costs::{ACKS_TOGETHER, ENTRIES_TOGETHER};
use crate::blocking::blocking;
use crate::log::Epoch;
use crate::log::reader::{Delivery, LogEntry, MAX_BATCH};

/// Up to so many entries are decoded on the task itself; more of them on a thread of their own.
const FEW: usize = 4;

/// A delivery of the reader, decoded.
pub(super) enum Decoded {
    Epoch(Epoch),
    Head(u64),
    Entries(Vec<DecodedEntry>),
}

/// Decodes deliveries one ahead of the fold. It ends with the reader, and with the fold.
pub(super) fn decoded(mut deliveries: mpsc::Receiver<Delivery>) -> mpsc::Receiver<anyhow::Result<Decoded>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(delivery) = deliveries.recv().await {
            let decoded = match delivery {
                Delivery::Epoch(epoch) => Ok(Decoded::Epoch(epoch)),
                Delivery::Head(head) => Ok(Decoded::Head(head)),
                Delivery::Batch(entries) if entries.len() <= FEW => Ok(Decoded::Entries(decode(&entries))),
                Delivery::Batch(entries) => {
                    let entries = blocking(move || decode(&entries)).await;
                    entries.map(Decoded::Entries).context("decoding panicked")
                }
            };
            if sender.send(decoded).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn decode(entries: &[LogEntry]) -> Vec<DecodedEntry> {
    entries.iter().map(DecodedEntry::of).collect()
}

pub(super) fn acknowledgements(entries: &[DecodedEntry]) -> usize {
    entries.iter().map(|entry| entry.kind.acknowledgements()).sum()
}

/// Adds the batches that wait. Returns the delivery behind them, if it is no batch.
pub(super) fn add_waiting(
    entries: &mut Vec<DecodedEntry>,
    decoded: &mut mpsc::Receiver<anyhow::Result<Decoded>>,
) -> Option<anyhow::Result<Decoded>> {
    let mut acks = acknowledgements(entries);
    while entries.len() + MAX_BATCH <= ENTRIES_TOGETHER && acks < ACKS_TOGETHER {
        match decoded.try_recv() {
            Ok(Ok(Decoded::Entries(more))) => {
                acks += acknowledgements(&more);
                entries.extend(more);
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

/// The delivery that was taken already, or the next one.
pub(super) async fn next_of(
    taken: &mut Option<anyhow::Result<Decoded>>,
    decoded: &mut mpsc::Receiver<anyhow::Result<Decoded>>,
) -> Option<anyhow::Result<Decoded>> {
    match taken.take() {
        Some(taken) => Some(taken),
        None => decoded.recv().await,
    }
}
