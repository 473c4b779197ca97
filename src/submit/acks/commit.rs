//! Group commit: one round of appends in flight, and what arrives meanwhile shares the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument as _;

use super::lot::{Asker, Lot, Request};
use super::{Acknowledged, Answer, Answered, Waiting};
use crate::crash_point::CrashPoint;
use crate::domain::{
    self, Acknowledgement, BroadcastId, ByUser, Channel, Event, Fingerprint, Needs, Rejection,
};
use crate::log::envelope::MAX_ACKS_PER_EVENT;
use crate::log::names::Subject;
use crate::log::{Epoch, NewEvent, TraceParent};
use crate::submit::attempt::Attempt;
use crate::submit::mode::Mode;
use crate::submit::outbox::Outbox;
use crate::submit::{PROJECTION_TIMEOUT, RETRY_PAUSE, Submit, SubmitError};

/// Acknowledgements taken from the queue for one round, and what its last lot has beyond that.
const DRAINED_AT_ONCE: usize = 10_000;

/// Without an answer in this time the log is asked again: a question may be lost.
const INFO_PATIENCE: Duration = Duration::from_secs(1);

/// The most bytes of acknowledgements in one event; a message of the log may have 256 KiB.
const MAX_EVENT_BYTES: usize = 192 * 1024;

/// What an acknowledgement takes in an event's body beside the user. A time has one length.
const BYTES_BESIDE_USER: usize = r#"{"user":"","at":"2026-11-26T03:13:07.772Z"},"#.len();

pub(super) async fn commit_until_closed(
    submit: Arc<Submit>,
    waiting: Waiting,
    mut queue: mpsc::Receiver<Lot>,
) {
    let (mut lots, mut same_log) = (Vec::new(), SameLog::default());
    while let Some(first) = queue.recv().await {
        let mut count = first.requests.len();
        lots.push(first);
        while count < DRAINED_AT_ONCE
            && let Ok(next) = queue.try_recv()
        {
            count += next.requests.len();
            lots.push(next);
        }
        waiting.leave(count);
        CrashPoint::BeforeCommit.reached();
        let commits = group(lots.drain(..)).into_iter().map(|commit| commit.begin(&submit));
        if let Some(outbox) = submit.outbox_unless_with_log().await.transpose() {
            keep_locally(&submit, outbox, commits.collect()).await;
            continue;
        }
        let commits = match same_log.ask(&submit).await {
            Ok(()) => known_or_refused(&submit, commits.collect()).await,
            Err(SubmitError::Away) if submit.options.accept_on_outage => {
                keep_locally(&submit, submit.hold_outbox().await, commits.collect()).await;
                continue;
            }
            Err(error) => {
                commits.for_each(|begun| begun.refuse(&error));
                continue;
            }
        };
        let appended = join_all(commits.into_iter().map(|begun| begun.append(&submit))).await;
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
            match timeout_at(until.min(asked + INFO_PATIENCE), submit.log.info()).await {
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

/// Those whose broadcast the log has. The others were queued while this replica showed another log: they are refused.
async fn known_or_refused(submit: &Submit, commits: Vec<Begun>) -> Vec<Begun> {
    let named = |begun: &Begun| (begun.new.subject.channel().clone(), begun.new.event.broadcast_id());
    let known = submit.known_in_log(&commits.iter().map(named).collect()).await;
    let mut left = Vec::with_capacity(commits.len());
    for begun in commits {
        let id = begun.new.event.broadcast_id();
        match &known {
            Ok(known) if known.contains(&id) => left.push(begun),
            Ok(_) => begun.refuse(&SubmitError::Rejected(Rejection::UnknownBroadcast { id })),
            Err(_) => begun.refuse(&SubmitError::CatchingUp),
        }
    }
    left
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
                begun.tell(submit, |entry| (already.get(entry).copied(), None));
            }
        }
        Err(error) => {
            for begun in begun {
                begun.refuse(&error);
            }
        }
    }
}

/// Who waits for an entry of an event.
struct Waiter {
    entry: usize,
    /// The asker, by the place among those of the event, and the number there.
    asker: usize,
    nth: usize,
}

/// One event in the making, and who waits for it. Waiters for the same user share an entry.
struct Commit {
    channel: Channel,
    broadcast: BroadcastId,
    acknowledgements: Vec<Acknowledgement>,
    /// The users' fingerprints, by entry.
    fingerprints: Vec<Fingerprint>,
    entries: ByUser<usize>,
    askers: Vec<Asker>,
    waiters: Vec<Waiter>,
    bytes: usize,
    /// The one that all who wait came with.
    trace: Option<TraceParent>,
    /// The lot that was looked at last when somebody of it joined.
    last_lot: Option<usize>,
}

impl Commit {
    fn new(channel: Channel, broadcast: BroadcastId, trace: Option<TraceParent>) -> Self {
        Self {
            channel,
            broadcast,
            acknowledgements: vec![],
            fingerprints: vec![],
            entries: ByUser::default(),
            askers: vec![],
            waiters: vec![],
            bytes: 0,
            trace,
            last_lot: None,
        }
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.acknowledgements.len() < MAX_ACKS_PER_EVENT && self.bytes + bytes <= MAX_EVENT_BYTES
    }

    /// Takes a request of the so many-th lot in, if its user is there already or there is room; or gives it back.
    fn take(&mut self, lot: usize, asker: &Asker, request: Request) -> Option<Request> {
        let next = self.acknowledgements.len();
        let entry = self.entries.get(&request.fingerprint).copied().unwrap_or(next);
        if entry == next {
            let bytes = stored_bytes(request.user.as_str());
            if !self.has_room_for(bytes) {
                return Some(request);
            }
            self.entries.insert(request.fingerprint, entry);
            self.fingerprints.push(request.fingerprint);
            self.acknowledgements.push(Acknowledgement { user: request.user, at: request.at });
            self.bytes += bytes;
        }
        if self.last_lot.replace(lot) != Some(lot) {
            self.askers.push(asker.clone());
        }
        self.waiters.push(Waiter { entry, asker: self.askers.len() - 1, nth: request.nth });
        // An event of several traces belongs to none.
        self.trace = self.trace.filter(|known| Some(*known) == request.trace);
        None
    }

    fn begin(self, submit: &Submit) -> Begun {
        let Self { channel, broadcast, acknowledgements, fingerprints, askers, waiters, trace, .. } = self;
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
            sent_to: None,
        };
        Begun { new, fingerprints, askers, waiters, unsure: false }
    }
}

/// An event on its way, and who waits for it.
struct Begun {
    new: NewEvent,
    /// The users' fingerprints, by entry.
    fingerprints: Vec<Fingerprint>,
    askers: Vec<Asker>,
    waiters: Vec<Waiter>,
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
        let error = error.clone().or_unknown_if(self.unsure, self.new.id);
        self.answer(|_, _| Err(error.clone()));
    }

    /// Tells the waiters of each entry whether it was known, and where it stands.
    fn tell(self, submit: &Submit, told: impl Fn(usize) -> (Option<bool>, Option<u64>)) {
        for waiter in &self.waiters {
            let began = self.askers[waiter.asker].begun();
            submit.options.metrics.ack_confirmation.observe(began.elapsed());
        }
        self.answer(|entry, brought_news| {
            let (already, sequence) = told(entry);
            Ok(Acknowledged { already: already.map(|already| already || !brought_news), sequence })
        });
    }

    /// Answers each waiter, and each asker once for all of theirs. Of several devices of one user that share an entry, the
    /// first one brought the news.
    fn answer(self, answer: impl Fn(usize, bool) -> Answer) {
        let mut is_news = vec![true; self.fingerprints.len()];
        let mut answers: Vec<Vec<Answered>> = self.askers.iter().map(|_| Vec::new()).collect();
        for Waiter { entry, asker, nth } in self.waiters {
            let brought_news = std::mem::replace(&mut is_news[entry], false);
            answers[asker].push(Answered { nth, answer: answer(entry, brought_news) });
        }
        for (asker, answers) in self.askers.iter().zip(answers) {
            asker.tell(answers);
        }
    }
}

/// The requests as few events as possible, in the order of their arrival.
fn group(lots: impl Iterator<Item = Lot>) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    let mut open: HashMap<BroadcastId, usize, foldhash::fast::RandomState> = HashMap::default();
    for (lot, Lot { asker, requests }) in lots.enumerate() {
        for mut request in requests {
            let index = open.entry(request.broadcast).or_insert(usize::MAX);
            if let Some(commit) = commits.get_mut(*index) {
                match commit.take(lot, &asker, request) {
                    None => continue,
                    Some(too_much) => request = too_much,
                }
            }
            *index = commits.len();
            let mut commit = Commit::new(request.channel.clone(), request.broadcast, request.trace);
            // An event without any has room for one.
            let _ = commit.take(lot, &asker, request);
            commits.push(commit);
        }
    }
    commits
}

/// What an acknowledgement takes in an event's body at most: JSON writes some characters in six bytes.
fn stored_bytes(user: &str) -> usize {
    let wide = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    BYTES_BESIDE_USER + user.bytes().map(|byte| if wide(byte) { 6 } else { 1 }).sum::<usize>()
}

/// Tells the waiters what the own projection made of the event: it alone knows who was new.
async fn confirm(submit: Arc<Submit>, begun: Begun, sequence: u64) {
    let broadcast = begun.new.event.broadcast_id();
    let mut firsts = Vec::new();
    if submit.projection.reached(sequence, PROJECTION_TIMEOUT).await {
        let needs = Needs::acknowledged(broadcast, begun.fingerprints.iter().copied());
        let users = begun.fingerprints.clone();
        let looked = submit.projection.with(needs, move |view| {
            users.iter().map(|user| view.acknowledged_by(broadcast, *user)).collect::<Vec<_>>()
        });
        firsts = looked.await.unwrap_or_default();
    }
    begun.tell(&submit, |entry| {
        let first = firsts.get(entry).copied().flatten();
        (first.map(|first| first != sequence), Some(first.unwrap_or(sequence)))
    });
}

#[cfg(test)]
mod tests;
