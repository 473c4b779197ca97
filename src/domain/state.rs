//! The state and `evolve`, which folds one recorded event into it. It judges nothing and cannot fail.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ack_set::AckSet;
use super::broadcast_state::{BroadcastState, End, EndReason, EventRef};
use super::delays::Delays;
use super::digest::Digest;
use super::event::{Acknowledgement, Broadcast, Event, Recorded};
use super::loaded::Loaded;
use super::needs::Needs;
use super::types::{BroadcastId, Channel, Fingerprint, Timestamp};

/// The state of one channel. Small, and in memory for every channel of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// The active broadcast.
    pub active: Option<BroadcastId>,
    /// The last sequence on the channel's lifecycle subject, of whatever message: the guard of the next append.
    pub lifecycle_head: u64,
    /// How many broadcasts were ever created.
    pub created: u64,
    /// The UTC day of the newest broadcast (days since 1970-01-01), and how many were created on it.
    pub today: (i64, u64),
}

impl ChannelState {
    /// How many broadcasts were created on the UTC day of `now`.
    pub const fn created_today(&self, now: Timestamp) -> u64 {
        if self.today.0 == now.day() { self.today.1 } else { 0 }
    }
}

/// The working set: every channel, and those broadcasts and event ids that the keys at hand need.
///
/// Before a fold or a decision, the caller loads what [`State::needs_of`] or `Command::needs` names; afterwards it may drop
/// what is not active. A fold over a whole log that never drops anything needs no loading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Every channel that has an event.
    pub channels: BTreeMap<Channel, ChannelState>,
    /// The loaded broadcasts.
    pub broadcasts: HashMap<BroadcastId, BroadcastState>,
    /// The loaded lifecycle events, by their ids.
    pub lifecycle_events: HashMap<Uuid, EventRef>,
    /// The digest over all facts so far.
    pub digest: Digest,
}

/// What an event did. Pushes, KV writes and stored records follow from this alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A broadcast became the active one of its channel.
    Activated {
        /// The new broadcast.
        id: BroadcastId,
        /// The broadcast that it superseded.
        superseded: Option<BroadcastId>,
    },
    /// A late broadcast was recorded.
    RecordedLate {
        /// The broadcast.
        id: BroadcastId,
    },
    /// The active broadcast ended and was not superseded.
    Ended {
        /// The broadcast.
        id: BroadcastId,
        /// How it ended.
        reason: EndReason,
    },
    /// Users acknowledged a broadcast for the first time.
    Acknowledged {
        /// The broadcast.
        id: BroadcastId,
        /// The acknowledgements of users who had not acknowledged it before.
        new: Vec<Acknowledgement>,
    },
    /// Nothing: a duplicate, a clear of a broadcast that is not active, or an acknowledgement of an unknown one.
    Nothing,
}

static NO_CHANNEL: ChannelState = ChannelState { active: None, lifecycle_head: 0, created: 0, today: (0, 0) };

impl State {
    /// The state of a channel; empty for one without events.
    pub fn channel(&self, channel: &Channel) -> &ChannelState {
        self.channels.get(channel).unwrap_or(&NO_CHANNEL)
    }

    /// A loaded broadcast.
    pub fn broadcast(&self, id: BroadcastId) -> Option<&BroadcastState> {
        self.broadcasts.get(&id)
    }

    /// The active broadcast of a channel. Active broadcasts are always loaded.
    pub fn active(&self, channel: &Channel) -> Option<&BroadcastState> {
        self.channel(channel).active.and_then(|id| self.broadcast(id))
    }

    /// The lifecycle event of this id, when there is one in the log and loaded.
    pub fn lifecycle_event(&self, id: Uuid) -> Option<EventRef> {
        self.lifecycle_events.get(&id).copied()
    }

    /// Adds to `needs` what [`evolve`] will look up for `recorded` and this state does not have.
    pub fn needs_of(&self, recorded: &Recorded, needs: &mut Needs) {
        let about = recorded.event.broadcast_id();
        if !self.broadcasts.contains_key(&about) {
            needs.broadcasts.push(about);
        }
        match &recorded.event {
            Event::Created(_) | Event::Cleared(_) if !self.lifecycle_events.contains_key(&recorded.id) => {
                needs.lifecycle_events.push(recorded.id);
            }
            Event::Acknowledged(_) if self.has_all_acks(about) => {}
            Event::Acknowledged(brought) => {
                let users = brought.acknowledgements.iter().map(|one| one.user.fingerprint());
                let unknown = users.filter(|user| !self.has_ack(about, *user));
                needs.acknowledged.extend(unknown.map(|user| (about, user)));
            }
            Event::Created(_) | Event::Cleared(_) => {}
        }
    }

    /// The part of these that is not in memory. An id that no event has is never in memory.
    pub fn missing(&self, needs: &Needs) -> Needs {
        let is_loaded = |id: &BroadcastId| self.broadcasts.contains_key(id);
        let is_known = |(id, user): &(BroadcastId, Fingerprint)| self.has_ack(*id, *user);
        Needs {
            broadcasts: needs.broadcasts.iter().filter(|id| !is_loaded(id)).copied().collect(),
            lifecycle_events: needs
                .lifecycle_events
                .iter()
                .filter(|id| !self.lifecycle_events.contains_key(id))
                .copied()
                .collect(),
            acknowledged: needs.acknowledged.iter().filter(|ack| !is_known(ack)).copied().collect(),
        }
    }

    /// Whether it can be answered from memory if this user acknowledged this broadcast.
    pub fn has_ack(&self, id: BroadcastId, user: Fingerprint) -> bool {
        self.broadcast(id).is_some_and(|known| {
            known.acknowledgements.is_complete() || known.acknowledgements.get(user).is_some()
        })
    }

    fn has_all_acks(&self, id: BroadcastId) -> bool {
        self.broadcast(id).is_some_and(|known| known.acknowledgements.is_complete())
    }

    /// Adds what was read from the store. What is in memory already is newer and stays.
    pub fn add_loaded(&mut self, loaded: Loaded) {
        for (id, record) in loaded.broadcasts {
            self.broadcasts.entry(id).or_insert(record);
        }
        for (id, event) in loaded.lifecycle_events {
            self.lifecycle_events.entry(id).or_insert(event);
        }
        for (id, users) in loaded.acknowledged {
            let known = self.broadcasts.get_mut(&id).filter(|known| !known.acknowledgements.is_complete());
            let Some(known) = known else { continue };
            for (user, sequence) in users {
                known.acknowledgements.add(user, sequence);
            }
        }
    }

    /// Records the last message on a channel's lifecycle subject. The guard of the log includes messages that this build cannot
    /// decode.
    pub fn note_lifecycle_head(&mut self, channel: &Channel, sequence: u64) {
        self.channels.entry(channel.clone()).or_default().lifecycle_head = sequence;
    }

    fn end_active(
        &mut self,
        channel: &Channel,
        sequence: u64,
        at: Timestamp,
        reason: EndReason,
    ) -> Option<BroadcastId> {
        let ended = self.channels.get_mut(channel)?.active.take()?;
        if let Some(state) = self.broadcasts.get_mut(&ended) {
            state.end = Some(End { sequence, at, reason });
        }
        self.digest.add_end(ended, sequence, reason);
        Some(ended)
    }

    fn create(&mut self, recorded: &Recorded, broadcast: &Broadcast) -> Change {
        let id = broadcast.id;
        if self.broadcasts.contains_key(&id) {
            return Change::Nothing;
        }
        let Recorded { sequence, recorded_at, ref channel, late, relayed, .. } = *recorded;
        self.digest.add_broadcast(channel, broadcast, sequence, late);
        self.broadcasts.insert(
            id,
            BroadcastState {
                channel: channel.clone(),
                broadcast: broadcast.clone(),
                sequence,
                recorded_at,
                late,
                relayed,
                superseded: if late { None } else { self.channel(channel).active },
                end: None,
                acknowledged: 0,
                delays: Delays::default(),
                acknowledgements: AckSet::new_complete(),
            },
        );
        let counts = self.channels.entry(channel.clone()).or_default();
        counts.created += 1;
        counts.today = (recorded_at.day(), counts.created_today(recorded_at) + 1);
        if late {
            return Change::RecordedLate { id };
        }
        let superseded = self.end_active(channel, sequence, recorded_at, EndReason::Superseded);
        self.channels.entry(channel.clone()).or_default().active = Some(id);
        Change::Activated { id, superseded }
    }

    fn acknowledge(&mut self, recorded: &Recorded, id: BroadcastId, claimed: &[Acknowledgement]) -> Change {
        let known = self.broadcasts.get_mut(&id).filter(|known| known.channel == recorded.channel);
        let Some(known) = known else { return Change::Nothing };
        let mut new = Vec::with_capacity(claimed.len());
        for acknowledgement in claimed {
            let user = acknowledgement.user.fingerprint();
            if known.acknowledgements.add(user, recorded.sequence) {
                self.digest.add_acknowledgement(id, user, recorded.sequence);
                let delay = known.delay_ms(recorded, acknowledgement);
                known.delays.add(delay);
                new.push(acknowledgement.clone());
            }
        }
        known.acknowledged += new.len() as u64;
        if new.is_empty() { Change::Nothing } else { Change::Acknowledged { id, new } }
    }
}

/// Folds the next event of the log into the state and returns what it did.
///
/// An old log always replays: what has no effect any more (a double, a clear of what is not active, an
/// acknowledgement of an unknown broadcast) is [`Change::Nothing`], never an error.
pub fn evolve(state: &mut State, recorded: &Recorded) -> Change {
    let Recorded { sequence, recorded_at, ref channel, id, late, sent_to, ref event, .. } = *recorded;
    if let Event::Acknowledged(acknowledged) = event {
        return state.acknowledge(recorded, acknowledged.broadcast_id, &acknowledged.acknowledgements);
    }
    if !late {
        state.note_lifecycle_head(channel, sequence);
    }
    state.lifecycle_events.entry(id).or_insert(EventRef {
        broadcast: event.broadcast_id(),
        sequence,
        sent_to,
    });
    match event {
        Event::Created(broadcast) => state.create(recorded, broadcast),
        Event::Cleared(cleared) if !late && state.channel(channel).active == Some(cleared.broadcast_id) => {
            state.end_active(channel, sequence, recorded_at, EndReason::Cleared);
            Change::Ended { id: cleared.broadcast_id, reason: EndReason::Cleared }
        }
        Event::Cleared(_) | Event::Acknowledged(_) => Change::Nothing,
    }
}
