//! Look-ups: acknowledgements of broadcasts that are not in memory, or that this replica does not know at all.
//!
//! They are looked up in rounds. A round serves what waits, up to a bound, with one read of the store and at most one question
//! to the log for each channel, whatever number of clients and of ids that is. The log is asked by a task of its own, so that
//! an answer from the store does not wait for an answer of the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::batch::{AckBatch, AckRequest, Responder};
use super::judge::{Judged, judge};
use super::queue::{CommitQueue, QUEUE};
use crate::crash_point::CrashPoint;
use crate::domain::{Channel, Needs, Rejection};
use crate::log::Epoch;
use crate::log::names::Subject;
use crate::submit::mode::Mode;
use crate::submit::{PROJECTION_TIMEOUT, RETRY_PAUSE, Submit, SubmitError};

/// Acknowledgements that one round looks up, each with a few reads of the store: about a millisecond, with no lock held.
const LOOKED_UP_AT_ONCE: usize = 256;

/// Looks acknowledgements up. Cheap to clone; the task that asks the log ends with the last handle.
#[derive(Clone)]
pub(super) struct Lookups {
    rounds: Arc<Rounds>,
}

impl Lookups {
    /// Starts the task that asks the log. What turns out to be new goes to `commits`.
    pub(super) fn start(submit: Arc<Submit>, commits: CommitQueue) -> Self {
        // Each batch has at least one request, and so many requests may wait: the queue is never full.
        let (unknown, left) = mpsc::channel(QUEUE);
        let tasks = submit.options.tasks.clone();
        let work = Work { submit, commits };
        tasks.spawn("look-up of acknowledgements in the log", work.clone().ask_log(left));
        Self { rounds: Arc::new(Rounds { work, unknown, waiting: Mutex::default() }) }
    }

    /// Looks these up, each of which has its place among those that wait. Replies go through the responder.
    pub(super) fn look_up(&self, responder: &Responder, requests: Vec<AckRequest>) {
        if requests.is_empty() {
            return;
        }
        let batches = by_channel(requests)
            .into_iter()
            .map(|requests| AckBatch { responder: responder.clone(), requests });
        let mut waiting = self.rounds.waiting();
        waiting.batches.extend(batches);
        if !std::mem::replace(&mut waiting.are_read, true) {
            drop(waiting);
            // It ends when nothing waits.
            let looking_up = self.rounds.clone().look_up_waiting();
            self.rounds.work.submit.options.tasks.spawn("look-up of acknowledgements", looking_up);
        }
    }
}

/// The rounds in which the store is read, one after the other.
struct Rounds {
    work: Work,
    /// To the task that asks the log.
    unknown: mpsc::Sender<Unknown>,
    waiting: Mutex<Waiting>,
}

/// What waits for a round. No more than have a place among those that wait.
#[derive(Default)]
struct Waiting {
    batches: VecDeque<AckBatch>,
    /// Whether somebody reads the store until nothing waits.
    are_read: bool,
}

impl Rounds {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next round serves; `None` when nothing waits any more.
    fn next(&self) -> Option<Vec<AckBatch>> {
        let mut waiting = self.waiting();
        let (mut round, mut count) = (Vec::new(), 0);
        while count < LOOKED_UP_AT_ONCE
            && let Some(batch) = waiting.batches.pop_front()
        {
            count += batch.requests.len();
            round.push(batch);
        }
        waiting.are_read = !round.is_empty();
        waiting.are_read.then_some(round)
    }

    /// Replies to what the projection knows of all that waits, and passes the rest on.
    async fn look_up_waiting(self: Arc<Self>) {
        while let Some(batches) = self.next() {
            CrashPoint::BeforeAckLookup.reached();
            let seen = self.work.seen();
            for batch in self.work.look(batches).await {
                if let Err(refused) = self.unknown.try_send(Unknown { seen, batch }) {
                    let (mpsc::error::TrySendError::Full(left) | mpsc::error::TrySendError::Closed(left)) =
                        refused;
                    self.work.reject(&left.batch, &SubmitError::Busy);
                }
            }
        }
    }
}

/// Batches of one channel each, none larger than one round looks up.
fn by_channel(requests: Vec<AckRequest>) -> Vec<Vec<AckRequest>> {
    let mut channels: BTreeMap<Channel, Vec<AckRequest>> = BTreeMap::new();
    for request in requests {
        channels.entry(request.channel.clone()).or_default().push(request);
    }
    let mut batches = Vec::new();
    for mut requests in channels.into_values() {
        while requests.len() > LOOKED_UP_AT_ONCE {
            batches.push(requests.split_off(requests.len() - LOOKED_UP_AT_ONCE));
        }
        batches.push(requests);
    }
    batches
}

/// How far the projection was: in which log, and up to which sequence.
type Seen = (Option<Epoch>, u64);

/// A batch whose broadcasts were not in the store, and how far the projection was when they were looked up.
struct Unknown {
    seen: Seen,
    batch: AckBatch,
}

/// What rounds and the task that asks the log work with.
#[derive(Clone)]
struct Work {
    submit: Arc<Submit>,
    commits: CommitQueue,
}

impl Work {
    /// Settles what the store did not know, by the log's head.
    async fn ask_log(self, mut queue: mpsc::Receiver<Unknown>) {
        let mut round = Vec::new();
        while queue.recv_many(&mut round, QUEUE).await > 0 {
            CrashPoint::BeforeHeadLookup.reached();
            let mut channels: BTreeMap<Channel, Vec<Unknown>> = BTreeMap::new();
            for unknown in round.drain(..) {
                if let Some(first) = unknown.batch.requests.first() {
                    channels.entry(first.channel.clone()).or_default().push(unknown);
                }
            }
            join_all(channels.into_iter().map(|(channel, unknown)| self.settle(channel, unknown))).await;
        }
    }

    /// Another replica may have shown the broadcast to the user a moment ago, so the log is asked where the channel's head is.
    /// What was unknown there is unknown for as long as the head does not move, and is not looked up again.
    async fn settle(&self, channel: Channel, unknown: Vec<Unknown>) {
        let until = Instant::now() + PROJECTION_TIMEOUT;
        let Some(head) = self.head(&channel, until).await else {
            return self.reject_all(unknown.into_iter().map(|one| one.batch), &SubmitError::CatchingUp);
        };
        let epoch = self.seen().0;
        let (settled, behind): (Vec<_>, Vec<_>) =
            unknown.into_iter().partition(|one| one.seen.0 == epoch && one.seen.1 >= head);
        self.reject_unknown(settled.into_iter().map(|one| one.batch));
        if behind.is_empty() {
            return;
        }
        let patience = until.saturating_duration_since(Instant::now());
        if !self.submit.projection.reached(head, patience).await {
            return self.reject_all(behind.into_iter().map(|one| one.batch), &SubmitError::CatchingUp);
        }
        let left = self.look(behind.into_iter().map(|unknown| unknown.batch).collect()).await;
        self.reject_unknown(left);
    }

    /// The sequence of the channel's last lifecycle event in the log; `None` when the log does not say. A replica that is alone
    /// does not ask.
    async fn head(&self, channel: &Channel, until: Instant) -> Option<u64> {
        if self.submit.modes.now() == Mode::Local {
            return None;
        }
        let asked = self.submit.log.head_of(Subject::Lifecycle(channel.clone()));
        match timeout_at(until, asked).await {
            Ok(Ok(head)) => Some(head),
            Ok(Err(error)) => {
                self.submit.log_no_head(&error);
                sleep(RETRY_PAUSE).await;
                None
            }
            Err(_) => None,
        }
    }

    fn seen(&self) -> Seen {
        let position = self.submit.projection.position();
        (position.epoch, position.sequence)
    }

    /// Judges by all that this replica has of these broadcasts. Returns the requests whose broadcast it does not know.
    async fn look(&self, batches: Vec<AckBatch>) -> Vec<AckBatch> {
        if !self.submit.projection.position().serving {
            self.reject_all(batches, &SubmitError::CatchingUp);
            return vec![];
        }
        let requests = batches.iter().flat_map(|batch| &batch.requests);
        let (broadcasts, acknowledged) =
            requests.map(|request| (request.broadcast, (request.broadcast, request.fingerprint))).unzip();
        let needs = Needs { broadcasts, acknowledged, ..Needs::default() };
        let to_judge = batches.clone();
        let judged = self.submit.projection.with(needs, move |view| {
            let judged = to_judge.into_iter();
            let judged = judged.map(|AckBatch { responder, requests }| (responder, judge(view, requests)));
            judged.collect::<Vec<_>>()
        });
        let Ok(judged) = judged.await else {
            self.reject_all(batches, &SubmitError::CatchingUp);
            return vec![];
        };
        let mut left = Vec::new();
        for (responder, Judged { known, new, unknown }) in judged {
            self.commits.waiting.remove(known.len());
            responder.send(known);
            self.commits.push(&responder, new);
            if !unknown.is_empty() {
                left.push(AckBatch { responder, requests: unknown });
            }
        }
        left
    }

    fn reject_unknown(&self, batches: impl IntoIterator<Item = AckBatch>) {
        for AckBatch { responder, requests } in batches {
            self.commits.waiting.remove(requests.len());
            responder.reject_each(&requests, |request| {
                SubmitError::Rejected(Rejection::UnknownBroadcast { id: request.broadcast })
            });
        }
    }

    fn reject_all(&self, batches: impl IntoIterator<Item = AckBatch>, error: &SubmitError) {
        for batch in batches {
            self.reject(&batch, error);
        }
    }

    fn reject(&self, batch: &AckBatch, error: &SubmitError) {
        self.commits.waiting.remove(batch.requests.len());
        batch.responder.reject(&batch.requests, error);
    }
}
