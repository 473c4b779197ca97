//! The relay: brings what waits in the outbox to the log, in order and under the same ids.
//!
//! An event may be in the log already: its first append may have lost its answer, or landed late, or an earlier run
//! relayed it. The projection knows the id of every lifecycle event in the log, so it is asked first; a doubled
//! acknowledgement has no effect. An event whose channel has moved on since it was accepted takes its place only when it
//! is the newer one. Otherwise it goes on record as late: without effect, and so does what was decided on it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::attempt::outcome;
use super::mode::{Machine, Mode};
use super::outbox::{Base, Entry};
use super::{CONFLICT_PATIENCE, PROJECTION_PATIENCE, RETRY_PAUSE, Submit};
use crate::domain::{Channel, Event, Needs, Timestamp};
use crate::log::envelope::{Decoded, decode};
use crate::log::names::Subject;
use crate::log::{AppendError, Appended, Epoch, NewEvent, ReadError};

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is in the log; at this sequence, when that is known.
    InLog(Option<u64>),
    /// It is in the log without effect, or will never be in it.
    Overruled,
}

/// Why an entry did not leave the outbox.
enum Stay {
    /// Not now.
    Again,
    /// Its channel is not as it was thought to be: look anew.
    Moved,
    /// The log will never take it.
    Never(&'static str),
}

/// What the log says about an entry.
struct Found {
    fate: Option<Fate>,
    /// The last lifecycle event of its channel.
    head: u64,
    /// Whether the broadcast that it clears is active.
    clears_active: bool,
}

/// The last entry of each channel that left the outbox, and what became of it.
type Fates = HashMap<Channel, (u64, Fate)>;

/// The last place in a log that the relay wrote.
#[derive(Clone, Copy, Default)]
struct Last {
    epoch: Option<Epoch>,
    sequence: u64,
}

impl Last {
    fn note(&mut self, epoch: Option<Epoch>, sequence: u64) {
        let before = if self.epoch == epoch { self.sequence } else { 0 };
        *self = Self { epoch, sequence: sequence.max(before) };
    }
}

fn note(entry: &Entry, fate: Fate, fates: &mut Fates) {
    debug!(event.id = %entry.new.id, "relayed entry {} of the outbox: {fate:?}", entry.number);
    if entry.base.is_some() {
        fates.insert(entry.new.subject.channel().clone(), (entry.number, fate));
    }
}

impl Submit {
    /// Relays whenever the mode asks for it.
    pub(super) async fn relay_for_ever(&self) {
        let mut mode = self.modes.watch();
        let mut fates = Fates::new();
        let mut last = Last::default();
        while mode.wait_for(|mode| *mode == Mode::Relaying).await.is_ok() {
            let next = self.outbox.lock().await.waiting().front().cloned();
            let Some(entry) = next else {
                if self.settle(last).await {
                    fates.clear();
                    last = Last::default();
                }
                continue;
            };
            match self.relay(&entry, &fates).await {
                Ok(fate) => {
                    self.outbox.lock().await.done();
                    note(&entry, fate, &mut fates);
                    if let Fate::InLog(Some(sequence)) = fate {
                        last.note(self.projection.position().epoch, sequence);
                    }
                }
                Err(Stay::Again) => sleep(RETRY_PAUSE).await,
                Err(Stay::Moved) => {}
                Err(Stay::Never(why)) => {
                    error!(event.id = %entry.new.id, "the log will never take an event that was accepted: {why}");
                    if let Err(error) = self.outbox.lock().await.reject(why) {
                        error!("it cannot be kept with the rejected ones either, so it stays: {error:#}");
                        sleep(CONFLICT_PATIENCE).await;
                        continue;
                    }
                    note(&entry, Fate::Overruled, &mut fates);
                }
            }
        }
    }

    /// Nothing waits: once the projection has what was relayed, the log's state alone is shown again.
    async fn settle(&self, last: Last) -> bool {
        // What stood in another log is not waited for.
        if last.epoch == self.projection.position().epoch
            && !self.projection.reached(last.sequence, PROJECTION_PATIENCE).await
        {
            return false;
        }
        let mut outbox = self.outbox.clone().lock_owned().await;
        if !outbox.waiting().is_empty() {
            return false;
        }
        let emptied = spawn_blocking(move || {
            outbox.empty();
            outbox
        });
        // Held until the mode says so: what is accepted from here on waits behind nothing.
        let Ok(_outbox) = emptied.await else { return false };
        self.projection.settle().await;
        self.modes.tell(Machine::relayed);
        info!(log.sequence = last.sequence, "the log has, or has overruled, all that waited in the outbox");
        true
    }

    async fn relay(&self, entry: &Entry, fates: &Fates) -> Result<Fate, Stay> {
        let Subject::Lifecycle(channel) = &entry.new.subject else {
            return self.append_relayed(entry.new.clone()).await.map(|done| Fate::InLog(Some(done.sequence)));
        };
        match self.relay_behind(entry, channel, fates).await {
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
        if self.still_applies(entry, channel, &found, fates).await? {
            self.relay_after(entry, found.head).await
        } else {
            self.relay_late(entry, channel).await
        }
    }

    /// The short way for an entry that was decided on the one before it, whose fate is known: it needs no look at the
    /// log's head. `None` for any other.
    async fn relay_behind(
        &self,
        entry: &Entry,
        channel: &Channel,
        fates: &Fates,
    ) -> Option<Result<Fate, Stay>> {
        let (before, fate) = fates.get(channel)?;
        if entry.base != Some(Base::Entry(*before)) {
            return None;
        }
        match (self.find(entry, channel).await, fate) {
            (Err(stay), _) => Some(Err(stay)),
            (Ok(Found { fate: Some(fate), .. }), _) => Some(Ok(fate)),
            // The guard tells whether anything else came meanwhile, this very event included.
            (Ok(_), Fate::InLog(Some(head))) => Some(self.relay_after(entry, *head).await),
            (Ok(_), Fate::InLog(None)) => None,
            (Ok(_), Fate::Overruled) => Some(self.relay_late(entry, channel).await),
        }
    }

    async fn relay_after(&self, entry: &Entry, head: u64) -> Result<Fate, Stay> {
        let guarded = NewEvent { expected: Some(head), ..entry.new.clone() };
        match self.append_relayed(guarded).await? {
            Appended { sequence, duplicate: false } => Ok(Fate::InLog(Some(sequence))),
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

    /// Looks for an entry in the log, as far as the projection has read it.
    async fn find(&self, entry: &Entry, channel: &Channel) -> Result<Found, Stay> {
        let (id, event, channel) = (entry.new.id, entry.new.event.clone(), channel.clone());
        let about = event.broadcast_id();
        let needs = Needs { broadcasts: vec![about], written: vec![id] };
        let looked = self.projection.with(needs, move |view| {
            let log = view.log();
            let known = log.broadcast(about);
            if let (Event::Created(accepted), Some(known)) = (&event, known)
                && !accepted.announces_the_same(&known.broadcast)
            {
                return Err(Stay::Never("its Idempotency-Key stands for another broadcast in the log"));
            }
            let fate = log.written_by(id).map(|_| match known {
                Some(known) if known.late => Fate::Overruled,
                Some(known) if known.broadcast.id.0 == id => Fate::InLog(Some(known.sequence)),
                _ => Fate::InLog(None),
            });
            let state = log.channel(&channel);
            Ok(Found { fate, head: state.lifecycle_head, clears_active: state.active == Some(about) })
        });
        looked.await.unwrap_or(Err(Stay::Again))
    }

    /// Whether an event may still take effect: the channel is as it was when the event was accepted, or the event is the
    /// newer one.
    async fn still_applies(
        &self,
        entry: &Entry,
        channel: &Channel,
        found: &Found,
        fates: &Fates,
    ) -> Result<bool, Stay> {
        let before = fates.get(channel);
        match entry.base {
            Some(Base::Log { epoch, sequence })
                if epoch == self.projection.position().epoch && sequence == found.head =>
            {
                return Ok(true);
            }
            Some(Base::Entry(number)) if before == Some(&(number, Fate::InLog(Some(found.head)))) => {
                return Ok(true);
            }
            _ => {}
        }
        match &entry.new.event {
            Event::Created(broadcast) => {
                let last = self.last_event(found.head).await.map_err(|error| {
                    warn!("the log does not say what came last on {channel}: {error}");
                    Stay::Again
                })?;
                Ok(last.is_none_or(|last| (broadcast.created_at, entry.new.id) > last))
            }
            Event::Cleared(_) => Ok(found.clears_active),
            Event::Acknowledged(_) => Ok(true),
        }
    }

    /// When the lifecycle event at a sequence was accepted, and its id, by which the newer of two is told. `None` when
    /// there is none that can be read: then anything is newer.
    async fn last_event(&self, sequence: u64) -> Result<Option<(Timestamp, uuid::Uuid)>, ReadError> {
        let message = if sequence == 0 { None } else { self.log.get(sequence).await? };
        Ok(message.and_then(|message| match decode(&message) {
            Decoded::Event(recorded) => match recorded.event {
                Event::Created(broadcast) => Some((broadcast.created_at, recorded.id)),
                Event::Cleared(cleared) => Some((cleared.cleared_at, recorded.id)),
                Event::Acknowledged(_) => None,
            },
            Decoded::Skipped(_) => None,
        }))
    }

    async fn append_relayed(&self, new: NewEvent) -> Result<Appended, Stay> {
        let begun = Instant::now();
        let appended = timeout(self.options.append_timeout, self.log.append(new)).await;
        let appended =
            appended.unwrap_or_else(|_| Err(AppendError::Unknown(anyhow::anyhow!("no answer in time"))));
        self.options.metrics.append(&outcome(&appended), begun.elapsed());
        let answered = !matches!(appended, Err(AppendError::Unknown(_)));
        self.modes.tell(|machine| machine.appended(answered));
        self.log_is_full.store(matches!(appended, Err(AppendError::Full)), Ordering::Relaxed);
        match appended {
            Ok(appended) => Ok(appended),
            Err(AppendError::TooLarge) => Err(Stay::Never("it is larger than the log takes")),
            Err(AppendError::Full) => {
                error!(
                    "the log is full, so what was accepted while it was away has to wait; raise its limit"
                );
                // It stays full until somebody raises its limit: no reason to ask at once.
                sleep(CONFLICT_PATIENCE).await;
                Err(Stay::Again)
            }
            Err(AppendError::Conflict) => Err(Stay::Moved),
            Err(AppendError::InProcess | AppendError::Unknown(_)) => Err(Stay::Again),
        }
    }
}
