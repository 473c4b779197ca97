//! A room: the connections of one channel, what they were last shown, and what they are told next.

pub(super) mod personal;

use std::collections::HashSet;

use super::client::{Limits, Refreshed};
use super::connection::{Connection, Means};
use super::hub::{ConnectionId, Outgoing};
use super::roster::Roster;
use super::tape::Tape;
use super::users::Users;
use super::wire::{BroadcastView, Close, ConnectedStats, Frame, Place, ServerMessage};
use crate::domain::{BroadcastId, EndReason, UserId, in_log};
use crate::log::Epoch;
use crate::projection::{Active, Projection};
use crate::submit::AckReply;
use personal::Personal;

/// A channel's connections and what they were last shown. The connections are in order: who came first is told first, always.
#[derive(Default)]
pub(super) struct Room {
    pub(super) connections: Roster<Connection>,
    pub(super) users: Users,
    pub(super) shown: Option<Active>,
    /// The log in which sequences count; `None` before the first.
    pub(super) epoch: Option<Epoch>,
    /// What was shown until something that is not in the log took its place: the log may bring it back, and everybody was
    /// told of it as new already.
    replaced_alone: HashSet<BroadcastId>,
    /// What creators and team were told last; `None` when one of them knows nothing yet.
    pub(super) told: Option<ConnectedStats>,
    /// What everybody is told.
    tape: Tape,
    /// Where the telling is, while somebody may lack something of it.
    sweep: Option<Sweep>,
    /// What connections are told one by one, while that goes on.
    personal: Option<Personal>,
    /// Connections that have to be looked after sooner than before.
    pub(super) troubled: Vec<ConnectionId>,
}

/// A pass over the connections that tells each what it lacks.
struct Sweep {
    next: ConnectionId,
    /// Whether more was said when the pass had begun.
    again: bool,
}

/// What this user should see: what is shown, unless they have acknowledged it.
fn active_for(shown: Option<&Active>, user: &UserId, projection: &Projection, place: Place) -> Frame {
    let open = shown.filter(|active| !projection.has_acknowledged(active, user));
    let broadcast = open.map(|active| BroadcastView::from(&*active.broadcast));
    ServerMessage::ActiveBroadcast { broadcast, place }.frame()
}

/// The same, as soon as it is known: while the projection is rebuilt it does not know who acknowledged; `resync` follows when
/// it does.
fn state_for(shown: Option<&Active>, user: &UserId, projection: &Projection, place: Place) -> Frame {
    if projection.position().serving {
        return active_for(shown, user, projection, place);
    }
    let message = "This replica is still reading the event log.".to_owned();
    ServerMessage::Error { code: "catching_up", message, broadcast_id: None }.frame()
}

impl Room {
    /// The place of a sequence, which may stand for something that is not in the log yet.
    pub(super) const fn place(&self, sequence: u64) -> Place {
        Place::of(self.epoch, sequence)
    }

    /// Adds a connection. Whether it is the first of its user.
    pub(super) fn add(&mut self, id: ConnectionId, connection: Connection) -> bool {
        if connection.staff {
            self.told = None;
        }
        let is_first = self.users.add(connection.user(), id);
        self.connections.push(id, connection);
        is_first
    }

    /// Changes what a connection learns. Who knows nothing yet is told the numbers soon.
    fn set_staff(&mut self, id: ConnectionId, staff: bool) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if staff && !connection.staff {
            self.told = None;
        }
        connection.staff = staff;
    }

    /// Messages that wait for connections, and connections for which many do.
    pub(super) fn waiting(&self, limits: &Limits) -> (usize, usize) {
        let all = self.connections.values().map(|connection| connection.waiting(limits));
        all.fold((0, 0), |(messages, lagging), (waiting, lags)| {
            (messages + waiting, lagging + usize::from(lags))
        })
    }

    /// What is on the tape: who comes has it already.
    pub(super) const fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Removes a connection. Says whether it was the last of its user.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<(Box<Connection>, bool)> {
        let connection = self.connections.remove(id)?;
        let was_last = self.users.remove(connection.user(), id);
        Some((connection, was_last))
    }

    /// Ends up to so many connections that are open, those that came first. Says how many.
    pub(super) fn end_some(
        &mut self,
        most: usize,
        why: impl Fn(ConnectionId) -> Close,
        means: &Means,
    ) -> usize {
        let open = self.connections.iter_from_mut(0).filter(|(_, connection)| connection.is_open());
        let mut ended = 0;
        for (id, connection) in open.take(most) {
            connection.catch_up(&mut self.tape, means);
            connection.end(why(id), means);
            self.troubled.push(id);
            ended += 1;
        }
        ended
    }

    /// Ends one.
    pub(super) fn end(&mut self, id: ConnectionId, why: Close, means: &Means) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.end(why, means);
            self.troubled.push(id);
        }
    }

    /// A token of this connection was looked at.
    pub(super) fn refreshed(&mut self, id: ConnectionId, refreshed: Refreshed, means: &Means) {
        if let Ok(granted) = &refreshed {
            self.set_staff(id, granted.staff);
        }
        if let Some(connection) = self.connections.get_mut(id) {
            connection.refreshed(refreshed, &mut self.tape, means);
            if connection.is_troubled() {
                self.troubled.push(id);
            }
        }
    }

    /// Sends this connection the reply to an acknowledgement.
    pub(super) fn acknowledged(&mut self, id: ConnectionId, reply: &AckReply, frame: &Frame, means: &Means) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.acknowledged(reply, frame, &mut self.tape, means);
            if connection.is_troubled() {
                self.troubled.push(id);
            }
        }
    }

    /// Tells one connection something, after what everybody was told before. Whether it is told.
    pub(super) fn tell(&mut self, id: ConnectionId, outgoing: &Outgoing, means: &Means) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let told = connection.tell(outgoing, &mut self.tape, means);
        if connection.is_troubled() {
            self.troubled.push(id);
        }
        told
    }

    /// Tells everybody something, from now on and in turn. Says how many that are.
    pub(super) fn tell_all(&mut self, frame: Frame) -> u64 {
        let open = self.connections.values().filter(|connection| connection.is_open()).count();
        if open > 0 {
            self.tape.push(frame);
            self.sweep.get_or_insert(Sweep { next: 0, again: false }).again = true;
        }
        open as u64
    }

    /// Whether somebody may lack something that everybody is told.
    pub(super) const fn is_telling(&self) -> bool {
        self.sweep.is_some() || self.personal.is_some()
    }

    /// Whether nothing more should be said until everybody has what was.
    pub(super) const fn has_much_to_tell(&self) -> bool {
        self.tape.is_full() || self.personal.is_some()
    }

    /// Tells up to so many connections what they lack.
    pub(super) fn tell_some(&mut self, most: usize, means: &Means) {
        let Some(sweep) = &mut self.sweep else { return };
        if sweep.next == 0 {
            sweep.again = false;
        }
        let mut told = 0;
        for (id, connection) in self.connections.iter_from_mut(sweep.next) {
            if told == most {
                sweep.next = id;
                return;
            }
            if connection.lags(&self.tape) {
                connection.catch_up(&mut self.tape, means);
                told += 1;
                if connection.is_troubled() {
                    self.troubled.push(id);
                }
            }
        }
        sweep.next = 0;
        if !sweep.again {
            self.sweep = None;
            self.tape.clear();
        }
    }

    /// Says hello to a connection that has just come, and what is active for its user.
    pub(super) fn greet(&mut self, id: ConnectionId, hello: Frame, means: &Means, sequence: u64) {
        let place = self.place(sequence);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let active = state_for(self.shown.as_ref(), connection.user(), &means.projection, place);
        connection.greet([hello, active], means);
        if connection.is_troubled() {
            self.troubled.push(id);
        }
    }

    /// Sends one connection what is active for its user.
    pub(super) fn send_active(&mut self, id: ConnectionId, means: &Means, sequence: u64) {
        let place = self.place(sequence);
        let Some(connection) = self.connections.get(id) else { return };
        let active = state_for(self.shown.as_ref(), connection.user(), &means.projection, place);
        self.tell(id, &Outgoing::Frame(active), means);
    }

    pub(super) fn send_staff(&mut self, message: &ServerMessage<'_>, means: &Means) -> u64 {
        let staff = self.connections.iter().filter(|(_, connection)| connection.staff);
        let staff: Vec<_> = staff.map(|(id, _)| id).collect();
        if staff.is_empty() {
            return 0;
        }
        let frame = Outgoing::Frame(message.frame());
        staff.into_iter().map(|id| u64::from(self.tell(id, &frame, means))).sum()
    }

    fn show(&mut self, active: Option<Active>, sequence: u64) {
        let before = std::mem::replace(&mut self.shown, active);
        if in_log(sequence).is_none() {
            self.replaced_alone.extend(before.map(|before| before.broadcast.id));
        }
    }

    pub(super) fn activate(&mut self, active: &Active) -> u64 {
        let (broadcast, place) = ((&*active.broadcast).into(), self.place(active.sequence));
        let frame = ServerMessage::NewBroadcast { broadcast, place }.frame();
        self.show(Some(active.clone()), active.sequence);
        self.tell_all(frame)
    }

    /// Takes down what is shown.
    pub(super) fn take_down(&mut self, id: BroadcastId, reason: EndReason, sequence: u64) -> u64 {
        self.show(None, sequence);
        let frame = ServerMessage::cleared(Some(id), reason, self.place(sequence)).frame();
        self.tell_all(frame)
    }

    /// Shows what is active now, if that is something else than what is shown. Says how many messages go out to everybody.
    pub(super) fn settle(&mut self, active: Option<Active>, sequence: u64) -> u64 {
        let sent = match (&self.shown, active) {
            (Some(shown), Some(active)) if shown.broadcast.announces_the_same(&active.broadcast) => {
                self.shown = Some(active);
                0
            }
            (_, Some(active)) => {
                self.activate_late(active, sequence);
                0
            }
            (Some(shown), None) => self.take_down(shown.broadcast.id, EndReason::Cleared, sequence),
            (None, None) => 0,
        };
        self.replaced_alone.clear();
        sent
    }
}
