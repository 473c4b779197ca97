//! Submit: the one write path. Load state, decide, append; on a conflict catch up with the log and decide again.
//!
//! A command becomes at most one event and writes nothing else. The answer comes when this replica's own projection
//! has the event, so that whoever wrote reads what they wrote. While the log is away the event goes to the outbox, and
//! from there to the log when that is back.

pub mod acks;
mod attempt;
mod error;
mod local;
pub mod mode;
pub mod outbox;
mod relay;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;
use uuid::Uuid;

use crate::clock::Clock;
use crate::critical_tasks::CriticalTasks;
use crate::domain::{
    Audience, BroadcastId, Channel, Command, Event, Rejection, SentTo, Timestamp, UserId, View, decide,
    in_log,
};
use crate::error_log::LogLimiter;
use crate::log::envelope::SOURCE_PREFIX;
use crate::log::names::Subject;
use crate::log::stream_monitor::StreamMonitor;
use crate::log::{EventLog, ReadError, TraceParent};
use crate::metrics::Metrics;
use crate::projection::Projection;
use crate::warnings::{Warning, Warnings};
pub use acks::{AckReply, AckRequest, AckResult, Acknowledged, Acks, Replies};
use attempt::Attempt;
pub use error::SubmitError;
use mode::CurrentMode;
use outbox::{Outbox, OutboxStats};

/// How long an answer waits for this replica's projection after an append.
pub const PROJECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a command is decided again after conflicts.
const CONFLICT_TIMEOUT: Duration = Duration::from_secs(5);

/// Lifecycle commands of one channel that may wait for their turn on one replica, and for how long: when the log does
/// not answer, each one before them takes its time.
const MAX_WAITING: usize = 1_024;
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the same line is logged while the log is away.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The namespace of event ids that come from an `Idempotency-Key`.
const KEYED_IDS: Uuid = Uuid::from_u128(0x7d5c_51f1_9f0e_4ad5_8f41_3c6f_6a1d_6f02);

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The id of the event.
    pub id: Uuid,
    /// The sequence of the event; `None` when there was nothing to write, or the log does not have it yet.
    pub sequence: Option<u64>,
    /// The broadcast that was created or cleared.
    pub broadcast: Option<BroadcastId>,
    /// The log is away: this is so for this replica, which has it on disk and will bring it to the log.
    pub local: bool,
    /// Of a retry: the broadcast is on record without effect, as something newer was in the log before it.
    pub late: bool,
    /// To how many it went, by the first answer under its idempotency key; `None` without one.
    pub sent_to: Option<SentTo>,
}

/// An `Idempotency-Key`, and the counts of the first answer.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyKey<'a> {
    /// As the client chose it.
    pub key: &'a str,
    /// To how many the event goes, if this is the first request with the key. It goes into the event, so that every replica
    /// gives every retry the same answer.
    pub audience: Audience,
}

/// One channel's turn: one lifecycle append in flight a replica.
struct ChannelLock {
    mutex: Mutex<()>,
    slots: Semaphore,
}

/// The write path of one replica.
pub struct Submit {
    log: Arc<dyn EventLog>,
    projection: Projection,
    clock: Arc<dyn Clock>,
    source: String,
    options: SubmitOptions,
    locks: HashMap<Channel, ChannelLock>,
    modes: CurrentMode,
    outbox: Arc<Mutex<Outbox>>,
    outbox_stats: watch::Receiver<OutboxStats>,
    /// The log has reached its limit: nothing is accepted for it.
    log_is_full: AtomicBool,
    no_head: LogLimiter,
    unconfirmed: LogLimiter,
    condition: Arc<StreamMonitor>,
}

/// The options of the write path.
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    /// The replica's name, for the source of its events.
    pub replica: String,
    /// The channels that exist.
    pub channels: Vec<Channel>,
    /// How long an append is tried.
    pub append_timeout: Duration,
    /// Whether commands are accepted while the log is away.
    pub accept_on_outage: bool,
    /// The metrics.
    pub metrics: Metrics,
    /// The warnings that it sets.
    pub warnings: Warnings,
    /// Where it spawns its probe, its relay, and what works on acknowledgements.
    pub tasks: CriticalTasks,
}

/// What `decide` said, and what it said that on: the last lifecycle event of the channel, as it is shown here.
enum Decision {
    Append {
        event: Event,
        expected: u64,
        /// Whether the view had something that is not in the log yet.
        has_pending: bool,
    },
    Submitted(Submitted),
    Rejected(Rejection),
}

impl Submit {
    /// The write path over a log and the projection of it. Starts to watch the log, and to relay what waits in the
    /// outbox.
    pub fn start(
        log: Arc<dyn EventLog>,
        projection: Projection,
        clock: Arc<dyn Clock>,
        outbox: Outbox,
        options: SubmitOptions,
    ) -> Arc<Self> {
        let lock = || ChannelLock { mutex: Mutex::new(()), slots: Semaphore::new(MAX_WAITING) };
        let submit = Arc::new(Self {
            log,
            projection,
            clock,
            source: format!("{SOURCE_PREFIX}{}", options.replica),
            locks: options.channels.iter().map(|channel| (channel.clone(), lock())).collect(),
            modes: CurrentMode::new(!outbox.waiting().is_empty()),
            outbox_stats: outbox.stats(),
            outbox: Arc::new(Mutex::new(outbox)),
            log_is_full: AtomicBool::new(false),
            no_head: LogLimiter::every(LOG_EVERY),
            unconfirmed: LogLimiter::every(LOG_EVERY),
            condition: Arc::new(StreamMonitor::new(options.warnings.clone())),
            options,
        });
        let has_rejected = submit.outbox_stats().rejected > 0;
        submit.options.warnings.set(Warning::OutboxRejected, has_rejected);
        submit.clone().restore_then_relay();
        let (log, condition) = (submit.log.clone(), submit.condition.clone());
        let probe = mode::probe(log, submit.projection.clone(), submit.modes.clone(), condition);
        submit.options.tasks.spawn("probe of the log", probe);
        submit
    }

    /// Whether this replica works with the log.
    pub const fn modes(&self) -> &CurrentMode {
        &self.modes
    }

    /// The condition of the log's stream, as the probe saw it last.
    pub fn condition(&self) -> &StreamMonitor {
        &self.condition
    }

    /// What waits in the outbox.
    pub fn outbox_stats(&self) -> OutboxStats {
        *self.outbox_stats.borrow()
    }

    /// Creates or clears. With an idempotency key, a retry at any time gets the answer of the first try. The event
    /// carries the trace on.
    pub async fn lifecycle(
        &self,
        command: Command,
        key: Option<IdempotencyKey<'_>>,
        trace: Option<TraceParent>,
    ) -> Result<Submitted, SubmitError> {
        let id = self.event_id(&command, key.map(|key| key.key));
        let audience = key.map(|key| key.audience);
        let lock = self.locks.get(command.channel()).ok_or(SubmitError::Busy)?;
        let _slot = lock.slots.try_acquire().map_err(|_| SubmitError::Busy)?;
        let _guard = timeout(LOCK_TIMEOUT, lock.mutex.lock()).await.map_err(|_| SubmitError::Busy)?;
        let now = self.clock.now();
        let mut attempt = Attempt::new(self, id);
        let outbox = match self.outbox_unless_with_log().await? {
            Some(outbox) => outbox,
            None => match attempt
                .write(command.clone(), now, trace, audience.map(|audience| audience.of_all))
                .await
            {
                // The same event goes to the outbox as the one that may be on its way: whichever comes first counts.
                Err(SubmitError::Unknown { .. }) if self.options.accept_on_outage => {
                    self.hold_outbox().await.map_err(|error| attempt.or_unknown(error))?
                }
                outcome => return outcome.map_err(|error| attempt.or_unknown(error)),
            },
        };
        let sent_to = audience.map(|audience| audience.of_replica);
        self.accept(outbox, command, now, id, trace, sent_to).await.map_err(|error| attempt.or_unknown(error))
    }

    /// How many commands of each channel wait for their turn or have it.
    pub fn waiting(&self) -> Vec<(Channel, usize)> {
        let waiting = |lock: &ChannelLock| MAX_WAITING - lock.slots.available_permits();
        self.locks.iter().map(|(channel, lock)| (channel.clone(), waiting(lock))).collect()
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

    async fn judge(&self, command: Command, now: Timestamp, id: Uuid) -> Result<Decision, SubmitError> {
        if !self.projection.position().serving {
            return Err(SubmitError::CatchingUp);
        }
        let needs = command.needs(id);
        let judged = self.projection.with(needs, move |view| match decide(view, &command, now, id) {
            Err(rejection) => Decision::Rejected(rejection),
            Ok(None) => Decision::Submitted(done_before(view, id)),
            Ok(Some(event)) => {
                let expected = view.channel(command.channel()).lifecycle_head;
                Decision::Append { event, expected, has_pending: view.has_pending() }
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
                self.log_no_head(&error);
                sleep(RETRY_PAUSE).await;
                false
            }
            Err(_) => false,
        }
    }

    /// Logs, now and then, that the log does not answer where its head is.
    fn log_no_head(&self, error: &ReadError) {
        let error = error.to_string();
        if self.no_head.is_due(&error) {
            warn!("the log does not say where its head is: {error}");
        }
    }
}

/// The answer to a retry: the event that the first attempt wrote.
fn done_before(view: View<'_>, id: Uuid) -> Submitted {
    let written = view.lifecycle_event(id);
    let sequence = written.and_then(|written| in_log(written.sequence));
    let local = written.is_some() && sequence.is_none();
    let broadcast = written.map(|written| written.broadcast);
    let known = broadcast.and_then(|id| view.broadcast(id));
    let late = known.is_some_and(|known| known.late && known.broadcast.id.0 == id);
    Submitted { id, sequence, broadcast, local, late, sent_to: written.and_then(|written| written.sent_to) }
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
}
