//! The queue of requests for the next commit, and the bound on all that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::batch::{AckBatch, AckRequest, Responder};
use crate::submit::SubmitError;

/// Requests that may wait for a look-up or for the next commit.
pub(super) const QUEUE: usize = 50_000;

/// Requests that wait for the next commit.
#[derive(Clone)]
pub(super) struct CommitQueue {
    batches: mpsc::Sender<AckBatch>,
    pub(super) waiting: Waiting,
}

impl CommitQueue {
    /// An empty queue, and its receiver.
    pub(super) fn new() -> (Self, mpsc::Receiver<AckBatch>) {
        // As many batches as requests may wait: a request that is admitted finds room for its batch.
        let (batches, receiver) = mpsc::channel(QUEUE);
        (Self { batches, waiting: Waiting::default() }, receiver)
    }

    /// Adds requests that are counted as waiting.
    pub(super) fn push(&self, responder: &Responder, requests: Vec<AckRequest>) {
        if requests.is_empty() {
            return;
        }
        let batch = AckBatch { responder: responder.clone(), requests };
        if let Err(
            mpsc::error::TrySendError::Full(AckBatch { responder, requests })
            | mpsc::error::TrySendError::Closed(AckBatch { responder, requests }),
        ) = self.batches.try_send(batch)
        {
            self.waiting.remove(requests.len());
            responder.reject(&requests, &SubmitError::Busy);
        }
    }

    /// Counts requests as waiting. Those above the limit are rejected.
    pub(super) fn admit(&self, responder: &Responder, mut requests: Vec<AckRequest>) -> Vec<AckRequest> {
        let too_many = requests.split_off(self.waiting.add(requests.len()));
        responder.reject(&too_many, &SubmitError::Busy);
        requests
    }
}

/// The number of requests that wait for a look-up or for the next commit.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Adds up to this many, and returns how many the limit allowed.
    fn add(&self, wanted: usize) -> usize {
        let more = |waiting: usize| Some(QUEUE.min(waiting + wanted));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        wanted.min(QUEUE - before.unwrap_or(QUEUE))
    }

    pub(super) fn remove(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
