//! A lot: acknowledgements that came together, and the one way back to who asked for them.

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Acknowledged, Answer};
use crate::domain::{BroadcastId, Channel, Fingerprint, Timestamp, UserId};
use crate::log::TraceParent;
use crate::submit::SubmitError;

/// An acknowledgement that somebody asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where the broadcast was sent.
    pub channel: Channel,
    /// What is acknowledged.
    pub broadcast: BroadcastId,
    /// Who does.
    pub user: UserId,
    /// The event carries it on if nobody of another trace shares it.
    pub trace: Option<TraceParent>,
}

/// What became of one of those that were asked for together.
#[derive(Debug)]
pub struct Answered {
    /// Which of them, counted from 0.
    pub nth: usize,
    /// What is known of it now.
    pub answer: Answer,
}

/// What becomes of acknowledgements that were asked for together: each is answered once, many of them at a time.
#[derive(Debug)]
pub struct Answers {
    told: mpsc::Receiver<Vec<Answered>>,
    /// By their number, whether they are still to be answered.
    open: Vec<bool>,
}

impl Answers {
    /// The next ones; `None` when all are answered.
    pub async fn next(&mut self) -> Option<Vec<Answered>> {
        if let Some(answers) = self.told.recv().await {
            for answered in &answers {
                self.open[answered.nth] = false;
            }
            return Some(answers);
        }
        // Nobody works on the rest any more.
        let open = std::mem::take(&mut self.open).into_iter().enumerate().filter(|(_, open)| *open);
        let left: Vec<_> = open.map(|(nth, _)| Answered { nth, answer: Err(SubmitError::Busy) }).collect();
        (!left.is_empty()).then_some(left)
    }
}

/// One acknowledgement on its way.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) nth: usize,
    pub(super) channel: Channel,
    pub(super) broadcast: BroadcastId,
    pub(super) user: UserId,
    /// The user's, which takes a hash to know.
    pub(super) fingerprint: Fingerprint,
    pub(super) at: Timestamp,
    pub(super) trace: Option<TraceParent>,
}

impl Request {
    /// What it is answered if the user had acknowledged before, at this sequence.
    pub(super) const fn known(&self, first: u64) -> Answered {
        Answered { nth: self.nth, answer: Ok(Acknowledged::before(first)) }
    }

    pub(super) fn of(nth: usize, asked: Asked, at: Timestamp) -> Self {
        let Asked { channel, broadcast, user, trace } = asked;
        let fingerprint = user.fingerprint();
        Self { nth, channel, broadcast, user, fingerprint, at, trace }
    }
}

/// Who asked for some of them.
#[derive(Clone)]
pub(super) struct Asker {
    told: mpsc::Sender<Vec<Answered>>,
    begun: Instant,
}

impl Asker {
    /// Of so many acknowledgements. There is room for an answer to each, so that telling never waits.
    pub(super) fn of(count: usize) -> (Self, Answers) {
        let (told, answers) = mpsc::channel(count.max(1));
        (Self { told, begun: Instant::now() }, Answers { told: answers, open: vec![true; count] })
    }

    /// Tells what became of some. Who has gone does not want to know.
    pub(super) fn tell(&self, answers: Vec<Answered>) {
        if !answers.is_empty() {
            let _ = self.told.try_send(answers);
        }
    }

    /// Since when it waits.
    pub(super) const fn begun(&self) -> Instant {
        self.begun
    }

    /// Tells that none of these was confirmed.
    pub(super) fn refuse(&self, requests: &[Request], error: &SubmitError) {
        self.refuse_each(requests, |_| error.clone());
    }

    /// Tells of each of these why it was not confirmed.
    pub(super) fn refuse_each(&self, requests: &[Request], why: impl Fn(&Request) -> SubmitError) {
        let refused = |request: &Request| Answered { nth: request.nth, answer: Err(why(request)) };
        self.tell(requests.iter().map(refused).collect());
    }
}

/// Acknowledgements of one asker that wait for a commit.
#[derive(Clone)]
pub(super) struct Lot {
    pub(super) asker: Asker,
    pub(super) requests: Vec<Request>,
}

impl Acknowledged {
    /// One that was made before, at this sequence.
    pub(super) const fn before(sequence: u64) -> Self {
        Self { already: Some(true), sequence: crate::domain::in_log(sequence) }
    }
}
