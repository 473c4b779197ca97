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
use tracing::{error, info, warn};

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
    info!(event.id = %entry.new.id, "relayed entry {} of the outbox: {fate:?}", entry.number);
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
        true
    }

    async fn relay(&self, entry: &Entry, fates: &Fates) -> Result<Fate, Stay> {
        let Subject::Lifecycle(channel) = &entry.new.subject else {
            return self.append_relayed(entry.new.clone()).await.map(|done| Fate::InLog(Some(done.sequence)));
        };
        let found = self.find(entry, channel).await?;
        if let Some(fate) = found.fate {
            return Ok(fate);
        }
        if !self.still_applies(entry, channel, &found, fates).await? {
            let late = NewEvent { subject: Subject::Late(channel.clone()), ..entry.new.clone() };
            return self.append_relayed(late).await.map(|_| Fate::Overruled);
        }
        let guarded = NewEvent { expected: Some(found.head), ..entry.new.clone() };
        match self.append_relayed(guarded).await? {
            Appended { sequence, duplicate: false } => Ok(Fate::InLog(Some(sequence))),
            // It is there: the projection will say where.
            Appended { duplicate: true, .. } => Err(Stay::Again),
        }
    }

    /// Looks for an entry in the log as it is now.
    async fn find(&self, entry: &Entry, channel: &Channel) -> Result<Found, Stay> {
        if !self.catch_up(channel, Instant::now() + CONFLICT_PATIENCE).await {
            return Err(Stay::Again);
        }
        let (id, about, channel) = (entry.new.id, entry.new.event.broadcast_id(), channel.clone());
        let needs = Needs { broadcasts: vec![about], written: vec![id] };
        let looked = self.projection.with(needs, move |view| {
            let log = view.log();
            let known = log.broadcast(about);
            let fate = log.written_by(id).map(|_| match known {
                Some(known) if known.late => Fate::Overruled,
                Some(known) if known.broadcast.id.0 == id => Fate::InLog(Some(known.sequence)),
                _ => Fate::InLog(None),
            });
            let state = log.channel(&channel);
            Found { fate, head: state.lifecycle_head, clears_active: state.active == Some(about) }
        });
        looked.await.map_err(|_| Stay::Again)
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
            Some(Base::Entry(number)) if before == Some(&(number, Fate::Overruled)) => return Ok(false),
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
            Err(AppendError::Conflict | AppendError::InProcess | AppendError::Unknown(_)) => Err(Stay::Again),
        }
    }
}
