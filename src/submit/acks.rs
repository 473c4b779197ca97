//! Acknowledgements: what comes together is judged together, and shares an append.
//!
//! A single acknowledgement costs one append; thousands at once cost a few. There is no timer and nothing to tune.

mod commit;
mod lookup;
mod lot;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::{Submit, SubmitError};
use crate::domain::{BroadcastId, Channel, UserId, View, acknowledged_before};
use crate::log::TraceParent;
use crate::projection::Snapshot;
use lookup::Lookups;
pub use lot::{Answered, Answers, Asked};
use lot::{Asker, Lot, Request};

/// Acknowledgements that may wait: for a look-up, or for the next commit.
const QUEUE: usize = 50_000;

/// What is known of an acknowledgement that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledged {
    /// Whether the user had acknowledged before. `None`: it is durable, but the own projection has not got there yet.
    pub already: Option<bool>,
    /// The event that carries it; the first one when there are several. `None`: it is in the outbox, and the log gets it.
    pub sequence: Option<u64>,
}

/// What became of an acknowledgement.
pub type Answer = Result<Acknowledged, SubmitError>;

/// Takes acknowledgements in.
#[derive(Clone)]
pub struct Acks {
    submit: Arc<Submit>,
    commits: Queue,
    lookups: Lookups,
}

/// Acknowledgements on their way to the next commit.
#[derive(Clone)]
struct Queue {
    lots: mpsc::Sender<Lot>,
    waiting: Waiting,
}

impl Queue {
    /// Puts acknowledgements in, each of which has its place among those that wait.
    fn put(&self, asker: &Asker, requests: Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        if let Err(refused) = self.lots.try_send(Lot { asker: asker.clone(), requests }) {
            let (mpsc::error::TrySendError::Full(lot) | mpsc::error::TrySendError::Closed(lot)) = refused;
            self.waiting.leave(lot.requests.len());
            asker.refuse(&lot.requests, &SubmitError::Busy);
        }
    }
}

/// How many acknowledgements wait for a look-up or for the next commit.
#[derive(Clone, Default)]
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Takes up to so many places, and says how many there were.
    fn enter(&self, wanted: usize) -> usize {
        let more = |waiting: usize| Some(QUEUE.min(waiting + wanted));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        wanted.min(QUEUE - before.unwrap_or(QUEUE))
    }

    fn leave(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a look at the view says of acknowledgements.
#[derive(Default)]
struct Judged {
    /// Were made before.
    known: Vec<Answered>,
    /// Are still to be made.
    new: Vec<Request>,
    /// Of broadcasts that the view does not have.
    unknown: Vec<Request>,
}

/// Judges what is of active broadcasts, which is nearly everything. Whatever else there is has to be looked up.
fn judge_active(snapshot: &Snapshot, requests: Vec<Request>) -> Judged {
    let mut judged = Judged::default();
    for request in requests {
        let active = snapshot.active(&request.channel);
        match active.filter(|active| active.broadcast.id == request.broadcast) {
            Some(active) => match active.acknowledged_by(request.fingerprint) {
                Some(first) => judged.known.push(request.known(first)),
                None => judged.new.push(request),
            },
            None => judged.unknown.push(request),
        }
    }
    judged
}

/// `decide`, before the queue: most rejections and doubles need no append.
fn judge(view: View<'_>, requests: Vec<Request>) -> Judged {
    let mut judged = Judged::default();
    for request in requests {
        match acknowledged_before(view, &request.channel, request.broadcast, request.fingerprint) {
            Ok(None) => judged.new.push(request),
            Ok(Some(first)) => judged.known.push(request.known(first)),
            Err(_) => judged.unknown.push(request),
        }
    }
    judged
}

impl Acks {
    /// Starts the one committer of this replica, and the look-ups. They end with the last handle.
    pub fn start(submit: Arc<Submit>) -> Self {
        // As many lots as acknowledgements may wait: who has a place for one finds a place for its lot.
        let (lots, queued) = mpsc::channel(QUEUE);
        let commits = Queue { lots, waiting: Waiting::default() };
        let committer = commit::commit_until_closed(submit.clone(), commits.waiting.clone(), queued);
        submit.options.tasks.spawn("committer of acknowledgements", committer);
        let lookups = Lookups::start(submit.clone(), commits.clone());
        Self { submit, commits, lookups }
    }

    /// Acknowledges a broadcast for a user. Confirmed when the log has it and the own projection has applied it.
    /// The event carries the trace on if nobody of another trace shares it.
    pub async fn acknowledge(
        &self,
        channel: Channel,
        broadcast: BroadcastId,
        user: UserId,
        trace: Option<TraceParent>,
    ) -> Answer {
        let mut answers = self.acknowledge_all(vec![Asked { channel, broadcast, user, trace }]);
        let answered = answers.next().await.and_then(|mut answers| answers.pop());
        answered.map_or(Err(SubmitError::Busy), |answered| answered.answer)
    }

    /// The same for all that came together, under one look at what is known. It does not wait.
    pub fn acknowledge_all(&self, all: Vec<Asked>) -> Answers {
        let (asker, answers) = Asker::of(all.len());
        let now = self.submit.clock.now();
        let requests = all.into_iter().enumerate().map(|(nth, one)| Request::of(nth, one, now));
        let requests: Vec<_> = requests.collect();
        if !self.submit.projection.position().serving {
            asker.refuse(&requests, &SubmitError::CatchingUp);
            return answers;
        }
        let Judged { known, new, unknown } = judge_active(&self.submit.projection.snapshot(), requests);
        asker.tell(known);
        self.commits.put(&asker, self.admit(&asker, new));
        self.lookups.look_up(&asker, self.admit(&asker, unknown));
        answers
    }

    /// Gives each a place among those that wait. Those for which there is none are refused.
    fn admit(&self, asker: &Asker, mut requests: Vec<Request>) -> Vec<Request> {
        let too_many = requests.split_off(self.commits.waiting.enter(requests.len()));
        asker.refuse(&too_many, &SubmitError::Busy);
        requests
    }

    /// How many wait for a look-up or for the next commit.
    pub fn waiting(&self) -> usize {
        self.commits.waiting.count()
    }
}
