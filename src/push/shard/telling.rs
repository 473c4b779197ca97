//! What a shard tells its connections: what the projection announces, the mode, and counts to creators and team.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Floor, Shard, floor_of, shift};
use crate::domain::{Change, SentTo, in_log};
use crate::metrics::ByChannel;
use crate::projection::{Announcement, Changed};
use crate::push::counts::Accuracy;
use crate::push::report::report;
use crate::push::room::personal::Step;
use crate::push::wire::{ConnectedStats, ServerMessage};

impl Shard {
    /// Whether somebody may lack something that everybody is told.
    pub(super) fn is_telling(&self) -> bool {
        self.floors.iter().any(|floor| floor.room.is_telling())
    }

    /// Whether the projection has to wait.
    pub(super) fn has_much_to_tell(&self) -> bool {
        self.floors.iter().any(|floor| floor.room.has_much_to_tell())
    }

    pub(super) fn announce(&mut self, announcement: Announcement) {
        match announcement {
            Announcement::Snapshot { epoch, sequence, active } => {
                self.sequence = sequence;
                let mut active: HashMap<_, _> = active.iter().cloned().collect();
                for Floor { channel, room, .. } in &mut self.floors {
                    room.epoch = Some(epoch);
                    let before = std::mem::replace(&mut room.shown, active.remove(channel));
                    room.resync(before.as_ref(), sequence);
                }
            }
            Announcement::Changed(changed) => {
                self.sequence = in_log(changed.sequence).unwrap_or(self.sequence);
                self.tell(&changed);
            }
            Announcement::Settled { sequence, active } => {
                self.sequence = sequence;
                let mut active: HashMap<_, _> = active.iter().cloned().collect();
                for Floor { channel, room, .. } in &mut self.floors {
                    let delivered = room.settle(active.remove(channel), sequence);
                    self.means
                        .metrics
                        .deliveries
                        .get_or_create(&ByChannel::from(&*channel))
                        .inc_by(delivered);
                }
            }
        }
    }

    fn tell(&mut self, changed: &Arc<Changed>) {
        let Changed { sequence, ref channel, ref change, ref activated, .. } = **changed;
        let is_first = self.number.0 == 0;
        let (means, label) = (&self.means, ByChannel::from(channel));
        let Some(Floor { room, .. }) = floor_of(&mut self.floors, channel) else { return };
        let delivered = match change {
            Change::Activated { id, .. } => {
                let Some(active) = activated else { return };
                if is_first {
                    means.metrics.broadcasts.get_or_create(&label).inc();
                }
                let delivered = room.activate(active);
                let counts = self.counts.borrow().get(channel).copied().unwrap_or_default();
                let local = in_log(sequence).is_none();
                let SentTo { users, connections, approximate } =
                    self.local.connected(channel, counts).audience().sent_to(local);
                let sent = ServerMessage::BroadcastSent {
                    broadcast_id: *id,
                    sent_to_users: users,
                    sent_to_connections: connections,
                    approximate,
                    place: room.place(sequence),
                };
                delivered + room.send_staff(&sent, means)
            }
            Change::Ended { id, reason } => room.take_down(*id, *reason, sequence),
            Change::Acknowledged { id, new } => {
                if is_first {
                    means.metrics.acks.get_or_create(&label).inc_by(new.len() as u64);
                }
                // It is reported when everybody has been told.
                return room.notice(*id, changed.clone());
            }
            Change::RecordedLate { .. } | Change::Nothing => 0,
        };
        means.metrics.deliveries.get_or_create(&label).inc_by(delivered);
        if is_first {
            // Of all shards: one line an event is enough.
            let everybody = matches!(change, Change::Activated { .. } | Change::Ended { .. });
            report(changed, if everybody { self.local.of(channel).0 } else { delivered });
        }
    }

    /// Goes on with what is told to many: to up to so many connections of each channel.
    pub(super) fn tell_some(&mut self, most: usize) {
        let is_first = self.number.0 == 0;
        for Floor { channel, room, .. } in &mut self.floors {
            room.tell_some(most, &self.means);
            let Step { sent, told } = room.tell_personally(most, &self.means);
            if sent > 0 {
                self.means.metrics.deliveries.get_or_create(&ByChannel::from(&*channel)).inc_by(sent);
            }
            if let Some((changed, sent)) = told.filter(|_| is_first) {
                report(&changed, sent);
            }
        }
    }

    pub(super) fn tell_staff(&mut self) {
        let counts = self.counts.borrow();
        for Floor { channel, room, .. } in &mut self.floors {
            let known = self.local.connected(channel, counts.get(channel).copied().unwrap_or_default());
            let now = ConnectedStats {
                connected_users: known.users,
                connections: known.connections,
                replicas: known.replicas,
                approximate: known.accuracy != Accuracy::Exact,
            };
            if Some(now) != room.told {
                room.told = Some(now);
                room.send_staff(&ServerMessage::StatsUpdate { stats: now }, &self.means);
            }
        }
    }

    /// What waits for connections. Looked at now and then, so that deliveries need not count.
    pub(super) fn count_waiting(&mut self) {
        let metrics = &self.means.metrics;
        for Floor { channel, room, counted } in &mut self.floors {
            let (waiting, lagging) = room.waiting(&self.means.limits);
            let label = ByChannel::from(&*channel);
            shift(&metrics.messages_waiting.get_or_create(&label), counted.waiting, waiting);
            shift(&metrics.lagging_connections.get_or_create(&label), counted.lagging, lagging);
            (counted.waiting, counted.lagging) = (waiting, lagging);
        }
    }

    pub(super) fn tell_mode(&mut self) {
        let frame = self.mode.tell();
        for floor in &mut self.floors {
            floor.room.tell_all(frame.clone());
        }
    }
}
