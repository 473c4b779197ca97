//! A shard: one task that owns its share of the connections, and writes to their sockets itself.
//!
//! It learns of events and of attaching connections in one order, so a connection gets a snapshot and then everything
//! after it: no gap and no double by construction. What all subscribers are sent goes out in steps. Between two of them the
//! shard takes in what has come meanwhile, so that it goes out joined to what the rest still lack.

mod acks;
mod fanout;
mod socket_io;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::ack_traffic::AckTraffic;
use super::attach::{Attached, Connecting, ConnectionId, STREAM_QUEUE, Upgraded};
use super::client::Refreshed;
use super::connection::{Connection, Transport, user_hash};
use super::connection_table::ConnectionTable;
use super::context::Context;
use super::counts::Counts;
use super::drain::{Drain, next_tick, retry_after_ms};
use super::local::Local;
use super::mode::ModeNotifier;
use super::sockets::Sockets;
use super::subscribers::ChannelSubscribers;
use super::wire::{Close, ServerMessage};
use crate::crash_point::CrashPoint;
use crate::domain::Channel;
use crate::metrics::{ByChannel, gauge};
use crate::projection::Announcement;
use crate::submit::{self, AckReply};

/// Creators and team get new counts at most this often.
const STATS_EVERY: Duration = Duration::from_secs(2);

/// Subscribers of each channel that are sent something in one step, before the loop looks at its other sources.
const FANOUT_STEP: usize = 256;

/// Requests that are answered before that.
const ANSWERED_AT_ONCE: usize = 256;

/// Announcements that are taken in before that.
const ANNOUNCED_AT_ONCE: usize = 256;

/// A request to a shard.
pub(super) enum Request {
    Attach(Connecting, oneshot::Sender<Result<Attached, Close>>),
    Adopt(Connecting, Upgraded),
    Detach(ConnectionId),
    SendState(ConnectionId),
    Refreshed(ConnectionId, Refreshed),
    AckReplies(Vec<AckReply>),
    Drain(Duration, oneshot::Sender<()>),
    Release(Duration),
    Resume,
}

pub(super) struct Shard {
    /// Its number, and the number of shards.
    number: (usize, usize),
    channels: Vec<ChannelSubscribers>,
    connections: ConnectionTable,
    /// The last sequence of the log that was announced.
    sequence: u64,
    /// Connections that were attached since the start, the rejected ones included.
    attached: u64,
    ctx: Context,
    counts: watch::Receiver<BTreeMap<Channel, Counts>>,
    mode: ModeNotifier,
    local: Arc<Local>,
    drain: Option<Drain>,
    sockets: Sockets,
    acks: AckTraffic,
}

impl Shard {
    /// Within a runtime.
    pub(super) fn new(
        number: (usize, usize),
        channels: &[Channel],
        ctx: Context,
        local: Arc<Local>,
        counts: watch::Receiver<BTreeMap<Channel, Counts>>,
        modes: watch::Receiver<submit::mode::Mode>,
    ) -> io::Result<Self> {
        Ok(Self {
            number,
            channels: channels.iter().cloned().map(ChannelSubscribers::new).collect(),
            connections: ConnectionTable::default(),
            sequence: 0,
            attached: 0,
            ctx,
            counts,
            mode: ModeNotifier::new(modes),
            local,
            drain: None,
            sockets: Sockets::new()?,
            acks: AckTraffic::default(),
        })
    }

    /// Until the projection or the last handle is gone.
    pub(super) async fn run(
        mut self,
        inbox: mpsc::WeakSender<Request>,
        mut requests: mpsc::Receiver<Request>,
        mut announcements: mpsc::Receiver<Announcement>,
    ) {
        let mut stats = interval(STATS_EVERY);
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_busy =
                self.is_sending() || !self.sockets.unread.is_empty() || !self.acks.replies.is_empty();
            tokio::select! {
                biased;
                // What the clock asks for comes first: it is ready seldom, and could wait for ever behind what always is.
                _ = stats.tick() => {
                    self.send_stats();
                    self.count_waiting();
                }
                () = self.mode.due() => self.send_mode(),
                () = next_tick(&mut self.drain) => self.drain_some(),
                // Before requests, so that who attaches after an event was announced gets the state with it.
                announcement = announcements.recv(), if !self.is_full() => {
                    let Some(first) = announcement else { return };
                    self.announce(first);
                    for _ in 1..ANNOUNCED_AT_ONCE {
                        if self.is_full() {
                            break;
                        }
                        let Ok(next) = announcements.try_recv() else { break };
                        self.announce(next);
                    }
                }
                request = requests.recv() => {
                    let Some(first) = request else { return };
                    self.answer(first, &inbox);
                    for _ in 1..ANSWERED_AT_ONCE {
                        let Ok(next) = requests.try_recv() else { break };
                        self.answer(next, &inbox);
                    }
                }
                () = self.sockets.wait_for_readiness() => {}
                () = self.sockets.wait_for_deadline(&self.ctx.clock) => {}
                () = yield_now(), if is_busy => {}
            }
            self.serve(&inbox);
        }
    }

    /// What every round does, whatever came in: a step of the fan-out and of the replies, and the sockets and timers that are due.
    fn serve(&mut self, inbox: &mpsc::WeakSender<Request>) {
        self.fanout_step(FANOUT_STEP);
        self.send_ack_replies(FANOUT_STEP);
        self.poll_sockets(inbox);
        self.run_timers(inbox);
        self.submit_acks(inbox);
        self.rearm_dirty();
    }

    fn answer(&mut self, request: Request, inbox: &mpsc::WeakSender<Request>) {
        match request {
            Request::Attach(who, reply) => {
                let attached = self.attach(&who);
                if let Err(Ok(unclaimed)) = reply.send(attached) {
                    self.remove(unclaimed.id);
                }
            }
            Request::Adopt(who, upgraded) => self.adopt(&who, upgraded, inbox),
            Request::Detach(id) => self.remove(id),
            Request::SendState(id) => self.send_state(id),
            Request::Refreshed(id, refreshed) => self.refreshed(id, refreshed),
            Request::AckReplies(replies) => self.acks.replies.extend(replies),
            Request::Drain(over, reply) => {
                self.begin_drain(over).done.push(reply);
                self.finish_drain();
            }
            Request::Release(over) => {
                self.begin_drain(over);
            }
            // A drain with a caller that waits is that of a replica that stops.
            Request::Resume => drop(self.drain.take_if(|drain| drain.done.is_empty())),
        }
    }

    /// A new id. Those of a shard are its number and what is equal to it, modulo the number of shards.
    fn next_id(&mut self) -> ConnectionId {
        self.attached += 1;
        let (number, of) = self.number;
        self.attached * of as u64 + number as u64
    }

    /// Admits a connection to a channel, whose index is returned, if there is room.
    fn admit(&self, channel: &Channel) -> Result<usize, Close> {
        CrashPoint::BeforeAttach.reached();
        if self.drain.is_some() {
            return Err(Close::Restart { retry_after_ms: retry_after_ms(self.attached) });
        }
        let channel = self.channels.iter().position(|known| known.name == *channel).ok_or(Close::Full)?;
        if self.local.enter() { Ok(channel) } else { Err(Close::Full) }
    }

    fn attach(&mut self, who: &Connecting) -> Result<Attached, Close> {
        let channel = self.admit(&who.channel)?;
        let id = self.next_id();
        let (sender, outgoing) = mpsc::channel(STREAM_QUEUE);
        let (close, closed) = oneshot::channel();
        let user = who.user.clone();
        let transport = Transport::EventStream { user, outgoing: sender, close: Some(close) };
        self.add(id, channel, transport, who);
        Ok(Attached { id, outgoing, close: closed })
    }

    /// Adds a connection that was admitted, and sends it the state on connect. It is counted first, so that the counts that it
    /// receives include it.
    fn add(&mut self, id: ConnectionId, index: usize, transport: Transport, who: &Connecting) {
        self.connections.insert(id, Connection::new(Some(index), transport));
        let channel = &mut self.channels[index];
        if channel.subscribe(id, &who.user, who.staff)
            && let Some(local) = self.local.channels.get(&channel.name)
        {
            local.user_came(self.number.0, user_hash(&who.user));
        }
        self.count(index);
        let channel = &mut self.channels[index];
        let place = channel.place(channel.sequence(self.sequence));
        let connected = ServerMessage::connected(place, self.mode.last_sent(), who.heartbeat_seconds).frame();
        channel.greet(id, connected, self.sequence, &mut self.connections, &self.ctx);
    }

    /// Removes a connection that has ended.
    fn remove(&mut self, id: ConnectionId) {
        let Some(mut gone) = self.connections.remove(id) else { return };
        let Some(index) = gone.channel else {
            self.sockets.rejected -= 1;
            return;
        };
        let channel = &mut self.channels[index];
        if channel.unsubscribe(id, gone.user()) == Some(true)
            && let Some(local) = self.local.channels.get(&channel.name)
        {
            local.user_left(self.number.0, user_hash(gone.user()));
        }
        if let Some(client) = gone.client() {
            client.count_end(None, &self.ctx.metrics);
        }
        self.local.leave();
        self.count(index);
        self.finish_drain();
    }

    /// The channel that a connection follows.
    fn channel_of(&self, id: ConnectionId) -> Option<usize> {
        self.connections.get(id)?.channel
    }

    /// Sends a connection what it lacks of its channel's backlog.
    fn catch_up(&mut self, id: ConnectionId) {
        if let Some(channel) = self.channel_of(id) {
            self.channels[channel].catch_up(id, &mut self.connections, &self.ctx);
        }
    }

    /// Sends a connection the state of its channel.
    fn send_state(&mut self, id: ConnectionId) {
        if let Some(channel) = self.channel_of(id) {
            self.channels[channel].send_state(id, self.sequence, &mut self.connections, &self.ctx);
        }
    }

    /// Updates the counts of a channel in the sums of all shards.
    fn count(&mut self, index: usize) {
        let channel = &mut self.channels[index];
        let (connections, users) = channel.count();
        let counted = &mut channel.counted;
        if let Some(local) = self.local.channels.get(&channel.name) {
            move_by(&local.connections, counted.connections, connections);
            move_by(&local.users, counted.users, users);
        }
        let gauge = self.ctx.metrics.connections.get_or_create(&ByChannel::from(&channel.name));
        shift(&gauge, counted.connections, connections);
        (counted.connections, counted.users) = (connections, users);
        self.local.changed.notify_one();
    }

    fn subscriptions(&self) -> usize {
        self.channels.iter().map(|channel| channel.count().0).sum()
    }

    fn begin_drain(&mut self, over: Duration) -> &mut Drain {
        let subscriptions = self.subscriptions();
        self.drain.get_or_insert_with(|| Drain::new(Instant::now(), over, subscriptions))
    }

    /// Closes the connections that are due, those first that came first.
    fn drain_some(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let due = drain.due(Instant::now());
        let open = self.connections.iter().filter(|(_, connection)| connection.is_open());
        for id in open.map(|(id, _)| id).take(due).collect::<Vec<_>>() {
            self.close(id, Close::Restart { retry_after_ms: retry_after_ms(id) });
        }
    }

    /// Closes a connection, after what it lacks of its channel's backlog.
    fn close(&mut self, id: ConnectionId, why: Close) {
        self.catch_up(id);
        let ctx = &self.ctx;
        self.connections.update(id, |connection| connection.close(why, ctx));
    }

    fn finish_drain(&mut self) {
        if self.subscriptions() == 0
            && let Some(drain) = &mut self.drain
        {
            for done in drain.done.drain(..) {
                let _ = done.send(());
            }
        }
    }
}

/// Moves a sum by what one part of it has changed.
fn move_by(sum: &AtomicU64, before: usize, now: usize) {
    sum.fetch_add((now as u64).wrapping_sub(before as u64), Ordering::Relaxed);
}

fn shift(sum: &Gauge, before: usize, now: usize) {
    sum.inc_by(gauge(now) - gauge(before));
}

#[cfg(test)]
mod tests;
