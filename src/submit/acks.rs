//! Acknowledgements: requests that arrive together are judged together, and share an append.
//!
//! A single acknowledgement costs one append; thousands at once cost a few. There is no timer and nothing to tune.

mod batch;
mod commit;
mod judge;
mod lookup;
mod queue;

use std::sync::Arc;

use super::{Submit, SubmitError};
use crate::domain::{BroadcastId, Channel, UserId};
use crate::log::TraceParent;
use crate::rate_limit::{Quota, RateLimit, RateLimited};
use batch::Responder;
pub use batch::{AckReply, AckRequest, AckResult, Acknowledged, Replies};
use judge::{Judged, judge_active};
use lookup::Lookups;
use queue::CommitQueue;

/// The write path of acknowledgements.
#[derive(Clone)]
pub struct Acks {
    submit: Arc<Submit>,
    commits: CommitQueue,
    lookups: Lookups,
    limit: Arc<Option<RateLimit>>,
}

impl Acks {
    /// Starts the one committer of this replica, and the look-ups. They end with the last handle. `limit` is the rate limit of
    /// each user, which callers charge; `None`: no limit.
    pub fn start(submit: Arc<Submit>, limit: Option<RateLimit>) -> Self {
        let (commits, queued) = CommitQueue::new();
        let committer = commit::commit_until_closed(submit.clone(), commits.waiting.clone(), queued);
        submit.options.tasks.spawn("committer of acknowledgements", committer);
        let lookups = Lookups::start(submit.clone(), commits.clone());
        Self { submit, commits, lookups, limit: Arc::new(limit) }
    }

    /// Takes one acknowledgement from the quota of this user. `None`: there is no limit.
    pub fn charge(&self, user: &UserId) -> Result<Option<Quota>, RateLimited> {
        self.limit.as_ref().as_ref().map(|limit| limit.take(user)).transpose()
    }

    /// Acknowledges a broadcast for a user. The result comes when the log has it and the own projection has applied it.
    /// The event carries the trace if every request that shares the event has the same one.
    pub async fn acknowledge(
        &self,
        channel: Channel,
        broadcast: BroadcastId,
        user: UserId,
        trace: Option<TraceParent>,
    ) -> AckResult {
        let mut replies = self.acknowledge_all(vec![AckRequest::new(0, channel, broadcast, user, trace)]);
        let reply = replies.next().await.and_then(|mut replies| replies.pop());
        reply.map_or(Err(SubmitError::Busy), |reply| reply.result)
    }

    /// Acknowledges for all requests that arrived together, with one look at the view. It does not wait.
    pub fn acknowledge_all(&self, requests: Vec<AckRequest>) -> Replies {
        let (responder, replies) = Responder::new(&requests, self.submit.clock.now());
        if !self.submit.projection.position().serving {
            responder.reject(&requests, &SubmitError::CatchingUp);
            return replies;
        }
        let Judged { known, new, unknown } = judge_active(&self.submit.projection.snapshot(), requests);
        responder.send(known);
        self.commits.push(&responder, self.commits.admit(&responder, new));
        self.lookups.look_up(&responder, self.commits.admit(&responder, unknown));
        replies
    }

    /// Requests that wait for a look-up or for the next commit.
    pub fn waiting(&self) -> usize {
        self.commits.waiting.count()
    }
}
