//! Requests that arrive together share one channel for their replies.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::domain::{BroadcastId, Channel, Fingerprint, Timestamp, UserId, in_log};
use crate::log::TraceParent;
use crate::submit::SubmitError;

/// A request to acknowledge a broadcast for a user.
#[derive(Clone, Debug)]
pub struct AckRequest {
    /// Chosen by the caller, and returned with the reply.
    pub tag: u64,
    /// The channel of the broadcast.
    pub channel: Channel,
    /// The broadcast to acknowledge.
    pub broadcast: BroadcastId,
    /// The user who acknowledges.
    pub user: UserId,
    /// The trace of the request. The event carries it if all of its requests have the same one.
    pub trace: Option<TraceParent>,
    /// Of the user: it takes a hash, so it is computed once.
    pub(super) fingerprint: Fingerprint,
}

impl AckRequest {
    /// A request of this user.
    pub fn new(
        tag: u64,
        channel: Channel,
        broadcast: BroadcastId,
        user: UserId,
        trace: Option<TraceParent>,
    ) -> Self {
        let fingerprint = user.fingerprint();
        Self { tag, channel, broadcast, user, trace, fingerprint }
    }
}

impl AckRequest {
    /// The reply if the user had acknowledged before, at this sequence.
    pub(super) const fn acknowledged_before(&self, first: u64) -> AckReply {
        let acknowledged = Acknowledged { already: Some(true), sequence: in_log(first) };
        AckReply { tag: self.tag, broadcast: self.broadcast, result: Ok(acknowledged) }
    }
}

/// An acknowledgement that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledged {
    /// Whether the user had acknowledged before. `None`: the own projection has not applied the event yet.
    pub already: Option<bool>,
    /// The event that carries the acknowledgement; the first one if there are several. `None`: it is in the outbox, and is still
    /// to be relayed to the log.
    pub sequence: Option<u64>,
}

/// The outcome of a request.
pub type AckResult = Result<Acknowledged, SubmitError>;

/// The reply to one request.
#[derive(Debug)]
pub struct AckReply {
    /// The tag of the request.
    pub tag: u64,
    /// The broadcast of the request.
    pub broadcast: BroadcastId,
    /// The outcome.
    pub result: AckResult,
}

/// The replies to requests that were submitted together. Each request gets exactly one; many arrive at a time.
#[derive(Debug)]
pub struct Replies {
    replies: mpsc::Receiver<Vec<AckReply>>,
    /// How many requests with this tag and broadcast are still open.
    open: HashMap<(u64, BroadcastId), usize, foldhash::fast::RandomState>,
}

impl Replies {
    /// The next replies; `None` when every request has its own.
    pub async fn next(&mut self) -> Option<Vec<AckReply>> {
        if let Some(replies) = self.replies.recv().await {
            for AckReply { tag, broadcast, .. } in &replies {
                if let Some(open) = self.open.get_mut(&(*tag, *broadcast)) {
                    *open -= 1;
                }
            }
            return Some(replies);
        }
        // The tasks that had the remaining requests have ended.
        let open = std::mem::take(&mut self.open).into_iter();
        let dropped = open.flat_map(|((tag, broadcast), count)| {
            (0..count).map(move |_| AckReply { tag, broadcast, result: Err(SubmitError::Busy) })
        });
        let dropped: Vec<_> = dropped.collect();
        (!dropped.is_empty()).then_some(dropped)
    }
}

/// Sends the replies to requests that were submitted together.
#[derive(Clone)]
pub(super) struct Responder {
    replies: mpsc::Sender<Vec<AckReply>>,
    received: Instant,
    /// The time of the acknowledgements, as the event records it.
    pub(super) at: Timestamp,
}

impl Responder {
    /// For these requests. The channel has room for a reply to each, so that sending never waits.
    pub(super) fn new(requests: &[AckRequest], at: Timestamp) -> (Self, Replies) {
        let (sender, replies) = mpsc::channel(requests.len().max(1));
        let mut open: HashMap<_, usize, _> = HashMap::default();
        for request in requests {
            *open.entry((request.tag, request.broadcast)).or_default() += 1;
        }
        (Self { replies: sender, received: Instant::now(), at }, Replies { replies, open })
    }

    /// Sends replies. A caller that is gone does not need them.
    pub(super) fn send(&self, replies: Vec<AckReply>) {
        if !replies.is_empty() {
            let _ = self.replies.try_send(replies);
        }
    }

    /// When the requests arrived.
    pub(super) const fn received(&self) -> Instant {
        self.received
    }

    /// Rejects these requests, all for the same reason.
    pub(super) fn reject(&self, requests: &[AckRequest], error: &SubmitError) {
        self.reject_each(requests, |_| error.clone());
    }

    /// Rejects these requests, each for its own reason.
    pub(super) fn reject_each(&self, requests: &[AckRequest], error: impl Fn(&AckRequest) -> SubmitError) {
        let reply = |request: &AckRequest| AckReply {
            tag: request.tag,
            broadcast: request.broadcast,
            result: Err(error(request)),
        };
        self.send(requests.iter().map(reply).collect());
    }
}

/// Requests of one caller that wait together.
#[derive(Clone)]
pub(super) struct AckBatch {
    pub(super) responder: Responder,
    pub(super) requests: Vec<AckRequest>,
}
