//! The relay: brings what waits in the outbox to the log, in order and under the same ids.
//!
//! An event may be in the log already: its first append may have lost its answer, or landed late, or an earlier run
//! relayed it. The projection knows the id of every lifecycle event in the log, so it is asked first; a doubled
//! acknowledgement has no effect. When the channel has moved on since an event was accepted, `fate.rs` says whether the
//! event still takes effect. One that does not goes on record as late, without effect.

mod fate;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info};

use super::attempt::outcome;
use super::mode::{Machine, Mode};
use super::outbox::{Base, Entry, Outbox};
use super::{CONFLICT_PATIENCE, PROJECTION_PATIENCE, RETRY_PAUSE, Submit};
use crate::blocking::blocking;
use crate::crash_point::CrashPoint;
use crate::domain::{BroadcastId, Channel, Condition};
use crate::log::envelope::OF_OUTBOX;
use crate::log::names::Subject;
use crate::log::{AppendError, Appended, Epoch, NewEvent};
use crate::warnings::Warning;
use fate::{Fate, Found, condition_of};

/// Acknowledgements that are on their way to the log at once: they are a set, so their order is free.
const ACKS_AT_ONCE: usize = 64;

/// The relay holds the outbox for so many steps, and for less once nothing waits. Commands that come meanwhile wait, and
/// each channel has one that then gets in: however fast they come, the outbox is empty in the end, and they go to the log.
const TURN: usize = 64;

/// Why an entry did not leave the outbox.
enum Stay {
    /// Not now.
    Again,
    /// The log is full.
    Full,
    /// Its channel is not as it was thought to be: look anew.
    Moved,
    /// The log will never take it.
    Never(&'static str),
}

/// What left the outbox since it was last empty.
#[derive(Default)]
struct Relayed {
    /// The last entry of each channel, and what became of it.
    fates: HashMap<Channel, (u64, Fate)>,
    /// The log in which it was last written, and the last place there.
    epoch: Option<Epoch>,
    sequence: u64,
}

impl Relayed {
    /// Notes an entry that left the outbox for this log.
    fn note(&mut self, entry: &Entry, fate: Fate, epoch: Option<Epoch>) {
        debug!(event.id = %entry.new.id, "relayed entry {} of the outbox: {fate:?}", entry.number);
        if entry.base.is_some() {
            self.fates.insert(entry.new.subject.channel().clone(), (entry.number, fate));
        }
        if let Fate::InLog(sequence) = fate {
            let before = if self.epoch == epoch { self.sequence } else { 0 };
            (self.epoch, self.sequence) = (epoch, sequence.max(before));
        }
    }
}

/// The oldest entry about what is active, and the acknowledgements before it: none of those is of that one.
fn together(waiting: &VecDeque<Arc<Entry>>) -> Vec<Arc<Entry>> {
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
            Err(CONFLICT_PATIENCE)
        }
        Err(panicked) => {
            error!("keeping it with the rejected ones failed: {panicked}");
            Err(CONFLICT_PATIENCE)
        }
    }
}

impl Submit {
    /// Relays whenever the mode asks for it.
    pub(super) async fn relay_for_ever(&self) {
        let mut mode = self.modes.watch();
        let mut relayed = Relayed::default();
        while mode.wait_for(|mode| *mode == Mode::Relaying).await.is_ok() {
            let outbox = self.outbox.clone().lock_owned().await;
            if let Err(pause) = self.take_turn(outbox, &mut relayed).await {
                sleep(pause).await;
            }
        }
    }

    /// Relays with the outbox held. `Err`: what stays is tried again after this pause.
    async fn take_turn(
        &self,
        mut outbox: OwnedMutexGuard<Outbox>,
        relayed: &mut Relayed,
    ) -> Result<(), Duration> {
        for _ in 0..TURN {
            if outbox.waiting().is_empty() {
                return self.settle(outbox, relayed).await;
            }
            let next = together(outbox.waiting());
            let known = self.acknowledged_in_log(&next).await?;
            let results = join_all(next.iter().map(|entry| self.relay(entry, &known, relayed))).await;
            let noted = self.note(outbox, &next, results, relayed).await;
            outbox = noted?;
        }
        Ok(())
    }

    /// Lets entries leave the outbox in order, up to the first that has to stay. What is behind that is relayed again:
    /// nothing has an effect twice. `Err`: after this pause.
    async fn note(
        &self,
        mut outbox: OwnedMutexGuard<Outbox>,
        entries: &[Arc<Entry>],
        results: Vec<Result<Fate, Stay>>,
        relayed: &mut Relayed,
    ) -> Result<OwnedMutexGuard<Outbox>, Duration> {
        for (entry, result) in entries.iter().zip(results) {
            match result {
                Ok(fate) => {
                    if fate == Fate::Overruled {
                        self.options.metrics.outbox_overruled.inc();
                        info!(
                            event.id = %entry.new.id,
                            "an event that was accepted without the log has no effect in it: something newer was there"
                        );
                    }
                    outbox.done();
                    relayed.note(entry, fate, self.projection.position().epoch);
                }
                Err(Stay::Moved) => break,
                Err(Stay::Again) => return Err(RETRY_PAUSE),
                Err(Stay::Full) => {
                    error!(
                        "the log is full, so what was accepted while it was away has to wait; raise its limit"
                    );
                    // It stays full until somebody raises its limit: no reason to ask at once.
                    return Err(CONFLICT_PATIENCE);
                }
                Err(Stay::Never(why)) => {
                    error!(
                        event.id = %entry.new.id,
                        "an accepted event cannot go into the log, and moves to outbox/rejected: {why}"
                    );
                    outbox = reject(outbox, why).await?;
                    self.options.warnings.set(Warning::OutboxRejected, true);
                    relayed.note(entry, Fate::Overruled, None);
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
        relayed: &mut Relayed,
    ) -> Result<(), Duration> {
        // What stood in another log is not waited for.
        if relayed.epoch == self.projection.position().epoch
            && !self.projection.reached(relayed.sequence, PROJECTION_PATIENCE).await
        {
            return Err(RETRY_PAUSE);
        }
        let emptied = blocking(move || {
            outbox.empty();
            outbox
        });
        let Ok(_outbox) = emptied.await else { return Err(RETRY_PAUSE) };
        self.projection.settle().await;
        self.modes.tell(Machine::relayed);
        let Relayed { sequence, .. } = std::mem::take(relayed);
        info!(log.sequence = sequence, "the log has, or has overruled, all that waited in the outbox");
        Ok(())
    }

    async fn relay(
        &self,
        entry: &Entry,
        known: &BTreeSet<BroadcastId>,
        relayed: &Relayed,
    ) -> Result<Fate, Stay> {
        let channel = match &entry.new.subject {
            Subject::Lifecycle(channel) | Subject::Late(channel) => channel,
            Subject::Acks(_, id) if known.contains(id) => {
                return self.append_relayed(entry.new.clone()).await.map(|done| Fate::InLog(done.sequence));
            }
            Subject::Acks(..) => {
                return Err(Stay::Never("the log does not have the broadcast that it acknowledges"));
            }
        };
        match self.relay_behind(entry, channel, relayed).await {
            None | Some(Err(Stay::Moved)) => {}
            Some(done) => return done,
        }
        if !self.catch_up(channel, Instant::now() + CONFLICT_PATIENCE).await {
            return Err(Stay::Again);
        }
        let found = self.find(entry, channel).await?;
        if let Some(fate) = found.fate {
            return Ok(fate);
        }
        if self.still_applies(entry, channel, &found, relayed).await? {
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
        entry: &Entry,
        channel: &Channel,
        relayed: &Relayed,
    ) -> Option<Result<Fate, Stay>> {
        let (before, fate) = relayed.fates.get(channel)?;
        if entry.base != Some(Base::Entry(*before)) {
            return None;
        }
        match (self.find(entry, channel).await, fate) {
            (Err(stay), _) => Some(Err(stay)),
            (Ok(Found { fate: Some(fate), .. }), _) => Some(Ok(fate)),
            // The guard tells whether anything else came meanwhile, this very event included.
            (Ok(_), Fate::InLog(head)) => Some(self.relay_after(entry, *head).await),
            (Ok(_), Fate::Overruled) => match &*condition_of(entry) {
                // What it was decided on was active here by what was overruled.
                Condition::OneOf(ids) if ids.len() == 1 => Some(self.relay_late(entry, channel).await),
                _ => None,
            },
        }
    }

    async fn relay_after(&self, entry: &Entry, head: u64) -> Result<Fate, Stay> {
        let guarded = NewEvent { expected: Some(head), ..entry.new.clone() };
        match self.append_relayed(guarded).await? {
            Appended { sequence, duplicate: false } => Ok(Fate::InLog(sequence)),
            // It is there: the projection will say where.
            Appended { duplicate: true, .. } => Err(Stay::Moved),
        }
    }

    async fn relay_late(&self, entry: &Entry, channel: &Channel) -> Result<Fate, Stay> {
        let late = NewEvent { subject: Subject::Late(channel.clone()), ..entry.new.clone() };
        match self.append_relayed(late).await? {
            Appended { duplicate: false, .. } => Ok(Fate::Overruled),
            // It got into the log unseen, before this or on the other subject.
            Appended { duplicate: true, .. } => Err(Stay::Moved),
        }
    }

    async fn append_relayed(&self, mut new: NewEvent) -> Result<Appended, Stay> {
        // The time at which the log records it says nothing of when it happened.
        new.source.push_str(OF_OUTBOX);
        let begun = Instant::now();
        CrashPoint::BeforeRelay.reached();
        let appended = timeout(self.options.append_timeout, self.log.append(new)).await;
        CrashPoint::AfterRelay.reached();
        let appended =
            appended.unwrap_or_else(|_| Err(AppendError::Unknown(anyhow::anyhow!("no answer in time"))));
        self.options.metrics.append(&outcome(&appended), begun.elapsed());
        let answered = !matches!(appended, Err(AppendError::Unknown(_)));
        self.modes.tell(|machine| machine.appended(answered));
        self.log_is_full.store(matches!(appended, Err(AppendError::Full)), Ordering::Relaxed);
        match appended {
            Ok(appended) => Ok(appended),
            Err(AppendError::TooLarge) => Err(Stay::Never("it is larger than the log takes")),
            Err(AppendError::Full) => Err(Stay::Full),
            Err(AppendError::Conflict) => Err(Stay::Moved),
            Err(AppendError::InProcess | AppendError::Unknown(_)) => Err(Stay::Again),
        }
    }
}
