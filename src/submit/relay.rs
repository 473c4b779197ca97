//! The relay: brings what waits in the outbox to the log, in order and under the same ids.
//!
//! An event may be in the log already: its first append may have lost its answer, or landed late, or an earlier run
//! relayed it. The projection knows the id of every lifecycle event in the log, so it is asked first; a doubled
//! acknowledgement has no effect. When the channel has moved on since an event was accepted, `outcome.rs` says whether the
//! event still takes effect. One that does not goes on record as late, without effect.

mod outcome;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info};

use super::attempt::outcome;
use super::mode::{Mode, ModeMachine};
use super::outbox::{Base, Outbox, OutboxEntry};
use super::{CONFLICT_TIMEOUT, PROJECTION_TIMEOUT, RETRY_PAUSE, Submit};
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;
use crate::domain::{BroadcastId, Channel, Precondition};
use crate::log::envelope::OUTBOX_SUFFIX;
use crate::log::names::Subject;
use crate::log::{AppendError, Appended, Epoch, NewEvent};
use crate::warnings::Warning;
use outcome::{Lookup, Relayed, condition_of};

/// Acknowledgements that are on their way to the log at once: they are a set, so their order is free.
const ACKS_AT_ONCE: usize = 64;

/// The relay holds the outbox for so many steps, and for less once nothing waits. Commands that come meanwhile wait, and
/// each channel has one that then gets in: however fast they come, the outbox is empty in the end, and they go to the log.
const MAX_RELAY_STEPS: usize = 64;

/// Why an entry was not relayed.
enum NotRelayed {
    /// Temporarily: retry.
    Again,
    /// The log is full.
    Full,
    /// The channel has changed meanwhile: look it up again.
    Moved,
    /// The log will never accept it.
    Never(&'static str),
}

/// What left the outbox since it was last empty.
#[derive(Default)]
struct RelayProgress {
    /// The last entry of each channel, and what became of it.
    outcomes: HashMap<Channel, (u64, Relayed)>,
    /// The log in which it was last written, and the last place there.
    epoch: Option<Epoch>,
    sequence: u64,
}

impl RelayProgress {
    /// Notes an entry that left the outbox for this log.
    fn note(&mut self, entry: &OutboxEntry, outcome: Relayed, epoch: Option<Epoch>) {
        debug!(event.id = %entry.new.id, "relayed entry {} of the outbox: {outcome:?}", entry.number);
        if entry.base.is_some() {
            self.outcomes.insert(entry.new.subject.channel().clone(), (entry.number, outcome));
        }
        if let Relayed::InLog(sequence) = outcome {
            let before = if self.epoch == epoch { self.sequence } else { 0 };
            (self.epoch, self.sequence) = (epoch, sequence.max(before));
        }
    }
}

/// The oldest entry about what is active, and the acknowledgements before it: none of those is of that one.
fn together(waiting: &VecDeque<Arc<OutboxEntry>>) -> Vec<Arc<OutboxEntry>> {
    let acks = waiting.iter().take_while(|entry| matches!(entry.new.subject, Subject::Acks(..)));
    let acks = acks.take(ACKS_AT_ONCE).count();
    waiting.iter().take(acks + 1).cloned().collect()
}

/// Moves the oldest entry to the rejected file. `Err`: the disk did not take it, so it stays, and is tried again after
/// this pause.
async fn reject(
    mut outbox: OwnedMutexGuard<Outbox>,
    why: &'static str,
) -> Result<OwnedMutexGuard<Outbox>, Duration> {
    let rejected = blocking(move || {
        let rejected = outbox.reject(why);
        (outbox, rejected)
    });
    match rejected.await {
        Ok((outbox, Ok(()))) => Ok(outbox),
        Ok((_, Err(error))) => {
            error!("it cannot be kept with the rejected ones either, so it stays: {error:#}");
            Err(CONFLICT_TIMEOUT)
        }
        Err(panicked) => {
            error!("keeping it with the rejected ones failed: {panicked}");
            Err(CONFLICT_TIMEOUT)
        }
    }
}

impl Submit {
    /// Relays whenever the mode asks for it.
    pub(super) async fn relay_for_ever(&self) {
        let mut mode = self.modes.watch();
        let mut progress = RelayProgress::default();
        while mode.wait_for(|mode| *mode == Mode::Relaying).await.is_ok() {
            let outbox = self.outbox.clone().lock_owned().await;
            if let Err(pause) = self.relay_round(outbox, &mut progress).await {
                sleep(pause).await;
            }
        }
    }

    /// Relays with the outbox held. `Err`: what stays is tried again after this pause.
    async fn relay_round(
        &self,
        mut outbox: OwnedMutexGuard<Outbox>,
        progress: &mut RelayProgress,
    ) -> Result<(), Duration> {
        for _ in 0..MAX_RELAY_STEPS {
            if outbox.waiting().is_empty() {
                return self.settle(outbox, progress).await;
            }
            let next = together(outbox.waiting());
            let known = self.acknowledged_in_log(&next).await?;
            let results = join_all(next.iter().map(|entry| self.relay(entry, &known, progress))).await;
            let noted = self.note(outbox, &next, results, progress).await;
            outbox = noted?;
        }
        Ok(())
    }

    /// Lets entries leave the outbox in order, up to the first that has to stay. What is behind that is relayed again:
    /// nothing has an effect twice. `Err`: after this pause.
    async fn note(
        &self,
        mut outbox: OwnedMutexGuard<Outbox>,
        entries: &[Arc<OutboxEntry>],
        results: Vec<Result<Relayed, NotRelayed>>,
        progress: &mut RelayProgress,
    ) -> Result<OwnedMutexGuard<Outbox>, Duration> {
        for (entry, result) in entries.iter().zip(results) {
            match result {
                Ok(outcome) => {
                    if outcome == Relayed::Overruled {
                        self.options.metrics.outbox_overruled.inc();
                        info!(
                            event.id = %entry.new.id,
                            "an event that was accepted without the log has no effect in it: something newer was there"
                        );
                    }
                    outbox.done();
                    progress.note(entry, outcome, self.projection.position().epoch);
                }
                Err(NotRelayed::Moved) => break,
                Err(NotRelayed::Again) => return Err(RETRY_PAUSE),
                Err(NotRelayed::Full) => {
                    error!(
                        "the log is full, so what was accepted while it was away has to wait; raise its limit"
                    );
                    // It stays full until somebody raises its limit: no reason to ask at once.
                    return Err(CONFLICT_TIMEOUT);
                }
                Err(NotRelayed::Never(why)) => {
                    error!(
                        event.id = %entry.new.id,
                        "an accepted event cannot go into the log, and moves to outbox/rejected: {why}"
                    );
                    outbox = reject(outbox, why).await?;
                    self.options.warnings.set(Warning::OutboxRejected, true);
                    progress.note(entry, Relayed::Overruled, None);
                }
            }
        }
        Ok(outbox)
    }

    /// Nothing waits: once the projection has what was relayed, the log's state alone is shown again. The outbox is held
    /// until the mode says so: what is accepted from here on waits behind nothing.
    async fn settle(
        &self,
        mut outbox: OwnedMutexGuard<Outbox>,
        progress: &mut RelayProgress,
    ) -> Result<(), Duration> {
        // What stood in another log is not waited for.
        if progress.epoch == self.projection.position().epoch
            && !self.projection.reached(progress.sequence, PROJECTION_TIMEOUT).await
        {
            return Err(RETRY_PAUSE);
        }
        let emptied = blocking(move || {
            outbox.empty();
            outbox
        });
        let Ok(_outbox) = emptied.await else { return Err(RETRY_PAUSE) };
        self.projection.settle().await;
        self.modes.update(ModeMachine::relayed);
        let RelayProgress { sequence, .. } = std::mem::take(progress);
        info!(log.sequence = sequence, "the log has, or has overruled, all that waited in the outbox");
        Ok(())
    }

    async fn relay(
        &self,
        entry: &OutboxEntry,
        known: &BTreeSet<BroadcastId>,
        progress: &RelayProgress,
    ) -> Result<Relayed, NotRelayed> {
        let channel = match &entry.new.subject {
            Subject::Lifecycle(channel) | Subject::Late(channel) => channel,
            Subject::Acks(_, id) if known.contains(id) => {
                return self
                    .append_relayed(entry.new.clone())
                    .await
                    .map(|done| Relayed::InLog(done.sequence));
            }
            Subject::Acks(..) => {
                return Err(NotRelayed::Never("the log does not have the broadcast that it acknowledges"));
            }
        };
        match self.relay_behind(entry, channel, progress).await {
            None | Some(Err(NotRelayed::Moved)) => {}
            Some(done) => return done,
        }
        if !self.catch_up(channel, Instant::now() + CONFLICT_TIMEOUT).await {
            return Err(NotRelayed::Again);
        }
        let found = self.find(entry, channel).await?;
        if let Some(outcome) = found.outcome {
            return Ok(outcome);
        }
        if self.still_applies(entry, channel, &found, progress).await? {
            self.relay_after(entry, found.head).await
        } else {
            self.relay_late(entry, channel).await
        }
    }

    /// The short way for an entry that was decided on the one before it, whose fate is known: it needs no look at the
    /// log's head. `None` for any other, and for a post behind one that was overruled, unless it names that one: it may be
    /// newer than what overruled that, or what it demands may be so in the log.
    async fn relay_behind(
        &self,
        entry: &OutboxEntry,
        channel: &Channel,
        progress: &RelayProgress,
    ) -> Option<Result<Relayed, NotRelayed>> {
        let (before, outcome) = progress.outcomes.get(channel)?;
        if entry.base != Some(Base::Entry(*before)) {
            return None;
        }
        match (self.find(entry, channel).await, outcome) {
            (Err(error), _) => Some(Err(error)),
            (Ok(Lookup { outcome: Some(outcome), .. }), _) => Some(Ok(outcome)),
            // The guard tells whether anything else came meanwhile, this very event included.
            (Ok(_), Relayed::InLog(head)) => Some(self.relay_after(entry, *head).await),
            (Ok(_), Relayed::Overruled) => match &*condition_of(entry) {
                // What it was decided on was active here by what was overruled.
                Precondition::OneOf(ids) if ids.len() == 1 => Some(self.relay_late(entry, channel).await),
                _ => None,
            },
        }
    }

    async fn relay_after(&self, entry: &OutboxEntry, head: u64) -> Result<Relayed, NotRelayed> {
        let guarded = NewEvent { expected: Some(head), ..entry.new.clone() };
        match self.append_relayed(guarded).await? {
            Appended { sequence, duplicate: false } => Ok(Relayed::InLog(sequence)),
            // It is there: the projection will say where.
            Appended { duplicate: true, .. } => Err(NotRelayed::Moved),
        }
    }

    async fn relay_late(&self, entry: &OutboxEntry, channel: &Channel) -> Result<Relayed, NotRelayed> {
        let late = NewEvent { subject: Subject::Late(channel.clone()), ..entry.new.clone() };
        match self.append_relayed(late).await? {
            Appended { duplicate: false, .. } => Ok(Relayed::Overruled),
            // It got into the log unseen, before this or on the other subject.
            Appended { duplicate: true, .. } => Err(NotRelayed::Moved),
        }
    }

    async fn append_relayed(&self, mut new: NewEvent) -> Result<Appended, NotRelayed> {
        // The time at which the log records it says nothing of when it happened.
        new.source.push_str(OUTBOX_SUFFIX);
        let begun = Instant::now();
        CrashPoint::BeforeRelay.reached();
        let appended = timeout(self.options.append_timeout, self.log.append(new)).await;
        CrashPoint::AfterRelay.reached();
        let appended =
            appended.unwrap_or_else(|_| Err(AppendError::Unknown(anyhow::anyhow!("no answer in time"))));
        self.options.metrics.append(&outcome(&appended), begun.elapsed());
        let answered = !matches!(appended, Err(AppendError::Unknown(_)));
        self.modes.update(|machine| machine.appended(answered));
        self.log_is_full.store(matches!(appended, Err(AppendError::Full)), Ordering::Relaxed);
        match appended {
            Ok(appended) => Ok(appended),
            Err(AppendError::TooLarge) => Err(NotRelayed::Never("it is larger than the log takes")),
            Err(AppendError::Full) => Err(NotRelayed::Full),
            Err(AppendError::Conflict) => Err(NotRelayed::Moved),
            Err(AppendError::InProcess | AppendError::Unknown(_)) => Err(NotRelayed::Again),
        }
    }
}
