//! Whether an entry of the outbox takes effect, by the state of the log when it is relayed.
//!
//! A post depends on nothing that came before it: it takes effect unless the channel has something newer. A clear, and a post
//! whose `If-Match` names broadcasts, depend on those: they take effect while the log has one of them active. A post with
//! `If-Match: *` or `If-None-Match: *` needs both: nothing newer, and its condition. An acknowledgement needs its broadcast to
//! be in the log, and nothing else.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::warn;
use uuid::Uuid;

use super::{CONFLICT_TIMEOUT, NotRelayed, RETRY_PAUSE, RelayProgress, Submit};
use crate::domain::{BroadcastId, Channel, Event, EventRef, Needs, Precondition, Timestamp, View};
use crate::log::ReadError;
use crate::log::envelope::{Decoded, decode};
use crate::log::names::Subject;
use crate::submit::outbox::{Base, OutboxEntry};

/// The outcome of relaying an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relayed {
    /// It is in the log, at this sequence.
    InLog(u64),
    /// It is in the log without effect, or will never be in it.
    Overruled,
}

/// What was looked up for an entry.
pub(super) struct Lookup {
    pub(super) outcome: Option<Relayed>,
    /// The last lifecycle event of its channel.
    pub(super) head: u64,
    /// The broadcast that is active in its channel.
    active: Option<BroadcastId>,
}

/// What became of a lifecycle event that is in the log: one without effect counts as overruled.
fn outcome_of(view: View<'_>, id: Uuid, EventRef { broadcast, sequence, .. }: EventRef) -> Relayed {
    let had_effect = view.in_log(broadcast).is_some_and(|known| match &known.end {
        _ if known.broadcast.id.0 == id => !known.late,
        Some(end) => end.sequence == sequence,
        None => false,
    });
    if had_effect { Relayed::InLog(sequence) } else { Relayed::Overruled }
}

/// The precondition for an entry to take effect.
pub(super) fn condition_of(entry: &OutboxEntry) -> Cow<'_, Precondition> {
    match &entry.new.event {
        Event::Created(_) => Cow::Borrowed(&entry.condition),
        Event::Cleared(cleared) => Cow::Owned(Precondition::OneOf(vec![cleared.broadcast_id])),
        Event::Acknowledged(_) => Cow::Owned(Precondition::Always),
    }
}

impl Submit {
    /// Looks for an entry in the log, as far as the projection has read it.
    pub(super) async fn find(&self, entry: &OutboxEntry, channel: &Channel) -> Result<Lookup, NotRelayed> {
        let (id, event, channel) = (entry.new.id, entry.new.event.clone(), channel.clone());
        let broadcast = event.broadcast_id();
        let needs = Needs { lifecycle_events: vec![id], ..Needs::broadcast(broadcast) };
        let looked = self.projection.with(needs, move |view| {
            let known = view.in_log(broadcast);
            if let (Event::Created(accepted), Some(known)) = (&event, known)
                && !accepted.announces_the_same(&known.broadcast)
            {
                return Err(NotRelayed::Never("its Idempotency-Key stands for another broadcast in the log"));
            }
            let outcome = view.lifecycle_event_in_log(id).map(|written| outcome_of(view, id, written));
            let state = view.log().channel(&channel);
            Ok(Lookup { outcome, head: state.lifecycle_head, active: state.active })
        });
        looked.await.unwrap_or(Err(NotRelayed::Again))
    }

    /// Whether an event takes effect when it comes into the log now.
    pub(super) async fn still_applies(
        &self,
        entry: &OutboxEntry,
        channel: &Channel,
        found: &Lookup,
        relayed: &RelayProgress,
    ) -> Result<bool, NotRelayed> {
        let condition = condition_of(entry);
        let holds = condition.holds(found.active);
        if !holds || condition.names_broadcasts() {
            return Ok(holds);
        }
        let Event::Created(broadcast) = &entry.new.event else { return Ok(true) };
        let as_it_was = match entry.base {
            Some(Base::Log { epoch: Some(epoch), sequence }) => {
                Some(epoch) == self.projection.position().epoch && sequence == found.head
            }
            Some(Base::Entry(number)) => {
                relayed.outcomes.get(channel) == Some(&(number, Relayed::InLog(found.head)))
            }
            _ => false,
        };
        if as_it_was {
            return Ok(true);
        }
        let last = self.last_event(found.head).await.map_err(|error| {
            let error = error.to_string();
            if self.no_head.is_due(&error) {
                warn!("the log does not say what came last on {channel}: {error}");
            }
            NotRelayed::Again
        })?;
        Ok(last.is_none_or(|last| (broadcast.created_at, entry.new.id) > last))
    }

    /// When the lifecycle event at a sequence was accepted, and its id, by which the newer of two is told. `None` when
    /// there is none that can be read: then anything is newer.
    async fn last_event(&self, sequence: u64) -> Result<Option<(Timestamp, Uuid)>, ReadError> {
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

    /// Which of the broadcasts that these entries acknowledge the log has. Before it is said that the log does not have
    /// one, the projection has read all that the log has. `Err`: that is not known now, ask again after this pause.
    ///
    /// The log that the outbox was filled for may be lost, and its broadcasts with it: an acknowledgement of one of those
    /// in the next log would be of something that was never there.
    pub(super) async fn acknowledged_in_log(
        &self,
        entries: &[Arc<OutboxEntry>],
    ) -> Result<BTreeSet<BroadcastId>, std::time::Duration> {
        let named: BTreeSet<_> = entries
            .iter()
            .filter_map(|entry| match &entry.new.subject {
                Subject::Acks(channel, id) => Some((channel.clone(), *id)),
                Subject::Lifecycle(_) | Subject::Late(_) => None,
            })
            .collect();
        if named.is_empty() {
            return Ok(BTreeSet::new());
        }
        let info = self.log.info().await.map_err(|_| RETRY_PAUSE)?;
        // What the projection knows counts only for the log that it has read.
        let is_read = |epoch| epoch == Some(info.epoch);
        if !is_read(self.projection.position().epoch) {
            return Err(RETRY_PAUSE);
        }
        let known = self.known_in_log(&named).await?;
        if known.len() == named.len() {
            return Ok(known);
        }
        if !self.projection.reached(info.last_sequence, CONFLICT_TIMEOUT).await {
            return Err(RETRY_PAUSE);
        }
        let known = self.known_in_log(&named).await?;
        if is_read(self.projection.position().epoch) { Ok(known) } else { Err(RETRY_PAUSE) }
    }

    /// Which of these the projection has read in the log, in their channel.
    pub(in crate::submit) async fn known_in_log(
        &self,
        named: &BTreeSet<(Channel, BroadcastId)>,
    ) -> Result<BTreeSet<BroadcastId>, std::time::Duration> {
        let needs = Needs { broadcasts: named.iter().map(|(_, id)| *id).collect(), ..Needs::default() };
        let named = named.clone();
        let looked = self.projection.with(needs, move |view| {
            let there = |(channel, id): &(Channel, BroadcastId)| {
                view.in_log(*id).is_some_and(|known| known.channel == *channel)
            };
            named.iter().filter(|named| there(named)).map(|(_, id)| *id).collect()
        });
        looked.await.map_err(|_| RETRY_PAUSE)
    }
}
