//! A room: the connections of one channel, what they were last shown, and what they are told next.

use std::collections::{BTreeMap, HashSet};

use tokio::sync::{mpsc, oneshot};

use super::heartbeat::{Connected, Counts};
use super::hub::{ConnectionId, Outgoing};
use super::wire::{BroadcastView, Close, ConnectedStats, Frame, Place, ServerMessage};
use crate::domain::{Acknowledgement, Broadcast, BroadcastId, EndReason, UserId, in_log};
use crate::metrics::Metrics;
use crate::projection::{Active, Projection};

/// One connection, from the server's side.
pub(super) struct Connection {
    pub(super) user: UserId,
    pub(super) staff: bool,
    pub(super) outgoing: mpsc::Sender<Outgoing>,
    pub(super) close: Option<oneshot::Sender<Close>>,
}

/// A channel's connections and what they were last shown. Both maps are ordered: who came first is told first, always.
#[derive(Default)]
pub(super) struct Room {
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) users: BTreeMap<UserId, Present>,
    pub(super) shown: Option<Active>,
    /// What was shown until something that is not in the log took its place: the log may bring it back, and everybody was
    /// told of it as new already.
    replaced_alone: HashSet<BroadcastId>,
    /// What creators and team were told last; `None` when one of them knows nothing yet.
    pub(super) told: Option<ConnectedStats>,
}

/// A user with at least one connection.
pub(super) struct Present {
    /// The user's 64-bit name in heartbeats.
    pub(super) hash: u64,
    pub(super) connections: Vec<ConnectionId>,
}

/// What this user should see: what is shown, unless they have acknowledged it.
fn active_for(shown: Option<&Active>, user: &UserId, projection: &Projection, sequence: u64) -> Frame {
    let acknowledged =
        |active: &Active| projection.read(|view| view.acknowledged_at(active.broadcast.id, user)).is_some();
    let broadcast =
        shown.filter(|active| !acknowledged(active)).map(|active| BroadcastView::from(&active.broadcast));
    ServerMessage::ActiveBroadcast { broadcast, sequence }.frame()
}

impl Connection {
    /// Queues a message. A full queue ends the connection: on reconnect the state on connect makes it whole.
    pub(super) fn send(&mut self, outgoing: Outgoing, metrics: &Metrics) -> bool {
        let sent = self.outgoing.try_send(outgoing);
        if let Err(mpsc::error::TrySendError::Full(_)) = sent
            && self.end(Close::Slow)
        {
            metrics.slow_clients.inc();
        }
        sent.is_ok()
    }

    pub(super) fn end(&mut self, why: Close) -> bool {
        self.close.take().is_some_and(|close| close.send(why).is_ok())
    }
}

impl Room {
    pub(super) fn add(&mut self, id: ConnectionId, connection: Connection) {
        if connection.staff {
            self.told = None;
        }
        let present = self.users.entry(connection.user.clone());
        let present =
            present.or_insert_with_key(|user| Present { hash: user_hash(user), connections: vec![] });
        present.connections.push(id);
        self.connections.insert(id, connection);
    }

    /// How many are connected, with those of this replica at this moment.
    pub(super) fn connected(&self, counts: Counts) -> Connected {
        counts.with_local(self.connections.len() as u64, self.users.len() as u64)
    }

    /// Messages in the connections' queues, and connections whose queue is half full or more.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let queues = self.connections.values().map(|connection| &connection.outgoing);
        let waiting = queues.map(|queue| (queue.max_capacity() - queue.capacity(), queue.max_capacity()));
        waiting.fold((0, 0), |(messages, lagging), (waiting, most)| {
            (messages + waiting, lagging + usize::from(waiting * 2 >= most))
        })
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.remove(&id) else { return false };
        if let Some(present) = self.users.get_mut(&connection.user) {
            present.connections.retain(|known| *known != id);
            if present.connections.is_empty() {
                self.users.remove(&connection.user);
            }
        }
        true
    }

    /// Sends one connection what is active for its user.
    pub(super) fn send_active(
        &mut self,
        id: ConnectionId,
        projection: &Projection,
        metrics: &Metrics,
        sequence: u64,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // While the projection is rebuilt it does not know who acknowledged; `resync` follows when it does.
        let frame = if projection.position().serving {
            active_for(self.shown.as_ref(), &connection.user, projection, sequence)
        } else {
            let message = "This replica is still reading the event log.".to_owned();
            ServerMessage::Error { code: "catching_up", message, broadcast_id: None }.frame()
        };
        connection.send(Outgoing::Frame(frame), metrics);
    }

    pub(super) fn send_all(&mut self, outgoing: &Outgoing, metrics: &Metrics) -> u64 {
        let sent =
            self.connections.values_mut().filter_map(|c| c.send(outgoing.clone(), metrics).then_some(()));
        sent.count() as u64
    }

    pub(super) fn send_staff(&mut self, message: &ServerMessage<'_>, metrics: &Metrics) -> u64 {
        let staff = self.connections.values_mut().filter(|connection| connection.staff);
        let mut frame = None;
        let mut sent = 0;
        for connection in staff {
            let frame = frame.get_or_insert_with(|| message.frame());
            sent += u64::from(connection.send(Outgoing::Frame(frame.clone()), metrics));
        }
        sent
    }

    fn show(&mut self, active: Option<Active>, sequence: u64) {
        let before = std::mem::replace(&mut self.shown, active);
        if in_log(sequence).is_none() {
            self.replaced_alone.extend(before.map(|before| before.broadcast.id));
        }
    }

    pub(super) fn activate(&mut self, broadcast: &Broadcast, sequence: u64, metrics: &Metrics) -> u64 {
        let frame =
            ServerMessage::NewBroadcast { broadcast: broadcast.into(), place: Place::of(sequence) }.frame();
        self.show(Some(Active { broadcast: broadcast.clone(), sequence }), sequence);
        self.send_all(&Outgoing::Frame(frame), metrics)
    }

    /// Takes down what is shown.
    pub(super) fn take_down(
        &mut self,
        id: BroadcastId,
        reason: EndReason,
        sequence: u64,
        metrics: &Metrics,
    ) -> u64 {
        self.show(None, sequence);
        let frame = ServerMessage::cleared(Some(id), reason, sequence).frame();
        self.send_all(&Outgoing::Frame(frame), metrics)
    }

    /// Shows what is active now, if that is something else than what is shown. Says how many messages went out.
    pub(super) fn settle(
        &mut self,
        active: Option<Active>,
        projection: &Projection,
        sequence: u64,
        metrics: &Metrics,
    ) -> u64 {
        let sent = match (&self.shown, active) {
            (Some(shown), Some(active)) if shown.broadcast.announces_the_same(&active.broadcast) => {
                self.shown = Some(active);
                0
            }
            (_, Some(active)) => self.activate_late(active, projection, sequence, metrics),
            (Some(shown), None) => self.take_down(shown.broadcast.id, EndReason::Cleared, sequence, metrics),
            (None, None) => 0,
        };
        self.replaced_alone.clear();
        sent
    }

    /// Shows what became active while it was held back, or is active again. Nobody is told of it as new twice, and those
    /// who acknowledged it meanwhile, through another replica, are not shown it, but must not keep what they see either.
    fn activate_late(
        &mut self,
        active: Active,
        projection: &Projection,
        sequence: u64,
        metrics: &Metrics,
    ) -> u64 {
        let place = Place::of(active.sequence);
        let new = ServerMessage::NewBroadcast { broadcast: (&active.broadcast).into(), place }.frame();
        let again =
            ServerMessage::ActiveBroadcast { broadcast: Some((&active.broadcast).into()), sequence }.frame();
        let nothing = ServerMessage::ActiveBroadcast { broadcast: None, sequence }.frame();
        let told = if self.replaced_alone.contains(&active.broadcast.id) { &again } else { &new };
        let mut sent = 0;
        for (user, present) in &self.users {
            let known = projection.read(|view| view.acknowledged_at(active.broadcast.id, user)).is_some();
            let frame = if known { &nothing } else { told };
            for id in &present.connections {
                if let Some(connection) = self.connections.get_mut(id) {
                    sent += u64::from(connection.send(Outgoing::Frame(frame.clone()), metrics));
                }
            }
        }
        self.shown = Some(active);
        sent
    }

    /// Tells the other connections of those who acknowledged.
    pub(super) fn notice(
        &mut self,
        id: BroadcastId,
        new: &[Acknowledgement],
        sequence: u64,
        metrics: &Metrics,
    ) -> u64 {
        let mut frame = None;
        let mut sent = 0;
        for Acknowledgement { user, .. } in new {
            for connection in self.users.get(user).into_iter().flat_map(|present| &present.connections) {
                let frame = frame.get_or_insert_with(|| {
                    ServerMessage::BroadcastAcknowledged { broadcast_id: id, place: Place::of(sequence) }
                        .frame()
                });
                if let Some(connection) = self.connections.get_mut(connection) {
                    sent += u64::from(connection.send(Outgoing::Notice(id, frame.clone()), metrics));
                }
            }
        }
        sent
    }

    /// The state was rebuilt: everyone forgets what they have and gets the state on connect.
    pub(super) fn resync(
        &mut self,
        before: Option<&Active>,
        projection: &Projection,
        metrics: &Metrics,
        sequence: u64,
    ) {
        if self.connections.is_empty() {
            return;
        }
        let resync = ServerMessage::Resync { sequence }.frame();
        let gone = before.map(|active| active.broadcast.id);
        let cleared = ServerMessage::cleared(gone, EndReason::Cleared, sequence).frame();
        for connection in self.connections.values_mut() {
            let active = active_for(self.shown.as_ref(), &connection.user, projection, sequence);
            connection.send(Outgoing::Frame(resync.clone()), metrics);
            connection.send(Outgoing::Frame(active), metrics);
            if self.shown.is_none() {
                connection.send(Outgoing::Frame(cleared.clone()), metrics);
            }
        }
    }
}

/// The 64-bit name of a user in heartbeats.
fn user_hash(user: &UserId) -> u64 {
    let [high, low] = [64, 0].map(|shift| u64::try_from(user.fingerprint() >> shift & u128::from(u64::MAX)));
    high.unwrap_or_default() ^ low.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_and_so_is_who_lags() {
        let metrics = Metrics::default();
        let frame = ServerMessage::Resync { sequence: 1 }.frame();
        let mut room = Room::default();
        let mut unread = Vec::new();
        for (id, waiting) in (1..).zip([0, 3, 4, 8]) {
            let (outgoing, receiver) = mpsc::channel(8);
            let (close, _) = oneshot::channel();
            let user = "ann".parse().unwrap();
            let mut connection = Connection { user, staff: false, outgoing, close: Some(close) };
            for _ in 0..waiting {
                assert!(connection.send(Outgoing::Frame(frame.clone()), &metrics));
            }
            room.add(id, connection);
            unread.push(receiver);
        }
        assert_eq!(room.waiting(), (15, 2));
        unread[3].try_recv().unwrap();
        assert_eq!(room.waiting(), (14, 2));
        room.remove(4);
        assert_eq!(room.waiting(), (7, 1));
    }
}
