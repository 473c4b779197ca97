//! Acknowledgements: what comes together is judged together, and shares an append.
//!
//! A single acknowledgement costs one append; thousands at once cost a few. There is no timer and nothing to tune.

mod commit;
mod lot;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::mode::Mode;
use super::{PROJECTION_PATIENCE, Submit, SubmitError};
use crate::domain::{BroadcastId, Channel, Needs, Rejection, UserId, View, acknowledged_before};
use crate::log::TraceParent;
pub use lot::{Answered, Answers, Asked};
use lot::{Asker, Lot, Request};

/// Acknowledgements that may wait for the next commit.
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
    queue: mpsc::Sender<Lot>,
    waiting: Waiting,
}

/// How many acknowledgements wait for the next commit.
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

/// `decide`, before the queue: most rejections and doubles need no append.
fn judge(view: View<'_>, requests: Vec<Request>) -> Judged {
    let mut judged = Judged::default();
    for request in requests {
        match acknowledged_before(view, &request.channel, request.broadcast, request.fingerprint) {
            Ok(None) => judged.new.push(request),
            Ok(Some(first)) => {
                judged.known.push(Answered { nth: request.nth, answer: Ok(Acknowledged::before(first)) });
            }
            Err(_) => judged.unknown.push(request),
        }
    }
    judged
}

impl Acks {
    /// Starts the one committer of this replica. It ends with the last handle.
    pub fn start(submit: Arc<Submit>) -> Self {
        // As many lots as acknowledgements may wait: who has a place for one finds a place for its lot.
        let (queue, lots) = mpsc::channel(QUEUE);
        let waiting = Waiting::default();
        tokio::spawn(commit::commit_until_closed(submit.clone(), waiting.clone(), lots));
        Self { submit, queue, waiting }
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
        let Judged { known, new, unknown } = self.submit.projection.read(|view| {
            // What is not resident may be on disk.
            let is_resident = |request: &Request| view.log().broadcasts.contains_key(&request.broadcast);
            let (resident, elsewhere) = requests.into_iter().partition(is_resident);
            let mut judged = judge(view, resident);
            judged.unknown.extend::<Vec<_>>(elsewhere);
            judged
        });
        asker.tell(known);
        self.enqueue(&asker, new);
        for requests in by_broadcast(unknown) {
            tokio::spawn(self.clone().look_further(asker.clone(), requests));
        }
        answers
    }

    /// How many wait for the next commit.
    pub fn waiting(&self) -> usize {
        self.waiting.count()
    }

    fn enqueue(&self, asker: &Asker, mut requests: Vec<Request>) {
        let there_is_room_for = self.waiting.enter(requests.len());
        let too_many = requests.split_off(there_is_room_for);
        asker.refuse(&too_many, &SubmitError::Busy);
        if requests.is_empty() {
            return;
        }
        if let Err(refused) = self.queue.try_send(Lot { asker: asker.clone(), requests }) {
            let (mpsc::error::TrySendError::Full(lot) | mpsc::error::TrySendError::Closed(lot)) = refused;
            self.waiting.leave(lot.requests.len());
            asker.refuse(&lot.requests, &SubmitError::Busy);
        }
    }

    /// What is said of one broadcast that is not resident, or not here yet.
    async fn look_further(self, asker: Asker, requests: Vec<Request>) {
        let Some(first) = requests.first() else { return };
        let (channel, id) = (first.channel.clone(), first.broadcast);
        let Some(unknown) = self.look(&asker, id, requests).await else { return };
        // Another replica may have shown it to the user a moment ago. Alone, this one cannot know that.
        if self.submit.modes.now() == Mode::Local
            || !self.submit.catch_up(&channel, Instant::now() + PROJECTION_PATIENCE).await
        {
            return asker.refuse(&unknown, &SubmitError::CatchingUp);
        }
        if let Some(unknown) = self.look(&asker, id, unknown).await {
            asker.refuse(&unknown, &SubmitError::Rejected(Rejection::UnknownBroadcast { id }));
        }
    }

    /// Judges by all that this replica has of a broadcast. What is left is of a broadcast that it does not know.
    async fn look(&self, asker: &Asker, id: BroadcastId, requests: Vec<Request>) -> Option<Vec<Request>> {
        if !self.submit.projection.position().serving {
            asker.refuse(&requests, &SubmitError::CatchingUp);
            return None;
        }
        let needs = Needs { broadcasts: vec![id], written: vec![] };
        let copies = requests.clone();
        let judged = self.submit.projection.with(needs, move |view| judge(view, copies)).await;
        let Ok(Judged { known, new, unknown }) = judged else {
            asker.refuse(&requests, &SubmitError::CatchingUp);
            return None;
        };
        asker.tell(known);
        self.enqueue(asker, new);
        (!unknown.is_empty()).then_some(unknown)
    }
}

/// Those of each broadcast, as it is named, together.
fn by_broadcast(requests: Vec<Request>) -> Vec<Vec<Request>> {
    let mut groups: Vec<Vec<Request>> = Vec::new();
    for request in requests {
        let same = |group: &&mut Vec<Request>| {
            group.first().is_some_and(|first| {
                (first.broadcast, &first.channel) == (request.broadcast, &request.channel)
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(request),
            None => groups.push(vec![request]),
        }
    }
    groups
}
