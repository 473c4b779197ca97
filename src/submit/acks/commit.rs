//! Group commit: one round of appends in flight, and what arrives meanwhile shares the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument as _;
use uuid::Uuid;

use super::batch::{AckBatch, AckReply, AckRequest, AckResult, Acknowledged, Responder};
use super::queue::Waiting;
use crate::clock::Clock;
use crate::crash_point::CrashPoint;
use crate::domain::{
    self, Acknowledgement, BroadcastId, ByUser, Channel, Event, Fingerprint, Needs, Rejection, Timestamp,
};
use crate::log::envelope::MAX_ACKS_PER_EVENT;
use crate::log::names::Subject;
use crate::log::{Epoch, NewEvent, TraceParent};
use crate::submit::attempt::Attempt;
use crate::submit::mode::Mode;
use crate::submit::outbox::Outbox;
use crate::submit::{PROJECTION_TIMEOUT, RETRY_PAUSE, Submit, SubmitError};

/// Soft limit of requests per commit round; the last batch may exceed it.
const DRAINED_AT_ONCE: usize = 10_000;

/// Without an answer in this time the log is asked again: a question may be lost.
const INFO_TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes of acknowledgements in one event; a message of the log may have 256 KiB.
const MAX_EVENT_BYTES: usize = 192 * 1024;

/// What an acknowledgement takes in an event's body beside the user. A time has one length.
const BYTES_BESIDE_USER: usize = r#"{"user":"","at":"2026-11-26T03:13:07.772Z"},"#.len();

pub(super) async fn commit_until_closed(
    submit: Arc<Submit>,
    waiting: Waiting,
    mut queue: mpsc::Receiver<AckBatch>,
) {
    let (mut batches, mut same_log) = (Vec::new(), SameLog::default());
    while let Some(first) = queue.recv().await {
        let mut count = first.requests.len();
        batches.push(first);
        while count < DRAINED_AT_ONCE
            && let Ok(next) = queue.try_recv()
        {
            count += next.requests.len();
            batches.push(next);
        }
        waiting.remove(count);
        CrashPoint::BeforeCommit.reached();
        let commits = group(batches.drain(..), &*submit.clock);
        for commit in &commits {
            submit.options.metrics.ack_commit_size.observe(commit.acknowledgements.len());
        }
        if let Some(outbox) = submit.outbox_unless_with_log().await.transpose() {
            keep_locally(&submit, outbox, commits).await;
            continue;
        }
        let commits = match same_log.ask(&submit).await {
            Ok(()) => reject_unknown(&submit, commits).await,
            Err(SubmitError::Away) if submit.options.accept_on_outage => {
                keep_locally(&submit, submit.hold_outbox().await, commits).await;
                continue;
            }
            Err(error) => {
                for commit in commits {
                    commit.reject(&error);
                }
                continue;
            }
        };
        let appended = join_all(commits.into_iter().map(|commit| commit.append(&submit))).await;
        let unanswered: Vec<_> = appended.into_iter().flatten().collect();
        if !unanswered.is_empty() {
            keep_locally(&submit, submit.hold_outbox().await, unanswered).await;
        }
    }
}

/// Whether the log is the one that this replica shows. Nothing guards the append of an acknowledgement: into a log that was
/// lost and made anew, and that the projection has not noticed yet, it would bring one of a broadcast that was never there.
///
/// It is asked once for each connection. After that it is the same one for as long as the connection stands and the reader,
/// who asks every few seconds and whose consumer ends with the stream, follows it.
#[derive(Default)]
struct SameLog {
    /// The log that said so, and the connection over which it did.
    confirmed: Option<(Epoch, String)>,
}

impl SameLog {
    fn is_confirmed(&self, submit: &Submit, shown: Epoch) -> bool {
        let Some((epoch, connection)) = &self.confirmed else { return false };
        *epoch == shown
            && submit.projection.seen().following == Some(shown)
            && submit.log.connection().as_ref() == Some(connection)
    }

    /// Asks the log, unless that is not necessary. `Away`: it does not answer in the time of an append; nothing was written.
    async fn ask(&mut self, submit: &Submit) -> Result<(), SubmitError> {
        let until = Instant::now() + submit.options.append_timeout;
        let position = submit.projection.position();
        let shown = position.epoch.ok_or(SubmitError::CatchingUp)?;
        if self.is_confirmed(submit, shown) {
            return Ok(());
        }
        loop {
            let (asked, connection) = (Instant::now(), submit.log.connection());
            let may_ask_again =
                || Instant::now() + RETRY_PAUSE < until && submit.modes.now() == Mode::Cluster;
            match timeout_at(until.min(asked + INFO_TIMEOUT), submit.log.info()).await {
                Ok(Ok(info)) if info.epoch != shown => return Err(SubmitError::CatchingUp),
                Ok(Ok(info)) if info.last_sequence >= position.sequence => {
                    self.confirmed = connection.map(|connection| (shown, connection));
                    return Ok(());
                }
                // It has lost its end; or a leader that was deposed a moment ago answers.
                Ok(Ok(_)) if !may_ask_again() => return Err(SubmitError::CatchingUp),
                Ok(Err(_)) | Err(_) if !may_ask_again() => {
                    submit.modes.update(|machine| machine.appended(false));
                    return Err(SubmitError::Away);
                }
                Ok(Ok(_) | Err(_)) | Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }
}

/// Rejects commits whose broadcast the log does not have: they were queued while this replica showed another log.
async fn reject_unknown(submit: &Submit, commits: Vec<InFlight>) -> Vec<InFlight> {
    let targets = commits.iter().map(|commit| (commit.channel.clone(), commit.broadcast)).collect();
    let known = submit.known_in_log(&targets).await;
    let mut left = Vec::with_capacity(commits.len());
    for commit in commits {
        let id = commit.broadcast;
        match &known {
            Ok(known) if known.contains(&id) => left.push(commit),
            Ok(_) => commit.reject(&SubmitError::Rejected(Rejection::UnknownBroadcast { id })),
            Err(_) => commit.reject(&SubmitError::CatchingUp),
        }
    }
    left
}

/// Writes commits to the outbox, all with one sync of the disk.
async fn keep_locally(
    submit: &Submit,
    outbox: Result<OwnedMutexGuard<Outbox>, SubmitError>,
    commits: Vec<InFlight>,
) {
    let events = commits.iter().map(|commit| commit.event(&submit.source)).collect();
    let accepted = match outbox {
        Ok(outbox) => submit.accept_acks(outbox, events).await,
        Err(error) => Err(error),
    };
    match accepted {
        Ok(already) => {
            for (commit, already) in commits.into_iter().zip(already) {
                commit.confirm(submit, |entry| (already.get(entry).copied(), None));
            }
        }
        Err(error) => {
            for commit in commits {
                commit.reject(&error);
            }
        }
    }
}

/// A request that waits for an entry of an event.
struct Waiter {
    entry: usize,
    /// Its responder, as an index into those of the event.
    responder: usize,
    tag: u64,
}

/// One event on its way to the log, and the requests that wait for it. Requests of one user share an entry.
struct InFlight {
    channel: Channel,
    broadcast: BroadcastId,
    id: Uuid,
    salt: Uuid,
    time: Timestamp,
    /// That of all requests, if they have the same one.
    trace: Option<TraceParent>,
    acknowledgements: Vec<Acknowledgement>,
    /// The users' fingerprints, by entry.
    fingerprints: Vec<Fingerprint>,
    entries: ByUser<usize>,
    responders: Vec<Responder>,
    waiters: Vec<Waiter>,
    bytes: usize,
    /// Index of the batch that joined last, so that its responder is stored once.
    last_batch: Option<usize>,
    /// Whether the log may have the event although it did not confirm it.
    unsure: bool,
}

impl InFlight {
    /// An event without an entry, for the target of this request.
    fn for_target_of(request: &AckRequest, clock: &dyn Clock) -> Self {
        Self {
            channel: request.channel.clone(),
            broadcast: request.broadcast,
            id: clock.new_id(),
            salt: clock.new_salt(),
            time: clock.now(),
            trace: request.trace,
            acknowledgements: vec![],
            fingerprints: vec![],
            entries: ByUser::default(),
            responders: vec![],
            waiters: vec![],
            bytes: 0,
            last_batch: None,
            unsure: false,
        }
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.acknowledgements.len() < MAX_ACKS_PER_EVENT && self.bytes + bytes <= MAX_EVENT_BYTES
    }

    /// Adds a request of the batch with this index, if its user has an entry or there is room for one; otherwise returns it.
    fn add(&mut self, batch: usize, responder: &Responder, request: AckRequest) -> Option<AckRequest> {
        let next = self.acknowledgements.len();
        let entry = self.entries.get(&request.fingerprint).copied().unwrap_or(next);
        if entry == next {
            let bytes = stored_bytes(request.user.as_str());
            if !self.has_room_for(bytes) {
                return Some(request);
            }
            self.entries.insert(request.fingerprint, entry);
            self.fingerprints.push(request.fingerprint);
            self.acknowledgements.push(Acknowledgement { user: request.user, at: responder.at });
            self.bytes += bytes;
        }
        if self.last_batch.replace(batch) != Some(batch) {
            self.responders.push(responder.clone());
        }
        self.waiters.push(Waiter { entry, responder: self.responders.len() - 1, tag: request.tag });
        // An event of several traces belongs to none.
        self.trace = self.trace.filter(|known| Some(*known) == request.trace);
        None
    }

    /// The event: the same one each time.
    fn event(&self, source: &str) -> NewEvent {
        NewEvent {
            subject: Subject::Acks(self.channel.clone(), self.broadcast),
            id: self.id,
            event: Event::Acknowledged(domain::Acknowledged {
                broadcast_id: self.broadcast,
                acknowledgements: self.acknowledgements.clone(),
                salt: Some(self.salt),
            }),
            time: self.time,
            source: source.to_owned(),
            expected: None,
            trace: self.trace,
            sent_to: None,
        }
    }

    /// Appends the event, and confirms it in a task of its own, so that the next commit can begin. Returns the commit if the
    /// log did not answer.
    async fn append(mut self, submit: &Arc<Submit>) -> Option<Self> {
        let mut attempt = Attempt::new(submit, self.id);
        let span = TraceParent::span(self.trace);
        match attempt.append(self.event(&submit.source)).instrument(span.clone()).await {
            Ok(appended) => {
                drop(tokio::spawn(confirm(submit.clone(), self, appended.sequence)));
                None
            }
            Err(error) => match span.in_scope(|| attempt.refusal(&error)) {
                SubmitError::Unknown { .. } if submit.options.accept_on_outage => {
                    self.unsure = true;
                    Some(self)
                }
                refusal => {
                    self.reject(&refusal);
                    None
                }
            },
        }
    }

    fn reject(self, error: &SubmitError) {
        let error = error.clone().or_unknown_if(self.unsure, self.id);
        self.reply(|_, _| Err(error.clone()));
    }

    /// Confirms each entry: whether the user had acknowledged before, and at which sequence.
    fn confirm(self, submit: &Submit, outcome: impl Fn(usize) -> (Option<bool>, Option<u64>)) {
        for waiter in &self.waiters {
            let received = self.responders[waiter.responder].received();
            submit.options.metrics.ack_confirmation.observe(received.elapsed());
        }
        self.reply(|entry, is_first| {
            let (already, sequence) = outcome(entry);
            Ok(Acknowledged { already: already.map(|already| already || !is_first), sequence })
        });
    }

    /// Replies to each request, with one message for each responder. Of several requests that share an entry, the first one is
    /// the one that acknowledged.
    fn reply(self, result: impl Fn(usize, bool) -> AckResult) {
        let mut is_new = vec![true; self.fingerprints.len()];
        let mut replies: Vec<Vec<AckReply>> = self.responders.iter().map(|_| Vec::new()).collect();
        for Waiter { entry, responder, tag } in self.waiters {
            let is_first = std::mem::replace(&mut is_new[entry], false);
            let reply = AckReply { tag, broadcast: self.broadcast, result: result(entry, is_first) };
            replies[responder].push(reply);
        }
        for (responder, replies) in self.responders.iter().zip(replies) {
            responder.send(replies);
        }
    }
}

/// Groups requests into as few events as possible, in the order of their arrival.
fn group(batches: impl Iterator<Item = AckBatch>, clock: &dyn Clock) -> Vec<InFlight> {
    let mut commits: Vec<InFlight> = Vec::new();
    let mut open: HashMap<BroadcastId, usize, foldhash::fast::RandomState> = HashMap::default();
    for (batch, AckBatch { responder, requests }) in batches.enumerate() {
        for mut request in requests {
            let index = open.entry(request.broadcast).or_insert(usize::MAX);
            if let Some(commit) = commits.get_mut(*index) {
                match commit.add(batch, &responder, request) {
                    None => continue,
                    Some(too_much) => request = too_much,
                }
            }
            *index = commits.len();
            let mut commit = InFlight::for_target_of(&request, clock);
            // An event without an entry has room for one.
            let _ = commit.add(batch, &responder, request);
            commits.push(commit);
        }
    }
    commits
}

/// The most bytes that an acknowledgement takes in the body of an event: JSON escapes some characters in six bytes.
fn stored_bytes(user: &str) -> usize {
    let wide = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    BYTES_BESIDE_USER + user.bytes().map(|byte| if wide(byte) { 6 } else { 1 }).sum::<usize>()
}

/// Confirms an event by the own projection: it alone knows which users had acknowledged before.
async fn confirm(submit: Arc<Submit>, commit: InFlight, sequence: u64) {
    let broadcast = commit.broadcast;
    let mut firsts = Vec::new();
    if submit.projection.reached(sequence, PROJECTION_TIMEOUT).await {
        let needs = Needs::acknowledged(broadcast, commit.fingerprints.iter().copied());
        let users = commit.fingerprints.clone();
        let looked = submit.projection.with(needs, move |view| {
            users.iter().map(|user| view.acknowledged_by(broadcast, *user)).collect::<Vec<_>>()
        });
        firsts = looked.await.unwrap_or_default();
    }
    commit.confirm(&submit, |entry| {
        let first = firsts.get(entry).copied().flatten();
        (first.map(|first| first != sequence), Some(first.unwrap_or(sequence)))
    });
}

#[cfg(test)]
mod tests;
