//! Submit: the one write path. Load state, decide, append; on a conflict catch up with the log and decide again.
//!
//! A command becomes at most one event and writes nothing else. The answer comes when this replica's own projection
//! has the event, so that whoever wrote reads what they wrote.

pub mod acks;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};
use uuid::Uuid;

use crate::clock::Clock;
use crate::domain::{BroadcastId, Channel, Command, Event, Rejection, State, Timestamp, UserId, decide};
use crate::log::names::Subject;
use crate::log::{AppendError, Appended, EventLog, NewEvent, TraceParent};
use crate::metrics::{ByOutcome, Metrics};
use crate::projection::{Projection, Unavailable};

pub use acks::{Acknowledged, Acks};

/// After an append the answer waits this long for the own projection; then it goes out without it.
pub const PROJECTION_PATIENCE: Duration = Duration::from_secs(2);

/// Conflicts are decided anew for this long.
const CONFLICT_PATIENCE: Duration = Duration::from_secs(5);

/// Lifecycle commands of one channel that may wait for their turn on one replica, and for how long: when the log does
/// not answer, each one before them takes its time.
const WAITING: usize = 1_024;
const TURN_PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries when the log gave no place.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The namespace of event ids that come from an `Idempotency-Key`.
const KEYED_IDS: Uuid = Uuid::from_u128(0x7d5c_51f1_9f0e_4ad5_8f41_3c6f_6a1d_6f02);

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The id of the event.
    pub id: Uuid,
    /// Where the event stands; `None` when there was nothing to write.
    pub sequence: Option<u64>,
    /// The broadcast that was created or cleared.
    pub broadcast: Option<BroadcastId>,
}

/// Why a command was not confirmed.
#[derive(Debug)]
pub enum SubmitError {
    /// A rule said no. Nothing was written.
    Rejected(Rejection),
    /// Too many commands are waiting. Nothing was written.
    Busy,
    /// Others were faster for too long. Nothing was written.
    Contended,
    /// The log has reached its size. Nothing was written.
    LogFull,
    /// The event is larger than the log takes. Nothing was written.
    TooLarge,
    /// This replica is still reading the log. Nothing was written.
    CatchingUp,
    /// The log has not answered. The event may be there, or get there; a retry with the same key finds out.
    Unknown {
        /// The id under which it would be there.
        id: Uuid,
    },
}

impl From<Unavailable> for SubmitError {
    fn from(_: Unavailable) -> Self {
        Self::CatchingUp
    }
}

/// One channel's turn: one lifecycle append in flight a replica.
struct Lane {
    turn: Mutex<()>,
    places: Semaphore,
}

/// The write path of one replica.
pub struct Submit {
    log: Arc<dyn EventLog>,
    projection: Projection,
    clock: Arc<dyn Clock>,
    source: String,
    append_timeout: Duration,
    lanes: HashMap<Channel, Lane>,
    metrics: Metrics,
}

/// What `decide` said, and what an append needs to know of the state it looked at.
enum Verdict {
    Append { event: Event, expected: u64 },
    Done(Done),
    Rejected(Rejection),
}

impl Submit {
    /// The write path over a log and the projection of it, for these channels. `source` names the replica.
    pub fn new(
        log: Arc<dyn EventLog>,
        projection: Projection,
        clock: Arc<dyn Clock>,
        replica: &str,
        channels: &[Channel],
        append_timeout: Duration,
        metrics: Metrics,
    ) -> Self {
        let lane = || Lane { turn: Mutex::new(()), places: Semaphore::new(WAITING) };
        let lanes = channels.iter().map(|channel| (channel.clone(), lane())).collect();
        Self { log, projection, clock, source: format!("/tidings/{replica}"), append_timeout, lanes, metrics }
    }

    /// Creates or clears. With an idempotency key, a retry at any time gets the answer of the first try. The event
    /// carries the trace on.
    pub async fn lifecycle(
        &self,
        command: Command,
        key: Option<&str>,
        trace: Option<TraceParent>,
    ) -> Result<Done, SubmitError> {
        let id = self.event_id(&command, key);
        let lane = self.lanes.get(command.channel()).ok_or(SubmitError::Busy)?;
        let _place = lane.places.try_acquire().map_err(|_| SubmitError::Busy)?;
        let _turn = timeout(TURN_PATIENCE, lane.turn.lock()).await.map_err(|_| SubmitError::Busy)?;
        let mut attempt = Attempt::new(self, id);
        let outcome = attempt.write(command, trace).await;
        outcome.map_err(|error| attempt.honest(error))
    }

    /// How many commands of each channel wait for their turn or have it.
    pub fn waiting(&self) -> Vec<(Channel, usize)> {
        let waiting = |lane: &Lane| WAITING - lane.places.available_permits();
        self.lanes.iter().map(|(channel, lane)| (channel.clone(), waiting(lane))).collect()
    }

    /// The event id of a command: a new one, or the one that its key stands for.
    fn event_id(&self, command: &Command, key: Option<&str>) -> Uuid {
        let (operation, by) = match command {
            Command::Create { by, .. } => ("create", by),
            Command::Clear { by, .. } => ("clear", by),
            Command::Acknowledge { user, .. } => ("acknowledge", user),
        };
        key.map_or_else(|| self.clock.new_id(), |key| keyed_id(operation, command.channel(), by, key))
    }

    async fn judge(&self, command: Command, now: Timestamp, id: Uuid) -> Result<Verdict, SubmitError> {
        if !self.projection.position().serving {
            return Err(SubmitError::CatchingUp);
        }
        let needs = State::needs(&command, id);
        let judged = self.projection.with(needs, move |state| match decide(state, &command, now, id) {
            Err(rejection) => Verdict::Rejected(rejection),
            Ok(None) => Verdict::Done(done_before(state, id)),
            Ok(Some(event)) => {
                let expected = state.channel(command.channel()).lifecycle_head;
                Verdict::Append { event, expected }
            }
        });
        Ok(judged.await?)
    }

    /// Waits until the own projection is at the head that the channel has now; `false` when that did not work out.
    async fn catch_up(&self, channel: &Channel, until: Instant) -> bool {
        let head = self.log.head_of(Subject::Lifecycle(channel.clone()));
        match timeout_at(until, head).await {
            Ok(Ok(head)) => {
                let patience = until.saturating_duration_since(Instant::now());
                self.projection.reached(head, patience).await
            }
            Ok(Err(error)) => {
                warn!("the log does not say where its head is: {error}");
                sleep(RETRY_PAUSE).await;
                false
            }
            Err(_) => false,
        }
    }
}

/// One event on its way into the log, over as many tries as it takes.
struct Attempt<'a> {
    submit: &'a Submit,
    id: Uuid,
    /// A try went without an answer: the event may have been written unseen.
    unsure: bool,
}

impl<'a> Attempt<'a> {
    const fn new(submit: &'a Submit, id: Uuid) -> Self {
        Self { submit, id, unsure: false }
    }

    /// Decides and appends until one of the two has the last word.
    async fn write(&mut self, command: Command, trace: Option<TraceParent>) -> Result<Done, SubmitError> {
        let Self { submit, id, .. } = *self;
        let now = submit.clock.now();
        let until = Instant::now() + CONFLICT_PATIENCE;
        let mut caught_up = false;
        let mut lost_at = None;
        loop {
            let in_time = Instant::now() < until;
            let (event, expected) = match submit.judge(command.clone(), now, id).await? {
                Verdict::Append { event, expected } => (event, expected),
                Verdict::Done(done) if done.broadcast.is_some() || caught_up => return Ok(done),
                Verdict::Rejected(rejection) if caught_up => return Err(SubmitError::Rejected(rejection)),
                // No guard checks what is not appended, and another replica may have answered a moment ago: "nothing
                // to clear" and "another one is active" are said of the log as it is, not of how far this one has read.
                Verdict::Done(_) | Verdict::Rejected(_) if in_time => {
                    caught_up = submit.catch_up(command.channel(), until).await;
                    continue;
                }
                // The log does not say where its head is, so whether there is anything to do is not known.
                Verdict::Done(_) | Verdict::Rejected(_) => return Err(SubmitError::Unknown { id }),
            };
            let (broadcast, name) = (event.broadcast_id(), event.event_type().name);
            let subject = Subject::Lifecycle(command.channel().clone());
            let source = submit.source.clone();
            let new = NewEvent { subject, id, event, time: now, source, expected: Some(expected), trace };
            match self.append(new).await {
                Ok(Appended { sequence, duplicate: false }) => {
                    info!(broadcast.id = %broadcast, log.sequence = sequence, "{} on {}", name, command.channel());
                    submit.projection.reached(sequence, PROJECTION_PATIENCE).await;
                    return Ok(Done { id, sequence: Some(sequence), broadcast: Some(broadcast) });
                }
                // The log compared the ids alone. Whether a key stood for this very command, only `decide` can tell.
                Ok(Appended { sequence, duplicate: true }) if in_time => {
                    let patience = until.saturating_duration_since(Instant::now());
                    submit.projection.reached(sequence, patience).await;
                }
                Ok(_) => return Err(SubmitError::Unknown { id }),
                Err(AppendError::Conflict) if in_time => {
                    submit.catch_up(command.channel(), until).await;
                    // Against the same head again: the log is another one than the projection has read so far.
                    if lost_at.replace(expected) == Some(expected) {
                        sleep(RETRY_PAUSE).await;
                    }
                }
                Err(error) => return Err(self.refusal(&error)),
            }
        }
    }

    /// Appends, and keeps asking under the same id while there is no answer and still time. Each append has its own
    /// time: a conflict was an answer.
    async fn append(&mut self, new: NewEvent) -> Result<Appended, AppendError> {
        let until = Instant::now() + self.submit.append_timeout;
        loop {
            let begun = Instant::now();
            let answer = timeout_at(until, self.submit.log.append(new.clone())).await;
            let answer =
                answer.unwrap_or_else(|_| Err(AppendError::Unknown(anyhow::anyhow!("no answer in time"))));
            self.submit.metrics.append(&outcome(&answer), begun.elapsed());
            let error = match answer {
                Err(error @ (AppendError::InProcess | AppendError::Unknown(_))) => error,
                appended_or_refused => return appended_or_refused,
            };
            self.unsure = true;
            if Instant::now() + RETRY_PAUSE >= until {
                return Err(error);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// What the caller is told when the log did not take the event.
    fn refusal(&self, error: &AppendError) -> SubmitError {
        warn!(event.id = %self.id, "an append was not confirmed: {error}");
        self.honest(match error {
            AppendError::Full => SubmitError::LogFull,
            AppendError::TooLarge => SubmitError::TooLarge,
            AppendError::Conflict => SubmitError::Contended,
            AppendError::InProcess | AppendError::Unknown(_) => SubmitError::Unknown { id: self.id },
        })
    }

    /// Most errors say that nothing was written. After a try without an answer nobody can say that.
    fn honest(&self, error: SubmitError) -> SubmitError {
        match error {
            SubmitError::CatchingUp | SubmitError::Contended | SubmitError::LogFull if self.unsure => {
                SubmitError::Unknown { id: self.id }
            }
            error => error,
        }
    }
}

fn outcome(answer: &Result<Appended, AppendError>) -> ByOutcome {
    match answer {
        Ok(Appended { duplicate: false, .. }) => ByOutcome::APPENDED,
        Ok(Appended { duplicate: true, .. }) => ByOutcome::DUPLICATE,
        Err(AppendError::Conflict) => ByOutcome::CONFLICT,
        Err(AppendError::Full | AppendError::TooLarge) => ByOutcome::REFUSED,
        Err(AppendError::InProcess | AppendError::Unknown(_)) => ByOutcome::UNKNOWN,
    }
}

/// What a retry is answered: the place of the event that its first try wrote.
fn done_before(state: &State, id: Uuid) -> Done {
    let broadcast = state.written_by(id);
    let known = broadcast.and_then(|about| state.broadcast(about));
    let sequence = known.and_then(|known| {
        if known.broadcast.id.0 == id {
            Some(known.sequence)
        } else {
            known.end.as_ref().map(|end| end.sequence)
        }
    });
    Done { id, sequence, broadcast }
}

/// UUIDv5 of the parts, each with its length before it, so that no two lists of parts share an id.
fn keyed_id(operation: &str, channel: &Channel, by: &UserId, key: &str) -> Uuid {
    let parts = [operation, channel.as_str(), by.as_str(), key];
    let name: Vec<u8> = parts
        .iter()
        .flat_map(|part| [&(part.len() as u64).to_be_bytes(), part.as_bytes()].concat())
        .collect();
    Uuid::new_v5(&KEYED_IDS, &name)
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Busy => f.write_str("Too many requests are waiting. Nothing was changed; try again shortly."),
            Self::Contended => f.write_str(
                "Others kept changing this channel at the same moment. Nothing was changed; try again.",
            ),
            Self::LogFull => f.write_str(
                "The event log has reached its configured size and takes nothing new. Nothing was changed; an \
                 administrator has to raise its limit.",
            ),
            Self::TooLarge => f.write_str("The event is larger than the log takes. Nothing was changed."),
            Self::CatchingUp => {
                f.write_str("This replica is still reading the event log. Nothing was changed; try again shortly.")
            }
            Self::Unknown { id } => write!(
                f,
                "The event log did not answer in time. Whether the request took effect is unknown; its event would \
                 have the id {id}. If the request had an Idempotency-Key, repeat it with the same one: it takes \
                 effect at most once. An acknowledgement can be repeated as it is."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_ids_depend_on_every_part_and_on_nothing_else() {
        let id = |operation, channel: &str, by: &str, key| {
            keyed_id(operation, &channel.parse().unwrap(), &by.parse().unwrap(), key)
        };
        let one = id("create", "creator", "ann", "k1");
        assert_eq!(one, id("create", "creator", "ann", "k1"));
        for other in [
            id("clear", "creator", "ann", "k1"),
            id("create", "forum", "ann", "k1"),
            id("create", "creator", "annk", "1"),
            id("create", "creator", "ann", "k2"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn every_answer_of_the_log_is_counted_as_what_it_means() {
        let appended = |duplicate| Ok(Appended { sequence: 1, duplicate });
        for (answer, counted) in [
            (appended(false), ByOutcome::APPENDED),
            (appended(true), ByOutcome::DUPLICATE),
            (Err(AppendError::Conflict), ByOutcome::CONFLICT),
            (Err(AppendError::Full), ByOutcome::REFUSED),
            (Err(AppendError::TooLarge), ByOutcome::REFUSED),
            (Err(AppendError::InProcess), ByOutcome::UNKNOWN),
            (Err(AppendError::Unknown(anyhow::anyhow!("no answer"))), ByOutcome::UNKNOWN),
        ] {
            assert_eq!(outcome(&answer), counted, "{answer:?}");
        }
    }
}
