//! Group commit of acknowledgements: one append in flight, and what arrives meanwhile shares the next one.
//!
//! A single acknowledgement costs one append; thousands at once cost a few. There is no timer and nothing to tune.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;

use super::attempt::Attempt;
use super::mode::Mode;
use super::outbox::Outbox;
use super::{PROJECTION_PATIENCE, Submit, SubmitError};
use crate::domain::{
    self, Acknowledgement, BroadcastId, Channel, Command, Event, Needs, Rejection, State, UserId, decide,
    in_log,
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

/// What is known of an acknowledgement that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Whether the user had acknowledged before. `None`: it is durable, but the own projection has not got there yet.
    pub already: Option<bool>,
    /// The event that carries it; the first one when there are several. `None`: it is in the outbox, and the log gets it.
    pub sequence: Option<u64>,
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
        self.submit.options.metrics.ack_confirmation.observe(begun.elapsed());
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
            // Another replica may have shown it to the user a moment ago. Alone, this one cannot know that.
            if self.submit.modes.now() == Mode::Local
                || !self.submit.catch_up(channel, Instant::now() + PROJECTION_PATIENCE).await
            {
                return Err(SubmitError::CatchingUp);
            }
            judged = self.judge(channel, broadcast, user).await?;
        }
        let first = judged.map_err(SubmitError::Rejected)?;
        Ok(first.map(|sequence| Acknowledged { already: Some(true), sequence: in_log(sequence) }))
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
        let judged = self.submit.projection.with(needs, move |view| {
            decide(view, &command, now, Uuid::nil()).map(|event| match event {
                Some(_) => None,
                None => view.acknowledged_at(broadcast, &user),
            })
        });
        Ok(judged.await?)
    }
}

async fn commit_until_closed(submit: Arc<Submit>, mut requests: mpsc::Receiver<Request>) {
    let mut drained = Vec::new();
    while requests.recv_many(&mut drained, DRAINED_AT_ONCE).await > 0 {
        let commits = group(drained.drain(..)).into_iter().map(|commit| commit.begin(&submit));
        if let Some(outbox) = submit.outbox_unless_with_log().await.transpose() {
            keep_locally(&submit, outbox, commits.collect()).await;
            continue;
        }
        let appended = join_all(commits.map(|begun| begun.append(&submit))).await;
        let unanswered: Vec<_> = appended.into_iter().flatten().collect();
        if !unanswered.is_empty() {
            keep_locally(&submit, submit.hold_outbox().await, unanswered).await;
        }
    }
}

/// What the log does not answer about goes to the outbox, all of it with one sync of the disk.
async fn keep_locally(
    submit: &Submit,
    outbox: Result<OwnedMutexGuard<Outbox>, SubmitError>,
    begun: Vec<Begun>,
) {
    let events = begun.iter().map(|begun| begun.new.clone()).collect();
    let accepted = match outbox {
        Ok(outbox) => submit.accept_acks(outbox, events).await,
        Err(error) => Err(error),
    };
    match accepted {
        Ok(already) => {
            for (begun, already) in begun.into_iter().zip(already) {
                let told = already.into_iter().map(|already| (Some(already), None));
                begun.tell(told);
            }
        }
        Err(error) => {
            for begun in begun {
                begun.refuse(&error);
            }
        }
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

    fn begin(self, submit: &Submit) -> Begun {
        let Self { channel, broadcast, acknowledgements, waiters, trace, .. } = self;
        submit.options.metrics.ack_commit_size.observe(acknowledgements.len());
        let new = NewEvent {
            subject: Subject::Acks(channel, broadcast),
            id: submit.clock.new_id(),
            event: Event::Acknowledged(domain::Acknowledged {
                broadcast_id: broadcast,
                acknowledgements,
                salt: Some(submit.clock.new_salt()),
            }),
            time: submit.clock.now(),
            source: submit.source.clone(),
            expected: None,
            trace,
        };
        Begun { new, waiters, unsure: false }
    }
}

/// An event on its way, and who waits for it: a list for each of its acknowledgements.
struct Begun {
    new: NewEvent,
    waiters: Vec<Vec<oneshot::Sender<Answer>>>,
    /// The log may have it.
    unsure: bool,
}

impl Begun {
    /// Appends the event, and leaves telling the waiters to a task, so that the next commit can begin. Gives back what
    /// the log did not answer about.
    async fn append(mut self, submit: &Arc<Submit>) -> Option<Self> {
        let mut attempt = Attempt::new(submit, self.new.id);
        let said_of = TraceParent::span(self.new.trace);
        match attempt.append(self.new.clone()).instrument(said_of.clone()).await {
            Ok(appended) => {
                drop(tokio::spawn(confirm(submit.clone(), self, appended.sequence)));
                None
            }
            Err(error) => match said_of.in_scope(|| attempt.refusal(&error)) {
                SubmitError::Unknown { .. } if submit.options.accept_on_outage => {
                    self.unsure = true;
                    Some(self)
                }
                refusal => {
                    self.refuse(&refusal);
                    None
                }
            },
        }
    }

    fn refuse(self, error: &SubmitError) {
        for waiter in self.waiters.into_iter().flatten() {
            let _ = waiter.send(Err(error.clone().honest(self.unsure, self.new.id)));
        }
    }

    /// Tells the waiters of each acknowledgement whether it was known, and where it stands.
    fn tell(self, told: impl Iterator<Item = (Option<bool>, Option<u64>)>) {
        for ((already, sequence), waiters) in told.zip(self.waiters) {
            // Of several devices of one user that share the entry, the first one brought the news.
            for (nth, waiter) in waiters.into_iter().enumerate() {
                let already = already.map(|already| already || nth > 0);
                let _ = waiter.send(Ok(Acknowledged { already, sequence }));
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
async fn confirm(submit: Arc<Submit>, begun: Begun, sequence: u64) {
    let Event::Acknowledged(acknowledged) = &begun.new.event else { return };
    let broadcast = acknowledged.broadcast_id;
    let users: Vec<_> = acknowledged.acknowledgements.iter().map(|new| new.user.clone()).collect();
    let mut firsts = vec![None; users.len()];
    if submit.projection.reached(sequence, PROJECTION_PATIENCE).await {
        let needs = Needs { broadcasts: vec![broadcast], written: vec![] };
        let looked = submit.projection.with(needs, move |view| {
            users.iter().map(|user| view.acknowledged_at(broadcast, user)).collect::<Vec<_>>()
        });
        if let Ok(found) = looked.await {
            firsts = found;
        }
    }
    let told = |first: Option<u64>| (first.map(|first| first != sequence), Some(first.unwrap_or(sequence)));
    begun.tell(firsts.into_iter().map(told));
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
