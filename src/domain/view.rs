//! The view: the log's state with pending events folded over it.
//!
//! While NATS is away a replica accepts commands into its outbox. Those pending events are folded with the same [`evolve`] into
//! a small overlay state. It is dropped as a whole once the log has, or has overruled, every event in it.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::ack_set::AckSet;
use super::broadcast_state::{BroadcastState, EventRef};
use super::event::{Acknowledgement, Event, Recorded};
use super::loaded::Loaded;
use super::sent_to::SentTo;
use super::state::{Change, ChannelState, State, evolve};
use super::types::{BroadcastId, Channel, Fingerprint, Timestamp, UserId};

/// Sequences from here on are not of the log: they number pending events in the order of acceptance, and compare greater than
/// every sequence of the log. (At a million events a second the log would reach this number after 292,000 years.)
pub const PENDING: u64 = 1 << 63;

/// The sequence, if it is one of the log; `None` for that of a pending event.
pub const fn in_log(sequence: u64) -> Option<u64> {
    if sequence < PENDING { Some(sequence) } else { None }
}

/// The pending events of this replica, folded.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// The channels and broadcasts that pending events change, with these changes; of acknowledgements, only the pending ones.
    state: State,
    /// Pending acknowledgements, in the order of acceptance.
    acknowledgements: BTreeMap<BroadcastId, Vec<(u64, Acknowledgement)>>,
    accepted: u64,
}

/// An event that was accepted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its channel.
    pub channel: Channel,
    /// The id under which it will be in the log.
    pub id: Uuid,
    /// When it was accepted.
    pub at: Timestamp,
    /// How many users and connections it is sent to, when its request had an idempotency key.
    pub sent_to: Option<SentTo>,
    /// The event.
    pub event: Event,
}

impl Pending {
    /// Whether everything that was accepted is in the log.
    pub const fn is_empty(&self) -> bool {
        self.accepted == 0
    }

    /// Folds an accepted event over the log's state, which must have the event's broadcast loaded, if the log has it. Returns the
    /// event's sequence, from [`PENDING`] on, and what it did.
    pub fn fold(&mut self, log: &State, accepted: Accepted) -> (u64, Change) {
        let Accepted { channel, id, at, sent_to, event } = accepted;
        let sequence = PENDING + self.accepted;
        self.accepted += 1;
        self.copy_base(log, &channel, event.broadcast_id());
        let event = match event {
            Event::Acknowledged(mut acknowledged) => {
                let known = |user: &UserId| {
                    log.broadcast(acknowledged.broadcast_id).and_then(|known| known.acknowledged_at(user))
                };
                acknowledged.acknowledgements.retain(|new| known(&new.user).is_none());
                Event::Acknowledged(acknowledged)
            }
            event => event,
        };
        let (recorded_at, late, relayed) = (at, false, true);
        let recorded = Recorded { sequence, recorded_at, channel, id, late, relayed, sent_to, event };
        let change = evolve(&mut self.state, &recorded);
        if let Change::Acknowledged { id, new } = &change {
            let entries = self.acknowledgements.entry(*id).or_default();
            entries.extend(new.iter().map(|new| (sequence, new.clone())));
        }
        (sequence, change)
    }

    /// The part of a change of the log that clients are shown while events are pending: acknowledgements that they do not know
    /// of yet. What becomes active is held back until the log has what they have been shown.
    pub fn shown(&self, change: &Change) -> Option<Change> {
        let Change::Acknowledged { id, new } = change else { return None };
        let known = self.state.broadcast(*id);
        let unknown = |user: &UserId| known.is_none_or(|known| known.acknowledged_at(user).is_none());
        let new: Vec<_> = new.iter().filter(|new| unknown(&new.user)).cloned().collect();
        (!new.is_empty()).then_some(Change::Acknowledged { id: *id, new })
    }

    /// Copies from the log's state what the fold of an event changes.
    fn copy_base(&mut self, log: &State, channel: &Channel, about: BroadcastId) {
        let known = self.state.channels.entry(channel.clone());
        let active = known.or_insert_with(|| log.channel(channel).clone()).active;
        for id in active.into_iter().chain([about]) {
            if let Some(known) = log.broadcast(id) {
                self.state.broadcasts.entry(id).or_insert_with(|| without_acknowledgements(known));
            }
        }
    }
}

/// A copy of the record without its set of acknowledgements, which may be large and is looked up in the log's state.
fn without_acknowledgements(known: &BroadcastState) -> BroadcastState {
    BroadcastState {
        channel: known.channel.clone(),
        broadcast: known.broadcast.clone(),
        end: known.end.clone(),
        delays: known.delays.clone(),
        acknowledgements: AckSet::default(),
        ..*known
    }
}

/// The state by which this replica decides commands and answers reads.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    log: &'a State,
    /// What was loaded from the store for one read. What is in `log` is newer.
    loaded: Option<&'a Loaded>,
    pending: &'a Pending,
}

impl<'a> View<'a> {
    /// The log's state with pending events over it. What will be looked up must be loaded.
    pub const fn new(log: &'a State, pending: &'a Pending) -> Self {
        Self { log, loaded: None, pending }
    }

    /// The same view, with what was loaded from the store for one read.
    #[must_use]
    pub const fn with_loaded(self, loaded: &'a Loaded) -> Self {
        Self { loaded: Some(loaded), ..self }
    }

    /// The log's state in memory.
    pub const fn log(self) -> &'a State {
        self.log
    }

    /// A broadcast as the log has it.
    pub fn in_log(self, id: BroadcastId) -> Option<&'a BroadcastState> {
        self.log.broadcast(id).or_else(|| self.loaded?.broadcasts.get(&id))
    }

    /// The lifecycle event of this id, if the log has one.
    pub fn lifecycle_event_in_log(self, id: Uuid) -> Option<EventRef> {
        self.log.lifecycle_event(id).or_else(|| self.loaded?.lifecycle_events.get(&id).copied())
    }

    /// The sequence at which this user first acknowledged the broadcast by the log.
    pub fn acknowledged_in_log(self, id: BroadcastId, user: Fingerprint) -> Option<u64> {
        let in_memory = self.log.broadcast(id).and_then(|known| known.acknowledged_by(user));
        in_memory.or_else(|| self.loaded?.acknowledged_by(id, user))
    }

    /// Every channel that has an event.
    pub fn channels(self) -> impl Iterator<Item = &'a Channel> {
        let pending = self.pending.state.channels.keys();
        let of_log = self.log.channels.keys();
        of_log.chain(pending.filter(move |channel| !self.log.channels.contains_key(*channel)))
    }

    /// The state of a channel. Its lifecycle head is the guard of what is decided on it; if that event is pending, the guard never
    /// holds.
    pub fn channel(self, channel: &Channel) -> &'a ChannelState {
        self.pending.state.channels.get(channel).unwrap_or_else(|| self.log.channel(channel))
    }

    /// A broadcast. Its acknowledgements are looked up with [`View::acknowledged_at`].
    pub fn broadcast(self, id: BroadcastId) -> Option<&'a BroadcastState> {
        self.pending(id).or_else(|| self.in_log(id))
    }

    /// The record of a broadcast that something pending is about.
    pub fn pending(self, id: BroadcastId) -> Option<&'a BroadcastState> {
        self.pending.state.broadcast(id)
    }

    /// Whether something is pending.
    pub const fn has_pending(self) -> bool {
        !self.pending.is_empty()
    }

    /// The active broadcast of a channel.
    pub fn active(self, channel: &Channel) -> Option<&'a BroadcastState> {
        self.channel(channel).active.and_then(|id| self.broadcast(id))
    }

    /// The sequence at which this user first acknowledged the broadcast.
    pub fn acknowledged_at(self, id: BroadcastId, user: &UserId) -> Option<u64> {
        self.acknowledged_by(id, user.fingerprint())
    }

    /// The same by [`UserId::fingerprint`], for callers that have it already.
    pub fn acknowledged_by(self, id: BroadcastId, fingerprint: Fingerprint) -> Option<u64> {
        let pending = || self.pending.state.broadcast(id)?.acknowledged_by(fingerprint);
        self.acknowledged_in_log(id, fingerprint).or_else(pending)
    }

    /// The lifecycle event of this id, if there is one.
    pub fn lifecycle_event(self, id: Uuid) -> Option<EventRef> {
        self.lifecycle_event_in_log(id).or_else(|| self.pending.state.lifecycle_event(id))
    }

    /// Pending broadcasts of a channel, newest first. One that was relayed a moment ago is in the log as well.
    pub fn pending_broadcasts(self, channel: &Channel) -> Vec<&'a BroadcastState> {
        let new =
            |known: &&BroadcastState| known.sequence >= PENDING && self.in_log(known.broadcast.id).is_none();
        let known = self.pending.state.broadcasts.values();
        let mut pending: Vec<_> = known.filter(|known| known.channel == *channel).filter(new).collect();
        pending.sort_by_key(|known| std::cmp::Reverse(known.sequence));
        pending
    }

    /// Pending acknowledgements of a broadcast, in the order of acceptance, with their sequences and numbers. Some may be in the
    /// log by now.
    pub fn pending_acknowledgements(
        self,
        id: BroadcastId,
    ) -> impl Iterator<Item = (u64, usize, &'a Acknowledgement)> {
        let accepted = self.pending.acknowledgements.get(&id).map_or(&[][..], Vec::as_slice);
        accepted.iter().zip(1..).map(|((sequence, ack), number)| (*sequence, number, ack))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Message, Precondition, Severity, decide};
    use super::*;

    struct World {
        log: State,
        pending: Pending,
        head: u64,
    }

    impl World {
        /// A log in which broadcast 1 is active and `ann` has acknowledged it.
        fn new() -> Self {
            let mut world = Self { log: State::default(), pending: Pending::default(), head: 0 };
            world.record(1, &create("one"));
            world.record(2, &acknowledge(1, "ann"));
            world
        }

        fn view(&self) -> View<'_> {
            View::new(&self.log, &self.pending)
        }

        fn judge(&self, id: u128, command: &Command) -> Accepted {
            let (id, at) = (Uuid::from_u128(id), Timestamp::from_unix_ms(7));
            let event = decide(self.view(), command, at, id).unwrap().unwrap();
            Accepted { channel: command.channel().clone(), id, at, sent_to: None, event }
        }

        fn record(&mut self, id: u128, command: &Command) {
            let Accepted { channel, id, at, sent_to, event } = self.judge(id, command);
            self.head += 1;
            let recorded = Recorded {
                sequence: self.head,
                recorded_at: at,
                channel,
                id,
                late: false,
                relayed: false,
                sent_to,
                event,
            };
            evolve(&mut self.log, &recorded);
        }

        fn accept(&mut self, id: u128, command: &Command) -> Change {
            let accepted = self.judge(id, command);
            self.pending.fold(&self.log, accepted).1
        }

        fn active(&self) -> Option<u128> {
            self.view().active(&channel()).map(|active| active.broadcast.id.0.as_u128())
        }
    }

    fn channel() -> Channel {
        "creator".parse().unwrap()
    }

    fn create(text: &str) -> Command {
        let (message, by) = (Message::parse(text).unwrap(), "ann".parse().unwrap());
        Command::Create {
            channel: channel(),
            message,
            severity: Severity::Info,
            by,
            condition: Precondition::Always,
        }
    }

    fn acknowledge(id: u128, user: &str) -> Command {
        let broadcast = BroadcastId(Uuid::from_u128(id));
        Command::Acknowledge { channel: channel(), broadcast, user: user.parse().unwrap() }
    }

    fn clear() -> Command {
        Command::Clear { channel: channel(), by: "ann".parse().unwrap(), condition: Precondition::Always }
    }

    #[test]
    fn what_is_pending_lies_over_the_log_and_leaves_it_alone() {
        let mut world = World::new();
        let log = world.log.clone();
        let one = BroadcastId(Uuid::from_u128(1));
        assert!(
            matches!(world.accept(5, &create("two")), Change::Activated { superseded: Some(id), .. } if id == one)
        );
        assert_eq!(world.active(), Some(5));
        let ended = world.view().broadcast(one).unwrap().end.clone().unwrap();
        assert_eq!((ended.sequence, in_log(ended.sequence)), (PENDING, None));
        assert!(matches!(world.accept(6, &clear()), Change::Ended { .. }));
        assert_eq!(world.active(), None);
        assert_eq!(world.log, log);
        world.pending = Pending::default();
        assert_eq!(world.active(), Some(1));
    }

    #[test]
    fn both_know_who_acknowledged() {
        let mut world = World::new();
        let one = BroadcastId(Uuid::from_u128(1));
        assert!(
            matches!(world.accept(5, &acknowledge(1, "bob")), Change::Acknowledged { new, .. } if new.len() == 1)
        );
        let at = |user: &str| world.view().acknowledged_at(one, &user.parse().unwrap());
        assert_eq!((at("ann"), at("bob"), at("eve")), (Some(2), Some(PENDING), None));
        assert_eq!(world.view().broadcast(one).unwrap().acknowledged, 2);
        let pending: Vec<_> = world.view().pending_acknowledgements(one).collect();
        assert_eq!((pending.len(), pending[0].2.user.as_str()), (1, "bob"));
    }

    #[test]
    fn an_acknowledgement_that_the_log_got_meanwhile_counts_once() {
        let mut world = World::new();
        let late = world.judge(5, &acknowledge(1, "bob"));
        world.record(6, &acknowledge(1, "bob"));
        assert_eq!(world.pending.fold(&world.log, late).1, Change::Nothing);
    }

    #[test]
    fn an_accepted_command_is_found_again_by_its_id() {
        let mut world = World::new();
        world.accept(5, &create("two"));
        let again = decide(world.view(), &create("two"), Timestamp::from_unix_ms(9), Uuid::from_u128(5));
        assert_eq!(again, Ok(None));
        let pending = world.view().pending_broadcasts(&channel());
        assert_eq!(pending.iter().map(|known| known.broadcast.id.0.as_u128()).collect::<Vec<_>>(), [5]);
    }
}
