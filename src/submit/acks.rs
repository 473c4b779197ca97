//! Group commit of acknowledgements: one append in flight, and what arrives meanwhile shares the next one.
//!
//! A single acknowledgement costs one append; thousands at once cost a few. There is no timer and nothing to tune.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Attempt, PROJECTION_PATIENCE, Submit, SubmitError};
use crate::domain::{
    self, Acknowledgement, BroadcastId, Channel, Command, Event, Needs, Rejection, State, UserId, decide,
};
use crate::log::envelope::MAX_ACKS_PER_EVENT;
use crate::log::names::Subject;
use crate::log::{NewEvent, TraceParent};

/// Acknowledgements that may wait for the next commit.
const QUEUE: usize = 50_000;

/// Acknowledgements taken from the queue for one commit.
const DRAINED_AT_ONCE: usize = 10_000;

/// The most bytes of acknowledgements in one event; a message of the log may have 256 KiB.
const MAX_EVENT_BYTES: usize = 192 * 1024;

/// What is known of an acknowledgement that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Whether the user had acknowledged before. `None`: it is durable, but the own projection has not got there yet.
    pub already: Option<bool>,
    /// The event that carries it; the first one when there are several.
    pub sequence: u64,
}

type Answer = Result<Acknowledged, SubmitError>;

struct Request {
    channel: Channel,
    broadcast: BroadcastId,
    acknowledgement: Acknowledgement,
    trace: Option<TraceParent>,
    answer: oneshot::Sender<Answer>,
}

/// Takes acknowledgements in.
#[derive(Clone)]
pub struct Acks {
    submit: Arc<Submit>,
    queue: mpsc::Sender<Request>,
}

impl Acks {
    /// Starts the one committer of this replica. It ends with the last handle.
    pub fn start(submit: Arc<Submit>) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        tokio::spawn(commit_until_closed(submit.clone(), requests));
        Self { submit, queue }
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
        let now = self.submit.clock.now();
        if let Some(known) = self.known(&channel, broadcast, &user).await? {
            return Ok(known);
        }
        let begun = Instant::now();
        let (answer, answered) = oneshot::channel();
        let acknowledgement = Acknowledgement { user, at: now };
        let request = Request { channel, broadcast, acknowledgement, trace, answer };
        self.queue.try_send(request).map_err(|_| SubmitError::Busy)?;
        let confirmed = answered.await.unwrap_or(Err(SubmitError::Busy))?;
        self.submit.metrics.ack_confirmation.observe(begun.elapsed());
        Ok(confirmed)
    }

    /// How many wait for the next commit.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// `decide`, before the queue: most rejections and doubles need no append.
    async fn known(
        &self,
        channel: &Channel,
        broadcast: BroadcastId,
        user: &UserId,
    ) -> Result<Option<Acknowledged>, SubmitError> {
        let mut judged = self.judge(channel, broadcast, user).await?;
        if let Err(Rejection::UnknownBroadcast { .. }) = judged {
            // Another replica may have shown it to the user a moment ago.
            if !self.submit.catch_up(channel, Instant::now() + PROJECTION_PATIENCE).await {
                return Err(SubmitError::CatchingUp);
            }
            judged = self.judge(channel, broadcast, user).await?;
        }
        let first = judged.map_err(SubmitError::Rejected)?;
        Ok(first.map(|sequence| Acknowledged { already: Some(true), sequence }))
    }

    /// The sequence at which this user acknowledged; `None` when that is still to do.
    async fn judge(
        &self,
        channel: &Channel,
        broadcast: BroadcastId,
        user: &UserId,
    ) -> Result<Result<Option<u64>, Rejection>, SubmitError> {
        if !self.submit.projection.position().serving {
            return Err(SubmitError::CatchingUp);
        }
        let command = Command::Acknowledge { channel: channel.clone(), broadcast, user: user.clone() };
        let (now, user) = (self.submit.clock.now(), user.clone());
        let needs = State::needs(&command, Uuid::nil());
        let judged = self.submit.projection.with(needs, move |state| {
            decide(state, &command, now, Uuid::nil()).map(|event| match event {
                Some(_) => None,
                None => first(state, broadcast, &user),
            })
        });
        Ok(judged.await?)
    }
}

fn first(state: &State, broadcast: BroadcastId, user: &UserId) -> Option<u64> {
    state.broadcast(broadcast)?.acknowledged_at(user)
}

async fn commit_until_closed(submit: Arc<Submit>, mut requests: mpsc::Receiver<Request>) {
    let mut drained = Vec::new();
    while requests.recv_many(&mut drained, DRAINED_AT_ONCE).await > 0 {
        let commits = group(drained.drain(..)).into_iter().map(|commit| commit.run(&submit));
        join_all(commits).await;
    }
}

/// One event in the making, and who waits for it. Waiters for the same user share an entry.
struct Commit {
    channel: Channel,
    broadcast: BroadcastId,
    acknowledgements: Vec<Acknowledgement>,
    waiters: Vec<Vec<oneshot::Sender<Answer>>>,
    entries: HashMap<UserId, usize>,
    bytes: usize,
    /// The one that all who wait came with.
    trace: Option<TraceParent>,
}

impl Commit {
    fn new(channel: Channel, broadcast: BroadcastId, trace: Option<TraceParent>) -> Self {
        Self {
            channel,
            broadcast,
            acknowledgements: vec![],
            waiters: vec![],
            entries: HashMap::new(),
            bytes: 0,
            trace,
        }
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.acknowledgements.len() < MAX_ACKS_PER_EVENT && self.bytes + bytes <= MAX_EVENT_BYTES
    }

    fn add(&mut self, acknowledgement: Acknowledgement, bytes: usize, answer: oneshot::Sender<Answer>) {
        self.entries.insert(acknowledgement.user.clone(), self.waiters.len());
        self.acknowledgements.push(acknowledgement);
        self.waiters.push(vec![answer]);
        self.bytes += bytes;
    }

    /// An event of several traces belongs to none.
    fn join(&mut self, trace: Option<TraceParent>) {
        self.trace = self.trace.filter(|known| Some(*known) == trace);
    }

    /// Appends the event, and leaves telling the waiters to a task, so that the next commit can begin.
    async fn run(self, submit: &Arc<Submit>) {
        let now = submit.clock.now();
        let id = submit.clock.new_id();
        let Self { channel, broadcast, acknowledgements, waiters, trace, .. } = self;
        let users: Vec<_> = acknowledgements.iter().map(|a| a.user.clone()).collect();
        let event = Event::Acknowledged(domain::Acknowledged { broadcast_id: broadcast, acknowledgements });
        let subject = Subject::Acks(channel, broadcast);
        submit.metrics.ack_commit_size.observe(users.len());
        let source = submit.source.clone();
        let new = NewEvent { subject, id, event, time: now, source, expected: None, trace };
        let mut attempt = Attempt::new(submit, id);
        let said_of = TraceParent::span(trace);
        match attempt.append(new).instrument(said_of.clone()).await {
            Ok(appended) => {
                drop(tokio::spawn(confirm(submit.clone(), broadcast, users, waiters, appended.sequence)));
            }
            Err(error) => {
                let _said_of = said_of.entered();
                for waiter in waiters.into_iter().flatten() {
                    let _ = waiter.send(Err(attempt.refusal(&error)));
                }
            }
        }
    }
}

/// The requests as few events as possible, in the order of their arrival.
fn group(requests: impl Iterator<Item = Request>) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    let mut open: HashMap<BroadcastId, usize> = HashMap::new();
    for Request { channel, broadcast, acknowledgement, trace, answer } in requests {
        let bytes = stored_bytes(&acknowledgement);
        let index = open.entry(broadcast).or_insert(usize::MAX);
        if let Some(commit) = commits.get_mut(*index)
            && let Some(entry) = commit.entries.get(&acknowledgement.user)
        {
            commit.waiters[*entry].push(answer);
            commit.join(trace);
            continue;
        }
        if commits.get(*index).is_none_or(|commit| !commit.has_room_for(bytes)) {
            *index = commits.len();
            commits.push(Commit::new(channel, broadcast, trace));
        }
        commits[*index].add(acknowledgement, bytes, answer);
        commits[*index].join(trace);
    }
    commits
}

/// What an acknowledgement takes in an event's body.
fn stored_bytes(acknowledgement: &Acknowledgement) -> usize {
    serde_json::to_vec(acknowledgement).map_or(MAX_EVENT_BYTES, |json| json.len() + 1)
}

/// Tells the waiters what the own projection made of the event: it alone knows who was new.
async fn confirm(
    submit: Arc<Submit>,
    broadcast: BroadcastId,
    users: Vec<UserId>,
    waiters: Vec<Vec<oneshot::Sender<Answer>>>,
    sequence: u64,
) {
    let mut firsts = vec![None; users.len()];
    if submit.projection.reached(sequence, PROJECTION_PATIENCE).await {
        let needs = Needs { broadcasts: vec![broadcast], written: vec![] };
        let looked = submit.projection.with(needs, move |state| {
            users.iter().map(|user| first(state, broadcast, user)).collect::<Vec<_>>()
        });
        if let Ok(found) = looked.await {
            firsts = found;
        }
    }
    for (first, waiters) in firsts.into_iter().zip(waiters) {
        // Of several devices of one user that share the entry, the first one brought the news.
        for (nth, waiter) in waiters.into_iter().enumerate() {
            let already = first.map(|first| nth > 0 || first != sequence);
            let _ = waiter.send(Ok(Acknowledged { already, sequence: first.unwrap_or(sequence) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn request(broadcast: u128, user: &str) -> Request {
        let (answer, _) = oneshot::channel();
        Request {
            channel: "creator".parse().unwrap(),
            broadcast: BroadcastId(Uuid::from_u128(broadcast)),
            acknowledgement: Acknowledgement { user: user.parse().unwrap(), at: Timestamp::from_unix_ms(0) },
            trace: None,
            answer,
        }
    }

    #[test]
    fn what_waits_together_becomes_one_event_a_broadcast_with_each_user_once() {
        let requests = [request(1, "a"), request(2, "a"), request(1, "b"), request(1, "a")];
        let commits = group(requests.into_iter());
        let shape: Vec<_> = commits
            .iter()
            .map(|c| {
                (
                    c.broadcast.0.as_u128(),
                    c.acknowledgements.len(),
                    c.waiters.iter().map(Vec::len).sum::<usize>(),
                )
            })
            .collect();
        assert_eq!(shape, [(1, 2, 3), (2, 1, 1)]);
    }

    #[test]
    fn an_event_has_a_trace_when_all_of_it_came_with_the_same_one() {
        let [one, other] = ["1", "2"].map(|digit| format!("00-{}-{}-01", digit.repeat(32), digit.repeat(16)));
        let (one, other) = (one.parse().ok(), other.parse().ok());
        let of = |traces: &[(&str, Option<TraceParent>)]| {
            let requests = traces.iter().map(|(user, trace)| Request { trace: *trace, ..request(1, user) });
            group(requests).iter().map(|commit| commit.trace).collect::<Vec<_>>()
        };
        assert_eq!(of(&[("a", one), ("b", one), ("a", one)]), [one]);
        for mixed in [
            [("a", one), ("b", other)],
            [("a", one), ("a", other)],
            [("a", one), ("b", None)],
            [("a", None), ("b", one)],
        ] {
            assert_eq!(of(&mixed), [None], "{mixed:?}");
        }
        assert_eq!(of(&[("a", one), ("b", other), ("c", one)]), [None], "it does not come back");
    }

    #[test]
    fn an_event_stays_within_its_bounds() {
        let many = group((0..2_500).map(|n| request(1, &n.to_string())));
        assert_eq!(many.iter().map(|c| c.acknowledgements.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        // Control characters take six bytes each in JSON.
        let large = group((0..1_000).map(|n| request(1, &format!("{}{n:03}", "\u{1}".repeat(125)))));
        assert!(large.len() > 1);
        for commit in large {
            let body = serde_json::to_vec(&commit.acknowledgements).unwrap();
            assert!(body.len() <= MAX_EVENT_BYTES + 64, "{}", body.len());
        }
    }
}
