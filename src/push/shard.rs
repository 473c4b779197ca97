//! A shard: one task that owns its share of the connections, and writes to their sockets itself.
//!
//! It learns of events and of attaching connections in one order, so a connection gets a snapshot and then everything
//! after it: no gap and no double by construction. What everybody is told goes out in steps; between two of them the
//! shard takes in what has come meanwhile, so that it goes out joined to what the rest still lack.

mod acks;
mod attending;
mod telling;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::client::Refreshed;
use super::connection::{Connection, Means, user_hash};
use super::counts::Counts;
use super::drain::{Drain, next_tick, retry_after_ms};
use super::hub::{Attached, Connecting, ConnectionId, STREAM_QUEUE, Upgraded};
use super::local::Local;
use super::mode::Telling;
use super::room::Room;
use super::wire::{Close, ServerMessage};
use crate::crash_point::CrashPoint;
use crate::domain::{Channel, UserId};
use crate::metrics::{ByChannel, gauge};
use crate::projection::Announcement;
use crate::submit::{self, AckReply};
use acks::AckTraffic;
use attending::Sockets;

/// Creators and team are told of new counts at most this often.
const STATS_EVERY: Duration = Duration::from_secs(2);

/// Connections that are told what everybody is told, before the shard comes up for air.
const TOLD_AT_ONCE: usize = 256;

/// Requests that are answered before that.
const ANSWERED_AT_ONCE: usize = 256;

/// Announcements that are taken in before that.
const ANNOUNCED_AT_ONCE: usize = 256;

/// What is asked of a shard.
pub(super) enum Request {
    Attach(Connecting, oneshot::Sender<Result<Attached, Close>>),
    Adopt(Connecting, Upgraded),
    Detach(Channel, ConnectionId),
    SendActive(Channel, ConnectionId),
    Refreshed(usize, Refreshed),
    AckReplies(Vec<AckReply>),
    Drain(Duration, oneshot::Sender<()>),
    Release(Duration),
    Resume,
}

/// A channel's part of a shard.
struct Floor {
    channel: Channel,
    room: Room,
    counted: Counted,
}

/// What was last counted of a floor, where all shards count.
#[derive(Clone, Copy, Default)]
struct Counted {
    connections: usize,
    users: usize,
    waiting: usize,
    lagging: usize,
}

pub(super) struct Shard {
    /// Which one, of how many.
    number: (usize, usize),
    floors: Vec<Floor>,
    /// The last sequence of the log that the connections have been told of.
    sequence: u64,
    /// How many were attached since it began.
    attached: u64,
    means: Means,
    counts: watch::Receiver<BTreeMap<Channel, Counts>>,
    mode: Telling,
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
        means: Means,
        local: Arc<Local>,
        counts: watch::Receiver<BTreeMap<Channel, Counts>>,
        modes: watch::Receiver<submit::mode::Mode>,
    ) -> io::Result<Self> {
        let floor = |channel: &Channel| Floor {
            channel: channel.clone(),
            room: Room::default(),
            counted: Counted::default(),
        };
        Ok(Self {
            number,
            floors: channels.iter().map(floor).collect(),
            sequence: 0,
            attached: 0,
            means,
            counts,
            mode: Telling::new(modes),
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
            let is_busy = self.is_telling() || self.sockets.are_unread() || self.acks.has_replies();
            tokio::select! {
                biased;
                // What the clock asks for comes first: it is ready seldom, and could wait for ever behind what always is.
                _ = stats.tick() => {
                    self.tell_staff();
                    self.count_waiting();
                }
                () = self.mode.due() => self.tell_mode(),
                () = next_tick(&mut self.drain) => self.drain_some(),
                // Before requests, so that who attaches after an event was announced gets the state with it.
                announcement = announcements.recv(), if !self.has_much_to_tell() => {
                    let Some(first) = announcement else { return };
                    self.announce(first);
                    for _ in 1..ANNOUNCED_AT_ONCE {
                        if self.has_much_to_tell() {
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
                () = self.sockets.wait_for_one() => {}
                () = self.sockets.wait_for_deadline(&self.means.watch) => {}
                () = yield_now(), if is_busy => {}
            }
            self.serve(&inbox);
        }
    }

    /// What every round does, whatever has come in: some of what is told and answered, and the sockets and timers that are due.
    fn serve(&mut self, inbox: &mpsc::WeakSender<Request>) {
        self.tell_some(TOLD_AT_ONCE);
        self.send_ack_replies(TOLD_AT_ONCE);
        self.attend(inbox);
        self.keep_time(inbox);
        self.submit_acks(inbox);
        self.look_after_troubled();
    }

    fn answer(&mut self, request: Request, inbox: &mpsc::WeakSender<Request>) {
        match request {
            Request::Attach(who, reply) => {
                let attached = self.attach(&who);
                if let Err(Ok(unclaimed)) = reply.send(attached) {
                    self.detach(&who.channel, unclaimed.id);
                }
            }
            Request::Adopt(who, upgraded) => self.adopt(&who, upgraded, inbox),
            Request::Detach(channel, id) => self.detach(&channel, id),
            Request::SendActive(channel, id) => {
                if let Some(floor) = floor_of(&mut self.floors, &channel) {
                    floor.room.send_active(id, &self.means, self.sequence);
                }
            }
            Request::Refreshed(name, refreshed) => self.refreshed(name, refreshed),
            Request::AckReplies(replies) => self.acks.replies.extend(replies),
            Request::Drain(over, reply) => {
                self.begin_drain(over).done.push(reply);
                self.finish_drain();
            }
            Request::Release(over) => {
                self.begin_drain(over);
            }
            // One that somebody waits for is of a replica that stops.
            Request::Resume => drop(self.drain.take_if(|drain| drain.done.is_empty())),
        }
    }

    /// Takes a place for a newcomer, and names the connection.
    fn admit(&mut self, channel: &Channel) -> Result<(usize, ConnectionId), Close> {
        CrashPoint::BeforeAttach.reached();
        if self.drain.is_some() {
            return Err(Close::Restart { retry_after_ms: retry_after_ms(self.attached) });
        }
        let floor = self.floors.iter().position(|floor| floor.channel == *channel).ok_or(Close::Full)?;
        if !self.local.enter() {
            return Err(Close::Full);
        }
        self.attached += 1;
        let (number, of) = self.number;
        Ok((floor, self.attached * of as u64 + number as u64))
    }

    fn attach(&mut self, who: &Connecting) -> Result<Attached, Close> {
        let (floor, id) = self.admit(&who.channel)?;
        let (sender, outgoing) = mpsc::channel(STREAM_QUEUE);
        let (close, closed) = oneshot::channel();
        let tape = self.floors[floor].room.tape();
        let connection = Connection::of_stream(who.user.clone(), who.staff, tape, sender, close);
        self.add(floor, id, connection, &who.user);
        self.greet(floor, id, who.heartbeat_seconds);
        Ok(Attached { id, outgoing, close: closed })
    }

    /// Tells a newcomer the state. It is counted first: who has been greeted finds itself among those that are there.
    fn greet(&mut self, floor: usize, id: ConnectionId, heartbeat_seconds: u64) {
        self.count(floor);
        let place = self.floors[floor].room.place(self.sequence);
        let hello = ServerMessage::connected(place, self.mode.told(), heartbeat_seconds).frame();
        self.floors[floor].room.greet(id, hello, &self.means, self.sequence);
    }

    fn detach(&mut self, channel: &Channel, id: ConnectionId) {
        if let Some(floor) = self.floors.iter().position(|floor| floor.channel == *channel) {
            self.remove(floor, id);
        }
    }

    fn add(&mut self, floor: usize, id: ConnectionId, connection: Connection, user: &UserId) {
        let Floor { channel, room, .. } = &mut self.floors[floor];
        if room.add(id, connection)
            && let Some(local) = self.local.channels.get(channel)
        {
            local.user_came(self.number.0, user_hash(user));
        }
    }

    fn remove(&mut self, floor: usize, id: ConnectionId) {
        let Floor { channel, room, .. } = &mut self.floors[floor];
        let Some((mut gone, was_last)) = room.remove(id) else { return };
        if was_last && let Some(local) = self.local.channels.get(channel) {
            local.user_left(self.number.0, user_hash(gone.user()));
        }
        if let Some(client) = gone.client() {
            client.count_end(None, &self.means.metrics);
        }
        self.local.leave();
        self.count(floor);
        self.finish_drain();
    }

    /// Counts who came or went where all shards count.
    fn count(&mut self, floor: usize) {
        let Floor { channel, room, counted } = &mut self.floors[floor];
        let (connections, users) = (room.connections.len(), room.users.count());
        if let Some(local) = self.local.channels.get(channel) {
            move_by(&local.connections, counted.connections, connections);
            move_by(&local.users, counted.users, users);
        }
        let gauge = self.means.metrics.connections.get_or_create(&ByChannel::from(&*channel));
        shift(&gauge, counted.connections, connections);
        (counted.connections, counted.users) = (connections, users);
        self.local.changed.notify_one();
    }

    fn begin_drain(&mut self, over: Duration) -> &mut Drain {
        let open = self.floors.iter().map(|floor| floor.room.connections.len()).sum();
        self.drain.get_or_insert_with(|| Drain::new(Instant::now(), over, open))
    }

    fn drain_some(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let mut due = drain.due(Instant::now());
        for floor in &mut self.floors {
            due -= floor.room.end_some(
                due,
                |id| Close::Restart { retry_after_ms: retry_after_ms(id) },
                &self.means,
            );
        }
    }

    fn finish_drain(&mut self) {
        if let Some(drain) = &mut self.drain
            && self.floors.iter().all(|floor| floor.room.connections.is_empty())
        {
            for done in drain.done.drain(..) {
                let _ = done.send(());
            }
        }
    }
}

fn floor_of<'a>(floors: &'a mut [Floor], channel: &Channel) -> Option<&'a mut Floor> {
    floors.iter_mut().find(|floor| floor.channel == *channel)
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
