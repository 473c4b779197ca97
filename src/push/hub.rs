//! The hub: fans announcements out to the connections of this replica.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::drain::{Drain, next_tick, retry_after_ms};
use super::heartbeat::Counts;
use super::mode::Telling;
use super::report::report;
use super::room::{Connection, Room};
use super::wire::{Close, ConnectedStats, Frame, Place, ServerMessage};
use crate::domain::{BroadcastId, Change, Channel, UserId, in_log};
use crate::metrics::{ByChannel, Metrics, gauge};
use crate::projection::{Announcement, Changed, Projection};
use crate::submit;

/// Requests of connections that wait for the hub.
const INBOX: usize = 4_096;

/// Announcements that wait for the hub; beyond that the projection waits.
pub const ANNOUNCEMENTS: usize = 1_024;

/// Messages that wait for one connection; a client that reads slower is closed with `4008`.
pub const CONNECTION_QUEUE: usize = 64;

/// Creators and team are told of new counts at most this often.
const STATS_EVERY: Duration = Duration::from_secs(2);

/// Names a connection on this replica.
pub type ConnectionId = u64;

/// A message on its way to one connection.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// For everyone who gets it.
    Frame(Frame),
    /// That the user acknowledged: the connection that did so itself does not need it.
    Notice(BroadcastId, Frame),
}

/// Who is connecting.
#[derive(Clone, Debug)]
pub struct Connecting {
    /// The channel it listens to.
    pub channel: Channel,
    /// Whose connection it is.
    pub user: UserId,
    /// Whether it learns what creators and team learn.
    pub staff: bool,
    /// What the client is told about the heartbeat.
    pub heartbeat_seconds: u64,
}

/// The connection's end of being attached.
#[derive(Debug)]
pub struct Attached {
    /// Its name.
    pub id: ConnectionId,
    /// What to send, beginning with the snapshot.
    pub outgoing: mpsc::Receiver<Outgoing>,
    /// Why to close, when the server wants that.
    pub close: oneshot::Receiver<Close>,
}

enum Request {
    Attach(Connecting, oneshot::Sender<Result<Attached, Close>>),
    Detach(Channel, ConnectionId),
    SendActive(Channel, ConnectionId),
    Presence(oneshot::Sender<LocalPresence>),
    Drain(Duration, oneshot::Sender<()>),
}

/// Who is connected to this replica, by channel: connections, and the hashes of distinct users.
pub type LocalPresence = BTreeMap<Channel, (u64, HashSet<u64>)>;

/// How many are connected to this replica, readable at any time.
#[derive(Debug, Default)]
pub struct LocalCount {
    /// Connections.
    pub connections: AtomicU64,
    /// Distinct users.
    pub users: AtomicU64,
}

/// A handle to the hub.
#[derive(Clone)]
pub struct Hub {
    inbox: mpsc::Sender<Request>,
    local: Arc<BTreeMap<Channel, LocalCount>>,
    changed: Arc<Notify>,
}

/// The hub is gone: the replica is stopping.
#[derive(Debug)]
pub struct Stopping;

/// What a hub is made of.
pub struct Options {
    /// The channels that exist.
    pub channels: Vec<Channel>,
    /// Connections that this replica takes.
    pub max_connections: usize,
    /// Where it counts.
    pub metrics: Metrics,
    /// Whether this replica works with the log.
    pub modes: watch::Receiver<submit::mode::Mode>,
}

impl Hub {
    /// Starts the hub. It ends when the announcements end.
    pub fn start(
        options: Options,
        projection: Projection,
        announcements: mpsc::Receiver<Announcement>,
        counts: watch::Receiver<BTreeMap<Channel, Counts>>,
    ) -> Self {
        let (inbox, requests) = mpsc::channel(INBOX);
        let local: BTreeMap<_, _> =
            options.channels.iter().map(|c| (c.clone(), LocalCount::default())).collect();
        let hub = Self { inbox, local: Arc::new(local), changed: Arc::new(Notify::new()) };
        options.channels.iter().for_each(|channel| options.metrics.begin(channel));
        let rooms = options.channels.into_iter().map(|channel| (channel, Room::default())).collect();
        let fan = Fan {
            rooms,
            sequence: 0,
            next_id: 0,
            connections: 0,
            max_connections: options.max_connections,
            metrics: options.metrics,
            projection,
            counts,
            mode: Telling::new(options.modes),
            local: hub.local.clone(),
            changed: hub.changed.clone(),
            drain: None,
        };
        tokio::spawn(fan.run(requests, announcements));
        hub
    }

    /// Attaches a connection; or says how it is closed instead, when the replica is full or closes the others too.
    pub async fn attach(&self, who: Connecting) -> Result<Attached, Close> {
        let gone = || Close::Restart { retry_after_ms: 1_000 };
        let (reply, attached) = oneshot::channel();
        self.inbox.send(Request::Attach(who, reply)).await.map_err(|_| gone())?;
        attached.await.map_err(|_| gone())?
    }

    /// Forgets a connection.
    pub async fn detach(&self, channel: Channel, id: ConnectionId) {
        let _ = self.inbox.send(Request::Detach(channel, id)).await;
    }

    /// Sends a connection what is active for it.
    pub async fn send_active(&self, channel: Channel, id: ConnectionId) {
        let _ = self.inbox.send(Request::SendActive(channel, id)).await;
    }

    /// Who is connected now.
    pub async fn presence(&self) -> Result<LocalPresence, Stopping> {
        let (reply, presence) = oneshot::channel();
        self.inbox.send(Request::Presence(reply)).await.map_err(|_| Stopping)?;
        presence.await.map_err(|_| Stopping)
    }

    /// How many requests of connections wait for it.
    pub fn requests_waiting(&self) -> usize {
        self.inbox.max_capacity() - self.inbox.capacity()
    }

    /// How many are connected to this replica in a channel.
    pub fn local(&self, channel: &Channel) -> (u64, u64) {
        self.local.get(channel).map_or((0, 0), |count| {
            (count.connections.load(Ordering::Relaxed), count.users.load(Ordering::Relaxed))
        })
    }

    /// Waits until somebody came or went.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Closes every connection with `1012`, spread evenly over a time, and returns when none is left.
    pub async fn drain(&self, over: Duration) {
        let (reply, drained) = oneshot::channel();
        if self.inbox.send(Request::Drain(over, reply)).await.is_ok() {
            let _ = drained.await;
        }
    }
}

/// The hub's task.
struct Fan {
    rooms: BTreeMap<Channel, Room>,
    /// The last sequence of the log that the connections have been told of.
    sequence: u64,
    next_id: ConnectionId,
    connections: usize,
    max_connections: usize,
    metrics: Metrics,
    projection: Projection,
    counts: watch::Receiver<BTreeMap<Channel, Counts>>,
    mode: Telling,
    local: Arc<BTreeMap<Channel, LocalCount>>,
    changed: Arc<Notify>,
    drain: Option<Drain>,
}

impl Fan {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut announcements: mpsc::Receiver<Announcement>,
    ) {
        let mut stats = interval(STATS_EVERY);
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Who attaches after an event was announced gets the state with it.
            tokio::select! {
                biased;
                announcement = announcements.recv() => match announcement {
                    Some(announcement) => self.announce(announcement),
                    None => return,
                },
                request = requests.recv() => match request {
                    Some(request) => self.answer(request),
                    None => return,
                },
                _ = stats.tick() => {
                    self.tell_staff();
                    self.count_waiting();
                }
                () = self.mode.due() => self.tell_mode(),
                () = next_tick(&mut self.drain) => self.drain_some(),
            }
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Attach(who, reply) => {
                let attached = self.attach(&who);
                if let Err(Ok(unclaimed)) = reply.send(attached) {
                    self.detach(&who.channel, unclaimed.id);
                }
            }
            Request::Detach(channel, id) => self.detach(&channel, id),
            Request::SendActive(channel, id) => {
                if let Some(room) = self.rooms.get_mut(&channel) {
                    room.send_active(id, &self.projection, &self.metrics, self.sequence);
                }
            }
            Request::Presence(reply) => drop(reply.send(self.presence())),
            Request::Drain(over, reply) => self.begin_drain(over, reply),
        }
    }

    fn attach(&mut self, who: &Connecting) -> Result<Attached, Close> {
        self.next_id += 1;
        let id = self.next_id;
        if self.drain.is_some() {
            return Err(Close::Restart { retry_after_ms: retry_after_ms(id) });
        }
        let room = self.rooms.get_mut(&who.channel).filter(|_| self.connections < self.max_connections);
        let room = room.ok_or(Close::Full)?;
        self.connections += 1;
        let (sender, outgoing) = mpsc::channel(CONNECTION_QUEUE);
        let (close, closed) = oneshot::channel();
        let mut connection =
            Connection { user: who.user.clone(), staff: who.staff, outgoing: sender, close: Some(close) };
        let hello = ServerMessage::connected(self.sequence, self.mode.told(), who.heartbeat_seconds).frame();
        connection.send(Outgoing::Frame(hello), &self.metrics);
        room.add(id, connection);
        room.send_active(id, &self.projection, &self.metrics, self.sequence);
        self.count(&who.channel);
        Ok(Attached { id, outgoing, close: closed })
    }

    fn detach(&mut self, channel: &Channel, id: ConnectionId) {
        let Some(room) = self.rooms.get_mut(channel) else { return };
        if !room.remove(id) {
            return;
        }
        self.connections -= 1;
        self.count(channel);
        self.finish_drain();
    }

    fn count(&self, channel: &Channel) {
        if let (Some(room), Some(local)) = (self.rooms.get(channel), self.local.get(channel)) {
            local.connections.store(room.connections.len() as u64, Ordering::Relaxed);
            local.users.store(room.users.len() as u64, Ordering::Relaxed);
            let connections = self.metrics.connections.get_or_create(&ByChannel::from(channel));
            connections.set(gauge(room.connections.len()));
        }
        self.changed.notify_one();
    }

    fn presence(&self) -> LocalPresence {
        let hashes = |room: &Room| room.users.values().map(|present| present.hash).collect();
        self.rooms
            .iter()
            .map(|(channel, room)| (channel.clone(), (room.connections.len() as u64, hashes(room))))
            .collect()
    }

    fn announce(&mut self, announcement: Announcement) {
        match announcement {
            Announcement::Snapshot { sequence, active, .. } => {
                self.sequence = sequence;
                let mut active: HashMap<_, _> = active.iter().cloned().collect();
                for (channel, room) in &mut self.rooms {
                    let before = std::mem::replace(&mut room.shown, active.remove(channel));
                    room.resync(before.as_ref(), &self.projection, &self.metrics, sequence);
                }
            }
            Announcement::Changed(changed) => {
                self.sequence = in_log(changed.sequence).unwrap_or(self.sequence);
                self.tell(&changed);
            }
            Announcement::Settled { sequence, active } => {
                self.sequence = sequence;
                let mut active: HashMap<_, _> = active.iter().cloned().collect();
                for (channel, room) in &mut self.rooms {
                    let delivered =
                        room.settle(active.remove(channel), &self.projection, sequence, &self.metrics);
                    self.metrics.deliveries.get_or_create(&ByChannel::from(channel)).inc_by(delivered);
                }
            }
        }
    }

    fn tell(&mut self, changed: &Changed) {
        let Changed { sequence, ref channel, ref change, ref activated, .. } = *changed;
        let label = ByChannel::from(channel);
        let Some(room) = self.rooms.get_mut(channel) else { return };
        let delivered = match change {
            Change::Activated { id, .. } => {
                let Some(broadcast) = activated else { return };
                self.metrics.broadcasts.get_or_create(&label).inc();
                let delivered = room.activate(broadcast, sequence, &self.metrics);
                let counts = self.counts.borrow().get(channel).copied().unwrap_or_default();
                let sent_to_users = room.connected(counts).connections;
                let place = Place::of(sequence);
                let sent = ServerMessage::BroadcastSent { broadcast_id: *id, sent_to_users, place };
                delivered + room.send_staff(&sent, &self.metrics)
            }
            Change::Ended { id, reason } => room.take_down(*id, *reason, sequence, &self.metrics),
            Change::Acknowledged { id, new } => {
                self.metrics.acks.get_or_create(&label).inc_by(new.len() as u64);
                room.notice(*id, new, sequence, &self.metrics)
            }
            Change::RecordedLate { .. } | Change::Nothing => 0,
        };
        self.metrics.deliveries.get_or_create(&label).inc_by(delivered);
        report(changed, delivered);
    }

    fn tell_staff(&mut self) {
        let counts = self.counts.borrow();
        for (channel, room) in &mut self.rooms {
            let known = room.connected(counts.get(channel).copied().unwrap_or_default());
            let now = ConnectedStats {
                connected_users: known.users,
                connections: known.connections,
                replicas: known.replicas,
            };
            if Some(now) != room.told {
                room.told = Some(now);
                room.send_staff(&ServerMessage::StatsUpdate { stats: now }, &self.metrics);
            }
        }
    }

    /// What waits in the connections' queues. Looked at now and then, so that deliveries need not count.
    fn count_waiting(&self) {
        for (channel, room) in &self.rooms {
            let (messages, lagging) = room.waiting();
            let label = ByChannel::from(channel);
            self.metrics.messages_waiting.get_or_create(&label).set(gauge(messages));
            self.metrics.lagging_connections.get_or_create(&label).set(gauge(lagging));
        }
    }

    fn tell_mode(&mut self) {
        let frame = self.mode.tell();
        for room in self.rooms.values_mut() {
            room.send_all(&Outgoing::Frame(frame.clone()), &self.metrics);
        }
    }

    fn begin_drain(&mut self, over: Duration, done: oneshot::Sender<()>) {
        let drain = self.drain.get_or_insert_with(|| Drain::new(Instant::now(), over, self.connections));
        drain.done.push(done);
        self.finish_drain();
    }

    fn drain_some(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let open = self.rooms.values_mut().flat_map(|room| room.connections.iter_mut());
        let closable = open.filter(|(_, connection)| connection.close.is_some());
        for (id, connection) in closable.take(drain.due(Instant::now())) {
            connection.end(Close::Restart { retry_after_ms: retry_after_ms(*id) });
        }
    }

    fn finish_drain(&mut self) {
        if self.connections == 0
            && let Some(drain) = &mut self.drain
        {
            for done in drain.done.drain(..) {
                let _ = done.send(());
            }
        }
    }
}
