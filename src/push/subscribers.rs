//! The subscribers of one channel on one shard: what they see, how far each of them is, and what they are sent next.

mod steps;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use super::attach::ConnectionId;
use super::backlog::Backlog;
use super::connection_table::ConnectionTable;
use super::context::Context;
use super::individual::Individual;
use super::user_index::UserIndex;
use super::wire::{BroadcastView, ConnectedStats, Frame, Place, ServerMessage};
use crate::domain::{BroadcastId, Channel, EndReason, UserId, in_log};
use crate::log::Epoch;
use crate::projection::{Active, Changed, Projection};

/// Updates of a channel that may wait for its slower ones. Beyond that the projection waits, and with it every channel.
const MAX_UPDATES: usize = 1_024;

/// The subscription of a connection to a channel.
pub(super) struct Subscription {
    /// The number of the next message of the backlog.
    position: u64,
    /// Whether it receives what creators and team receive.
    staff: bool,
}

/// An announcement of the projection, as far as it concerns one channel.
pub(super) enum Update {
    /// This is the state now.
    Snapshot { epoch: Epoch, sequence: u64, active: Option<Active> },
    /// An event took effect.
    Changed(Arc<Changed>),
    /// The log has what was accepted meanwhile, or overruled it.
    Settled { sequence: u64, active: Option<Active> },
}

pub(super) struct ChannelSubscribers {
    pub(super) name: Channel,
    /// By connection, which is the order of attachment: the first to come is always served first.
    subscriptions: BTreeMap<ConnectionId, Subscription>,
    users: UserIndex,
    /// The broadcast that the subscribers see.
    pub(super) shown: Option<Active>,
    /// The epoch of sequences; `None` before the first snapshot.
    pub(super) epoch: Option<Epoch>,
    /// The broadcasts that were replaced by something that is not in the log. If the log brings one back, it is not new.
    replaced_alone: HashSet<BroadcastId>,
    /// The numbers that creators and team were sent last; `None` if one of them has none yet.
    pub(super) last_stats: Option<ConnectedStats>,
    /// What all subscribers are sent.
    backlog: Backlog,
    /// The pass over the subscribers, while one of them may lack something of the backlog.
    fanout: Option<Fanout>,
    /// What is sent to one connection after the other, while that goes on.
    individual: Option<Individual>,
    /// Updates that wait until the subscribers have the earlier ones.
    updates: VecDeque<Update>,
    /// The last sequence that was applied, while updates wait.
    applied: u64,
    pub(super) counted: Counted,
}

/// What was last counted of a channel, in the sums of all shards.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    pub(super) connections: usize,
    pub(super) users: usize,
    pub(super) waiting: usize,
    pub(super) lagging: usize,
}

/// A pass over the subscribers that sends each what it lacks.
struct Fanout {
    next: ConnectionId,
    /// Whether the backlog grew after the pass had begun.
    again: bool,
}

/// What this user sees: the shown broadcast, unless they have acknowledged it.
fn active_for(shown: Option<&Active>, user: &UserId, projection: &Projection, place: Place) -> Frame {
    let open = shown.filter(|active| !projection.has_acknowledged(active, user));
    let broadcast = open.map(|active| BroadcastView::from(&*active.broadcast));
    ServerMessage::ActiveBroadcast { broadcast, place }.frame()
}

/// The state on connect. While the projection is rebuilt it does not know who has acknowledged; `resync` follows when it does.
fn state_for(shown: Option<&Active>, user: &UserId, projection: &Projection, place: Place) -> Frame {
    if projection.position().serving {
        return active_for(shown, user, projection, place);
    }
    let message = "This replica is still reading the event log.".to_owned();
    ServerMessage::Error { code: "catching_up", message, broadcast_id: None }.frame()
}

impl ChannelSubscribers {
    pub(super) fn new(name: Channel) -> Self {
        Self {
            name,
            subscriptions: BTreeMap::new(),
            users: UserIndex::default(),
            shown: None,
            epoch: None,
            replaced_alone: HashSet::new(),
            last_stats: None,
            backlog: Backlog::default(),
            fanout: None,
            individual: None,
            updates: VecDeque::new(),
            applied: 0,
            counted: Counted::default(),
        }
    }

    /// The position of a sequence, which may stand for something that is not in the log yet.
    pub(super) const fn place(&self, sequence: u64) -> Place {
        Place::of(self.epoch, sequence)
    }

    /// Subscribers, and distinct users.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.subscriptions.len(), self.users.count())
    }

    /// Subscribes a connection, which has everything that is in the backlog: the state on connect contains it. Returns whether
    /// it is the first one of its user.
    pub(super) fn subscribe(&mut self, id: ConnectionId, user: &UserId, staff: bool) -> bool {
        if staff {
            self.last_stats = None;
        }
        self.subscriptions.insert(id, Subscription { position: self.backlog.end(), staff });
        self.users.add(user, id)
    }

    /// Removes a subscription. Returns whether it was the last one of the user; `None` if there was none.
    pub(super) fn unsubscribe(&mut self, id: ConnectionId, user: &UserId) -> Option<bool> {
        self.subscriptions.remove(&id)?;
        Some(self.users.remove(user, id))
    }

    /// Changes whether a subscription receives what creators and team receive. A new one gets the numbers soon.
    pub(super) fn set_staff(&mut self, id: ConnectionId, staff: bool) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            if staff && !subscription.staff {
                self.last_stats = None;
            }
            subscription.staff = staff;
        }
    }

    /// The messages that wait for subscribers, and the number of subscribers whose limit is half used up.
    pub(super) fn waiting(&self, connections: &ConnectionTable, ctx: &Context) -> (usize, usize) {
        let subscribers = self.subscriptions.keys().filter_map(|id| connections.get(*id));
        let each = subscribers.map(|connection| connection.waiting(&ctx.limits));
        each.fold((0, 0), |(messages, lagging), (waiting, lags)| {
            (messages + waiting, lagging + usize::from(lags))
        })
    }

    /// Adds an update; `sequence` is the last one of the updates before it.
    pub(super) fn push_update(&mut self, update: Update, sequence: u64) {
        if self.updates.is_empty() {
            self.applied = sequence;
        }
        self.updates.push_back(update);
    }

    /// The next update, once the subscribers may be sent more.
    pub(super) fn next_update(&mut self) -> Option<Update> {
        if self.is_backlogged() {
            return None;
        }
        let update = self.updates.pop_front()?;
        self.applied = match &update {
            Update::Snapshot { sequence, .. } | Update::Settled { sequence, .. } => *sequence,
            Update::Changed(changed) => in_log(changed.sequence).unwrap_or(self.applied),
        };
        Some(update)
    }

    /// Whether the projection has to wait for this channel.
    pub(super) fn is_full(&self) -> bool {
        self.updates.len() >= MAX_UPDATES
    }

    /// The sequence of the state that the subscribers have. Without a waiting update it is the last one of all channels.
    pub(super) fn sequence(&self, last: u64) -> u64 {
        if self.updates.is_empty() { last } else { self.applied }
    }

    /// Whether subscribers are still to be sent something.
    pub(super) fn is_sending(&self) -> bool {
        self.fanout.is_some() || self.individual.is_some() || !self.updates.is_empty()
    }

    /// Whether the updates of this channel wait until its subscribers have more of what was sent.
    pub(super) const fn is_backlogged(&self) -> bool {
        self.backlog.is_full() || self.individual.is_some()
    }

    /// Sends a subscriber what it lacks of the backlog.
    pub(super) fn catch_up(&mut self, id: ConnectionId, connections: &mut ConnectionTable, ctx: &Context) {
        let end = self.backlog.end();
        if let Some(subscription) = self.subscriptions.get_mut(&id)
            && subscription.position < end
        {
            let position = std::mem::replace(&mut subscription.position, end);
            connections.update(id, |connection| connection.send_backlog(position, &mut self.backlog, ctx));
        }
    }

    /// Sends a subscriber one message, after what it lacks of the backlog. Returns whether it was sent.
    pub(super) fn send(
        &mut self,
        id: ConnectionId,
        frame: &Frame,
        connections: &mut ConnectionTable,
        ctx: &Context,
    ) -> bool {
        self.catch_up(id, connections, ctx);
        connections.update(id, |connection| connection.send(frame, ctx)).unwrap_or_default()
    }

    /// Sends all subscribers a message, from now on and in turn. Returns their number.
    pub(super) fn send_all(&mut self, frame: Frame, connections: &ConnectionTable) -> u64 {
        let subscribers = self.subscriptions.keys().filter_map(|id| connections.get(*id));
        let open = subscribers.filter(|connection| connection.is_open()).count();
        if open > 0 {
            self.backlog.push(frame);
            self.fanout.get_or_insert(Fanout { next: 0, again: false }).again = true;
        }
        open as u64
    }

    /// Sends up to so many subscribers what they lack of the backlog.
    pub(super) fn fanout_step(&mut self, most: usize, connections: &mut ConnectionTable, ctx: &Context) {
        let Some(fanout) = &mut self.fanout else { return };
        if fanout.next == 0 {
            fanout.again = false;
        }
        let (end, mut sent) = (self.backlog.end(), 0);
        for (id, subscription) in self.subscriptions.range_mut(fanout.next..) {
            if sent == most {
                fanout.next = *id;
                return;
            }
            if subscription.position < end {
                let position = std::mem::replace(&mut subscription.position, end);
                connections
                    .update(*id, |connection| connection.send_backlog(position, &mut self.backlog, ctx));
                sent += 1;
            }
        }
        fanout.next = 0;
        if !fanout.again {
            self.fanout = None;
            self.backlog.clear();
        }
    }

    /// Sends a new subscriber `connected` and the state of its user. `last` is the last sequence of all channels.
    pub(super) fn greet(
        &mut self,
        id: ConnectionId,
        connected: Frame,
        last: u64,
        connections: &mut ConnectionTable,
        ctx: &Context,
    ) {
        let place = self.place(self.sequence(last));
        connections.update(id, |connection| {
            let state = state_for(self.shown.as_ref(), connection.user(), &ctx.projection, place);
            connection.greet([connected, state], ctx);
        });
    }

    /// Sends a subscriber the state of its user. `last` is the last sequence of all channels.
    pub(super) fn send_state(
        &mut self,
        id: ConnectionId,
        last: u64,
        connections: &mut ConnectionTable,
        ctx: &Context,
    ) {
        let place = self.place(self.sequence(last));
        let Some(connection) = connections.get(id) else { return };
        let state = state_for(self.shown.as_ref(), connection.user(), &ctx.projection, place);
        self.send(id, &state, connections, ctx);
    }

    /// Sends creators and team a message. Returns how many messages were sent.
    pub(super) fn send_staff(
        &mut self,
        message: &ServerMessage<'_>,
        connections: &mut ConnectionTable,
        ctx: &Context,
    ) -> u64 {
        let staff = self.subscriptions.iter().filter(|(_, subscription)| subscription.staff);
        let staff: Vec<_> = staff.map(|(id, _)| *id).collect();
        if staff.is_empty() {
            return 0;
        }
        let frame = message.frame();
        staff.into_iter().map(|id| u64::from(self.send(id, &frame, connections, ctx))).sum()
    }

    fn show(&mut self, active: Option<Active>, sequence: u64) {
        let before = std::mem::replace(&mut self.shown, active);
        if in_log(sequence).is_none() {
            self.replaced_alone.extend(before.map(|before| before.broadcast.id));
        }
    }

    /// Shows a new broadcast.
    pub(super) fn activate(&mut self, active: &Active, connections: &ConnectionTable) -> u64 {
        let (broadcast, sequence) = (&*active.broadcast, active.sequence);
        let place = self.place(sequence);
        let frame = ServerMessage::NewBroadcast { broadcast: broadcast.into(), place }.frame();
        self.show(Some(active.clone()), sequence);
        self.send_all(frame, connections)
    }

    /// Clears the shown broadcast.
    pub(super) fn clear(
        &mut self,
        id: BroadcastId,
        reason: EndReason,
        sequence: u64,
        connections: &ConnectionTable,
    ) -> u64 {
        self.show(None, sequence);
        let frame = ServerMessage::cleared(Some(id), reason, self.place(sequence)).frame();
        self.send_all(frame, connections)
    }

    /// Shows what is active by the log, unless that is what is shown. Returns how many messages are sent to all.
    pub(super) fn settle(
        &mut self,
        active: Option<Active>,
        sequence: u64,
        connections: &ConnectionTable,
    ) -> u64 {
        let sent = match (&self.shown, active) {
            (Some(shown), Some(active)) if shown.broadcast.announces_the_same(&active.broadcast) => {
                self.shown = Some(active);
                0
            }
            (_, Some(active)) => {
                self.activate_late(active, sequence);
                0
            }
            (Some(shown), None) => self.clear(shown.broadcast.id, EndReason::Cleared, sequence, connections),
            (None, None) => 0,
        };
        self.replaced_alone.clear();
        sent
    }
}
