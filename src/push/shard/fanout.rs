//! What a shard sends to many: the announcements of the projection, the mode, and counts to creators and team.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Shard, shift};
use crate::domain::{Change, Channel, SentTo, in_log};
use crate::metrics::ByChannel;
use crate::projection::{Announcement, Changed};
use crate::push::connection_table::ConnectionTable;
use crate::push::context::Context;
use crate::push::counts::{Accuracy, Counts};
use crate::push::individual::Step;
use crate::push::local::Local;
use crate::push::report::report;
use crate::push::subscribers::{ChannelSubscribers, Update};
use crate::push::wire::{ConnectedStats, ServerMessage};

/// What the updates of a channel are applied with.
struct Applying<'a> {
    /// Of all shards, the one that counts and logs what is the same on each.
    is_first: bool,
    connections: &'a mut ConnectionTable,
    counts: &'a BTreeMap<Channel, Counts>,
    local: &'a Local,
    ctx: &'a Context,
}

impl Shard {
    /// Whether subscribers are still to be sent something.
    pub(super) fn is_sending(&self) -> bool {
        self.channels.iter().any(ChannelSubscribers::is_sending)
    }

    /// Whether the projection has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.channels.iter().any(ChannelSubscribers::is_full)
    }

    /// Passes an announcement on to the channels that it concerns. Each applies it when its subscribers have what came before:
    /// so a burst on one channel does not delay another.
    pub(super) fn announce(&mut self, announcement: Announcement) {
        let before = self.sequence;
        match announcement {
            Announcement::Snapshot { epoch, sequence, active } => {
                self.sequence = sequence;
                let mut active: HashMap<_, _> = active.iter().cloned().collect();
                for channel in &mut self.channels {
                    let active = active.remove(&channel.name);
                    channel.push_update(Update::Snapshot { epoch, sequence, active }, before);
                }
            }
            Announcement::Changed(changed) => {
                self.sequence = in_log(changed.sequence).unwrap_or(self.sequence);
                let mut channels = self.channels.iter_mut();
                if let Some(channel) = channels.find(|channel| channel.name == changed.channel) {
                    channel.push_update(Update::Changed(changed), before);
                }
            }
            Announcement::Settled { sequence, active } => {
                self.sequence = sequence;
                let mut active: HashMap<_, _> = active.iter().cloned().collect();
                for channel in &mut self.channels {
                    let active = active.remove(&channel.name);
                    channel.push_update(Update::Settled { sequence, active }, before);
                }
            }
        }
    }

    /// Applies the updates of each channel, and sends what they bring to up to so many of its subscribers.
    pub(super) fn fanout_step(&mut self, most: usize) {
        let Self { number, channels, connections, counts, local, ctx, .. } = self;
        let counts = counts.borrow();
        let is_first = number.0 == 0;
        for channel in channels {
            while let Some(update) = channel.next_update() {
                let with = Applying { is_first, connections, counts: &counts, local, ctx };
                apply(channel, update, with);
            }
            channel.fanout_step(most, connections, ctx);
            let Step { sent, finished } = channel.individual_step(most, connections, ctx);
            if sent > 0 {
                ctx.metrics.deliveries.get_or_create(&ByChannel::from(&channel.name)).inc_by(sent);
            }
            if let Some((changed, sent)) = finished.filter(|_| is_first) {
                report(&changed, sent);
            }
        }
    }

    pub(super) fn send_stats(&mut self) {
        let counts = self.counts.borrow();
        for channel in &mut self.channels {
            let counts = counts.get(&channel.name).copied().unwrap_or_default();
            let connected = self.local.connected(&channel.name, counts);
            let stats = ConnectedStats {
                connected_users: connected.users,
                connections: connected.connections,
                replicas: connected.replicas,
                approximate: connected.accuracy != Accuracy::Exact,
            };
            if Some(stats) != channel.last_stats {
                channel.last_stats = Some(stats);
                let message = ServerMessage::StatsUpdate { stats };
                channel.send_staff(&message, &mut self.connections, &self.ctx);
            }
        }
    }

    /// Counts what waits for connections, now and then: so deliveries need not count.
    pub(super) fn count_waiting(&mut self) {
        let metrics = &self.ctx.metrics;
        for channel in &mut self.channels {
            let (waiting, lagging) = channel.waiting(&self.connections, &self.ctx);
            let label = ByChannel::from(&channel.name);
            let counted = &mut channel.counted;
            shift(&metrics.messages_waiting.get_or_create(&label), counted.waiting, waiting);
            shift(&metrics.lagging_connections.get_or_create(&label), counted.lagging, lagging);
            (counted.waiting, counted.lagging) = (waiting, lagging);
        }
    }

    pub(super) fn send_mode(&mut self) {
        let frame = self.mode.next_frame();
        for channel in &mut self.channels {
            channel.send_all(frame.clone(), &self.connections);
        }
    }
}

fn apply(channel: &mut ChannelSubscribers, update: Update, with: Applying<'_>) {
    match update {
        Update::Snapshot { epoch, sequence, active } => {
            channel.epoch = Some(epoch);
            let before = std::mem::replace(&mut channel.shown, active);
            channel.resync(before.as_ref(), sequence);
        }
        Update::Changed(changed) => apply_change(channel, &changed, with),
        Update::Settled { sequence, active } => {
            let delivered = channel.settle(active, sequence, with.connections);
            let label = ByChannel::from(&channel.name);
            with.ctx.metrics.deliveries.get_or_create(&label).inc_by(delivered);
        }
    }
}

fn apply_change(channel: &mut ChannelSubscribers, changed: &Arc<Changed>, with: Applying<'_>) {
    let Changed { sequence, ref change, ref activated, .. } = **changed;
    let Applying { is_first, connections, counts, local, ctx } = with;
    let (metrics, label) = (&ctx.metrics, ByChannel::from(&channel.name));
    let delivered = match change {
        Change::Activated { id, .. } => {
            let Some(active) = activated else { return };
            if is_first {
                metrics.broadcasts.get_or_create(&label).inc();
            }
            let delivered = channel.activate(active, connections);
            let counts = counts.get(&channel.name).copied().unwrap_or_default();
            let is_local = in_log(sequence).is_none();
            let SentTo { users, connections: sent_to, approximate } =
                local.connected(&channel.name, counts).audience().sent_to(is_local);
            let sent = ServerMessage::BroadcastSent {
                broadcast_id: *id,
                sent_to_users: users,
                sent_to_connections: sent_to,
                approximate,
                place: channel.place(sequence),
            };
            delivered + channel.send_staff(&sent, connections, ctx)
        }
        Change::Ended { id, reason } => channel.clear(*id, *reason, sequence, connections),
        Change::Acknowledged { id, new } => {
            if is_first {
                metrics.acks.get_or_create(&label).inc_by(new.len() as u64);
            }
            // It is logged after the last notice.
            return channel.notify_acknowledged(*id, changed.clone());
        }
        Change::RecordedLate { .. } | Change::Nothing => 0,
    };
    metrics.deliveries.get_or_create(&label).inc_by(delivered);
    if is_first {
        // Of all shards: one line for each event is enough.
        let to_all = matches!(change, Change::Activated { .. } | Change::Ended { .. });
        report(changed, if to_all { local.of(&channel.name).0 } else { delivered });
    }
}
