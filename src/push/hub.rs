//! The hub: what this replica's connections are attached to. It spreads them over shards, each of which has its own.
//!
//! All connections of a user are on one shard, so that what is told to a user concerns one shard alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};

use super::attach::{Attached, Connecting, ConnectionId, Upgraded};
use super::client::{Limits, TokenVerifier};
use super::connection::user_hash;
use super::context::Context;
use super::counts::Counts;
use super::local::{Local, LocalPresence};
use super::shard::{Request, Shard};
use super::tick::ShardClock;
use super::wire::Close;
use crate::critical_tasks::CriticalTasks;
use crate::domain::{Channel, UserId};
use crate::metrics::Metrics;
use crate::projection::{Announcement, Projection};
use crate::submit::{self, Acks};

/// Requests of connections that wait for a shard.
const INBOX: usize = 4_096;

/// Announcements that wait for a shard; beyond that the projection waits.
pub const ANNOUNCEMENTS: usize = 1_024;

/// A handle to the hub.
#[derive(Clone)]
pub struct Hub {
    shards: Arc<[mpsc::Sender<Request>]>,
    local: Arc<Local>,
}

/// What a hub is made of.
pub struct Options {
    /// The channels that exist.
    pub channels: Vec<Channel>,
    /// Connections that this replica takes.
    pub max_connections: usize,
    /// The write path of acknowledgements.
    pub acks: Acks,
    /// Verifies tokens that clients refresh.
    pub tokens: Arc<dyn TokenVerifier>,
    /// How WebSockets are limited.
    pub limits: Limits,
    /// Where it counts.
    pub metrics: Metrics,
    /// Whether this replica works with the log.
    pub modes: watch::Receiver<submit::mode::Mode>,
    /// Where it spawns its shards.
    pub tasks: CriticalTasks,
}

impl Hub {
    /// Starts a shard for each of the projection's subscribers that are given here. It ends when the announcements end.
    pub fn start(
        options: Options,
        projection: &Projection,
        announcements: Vec<mpsc::Receiver<Announcement>>,
        counts: &watch::Receiver<BTreeMap<Channel, Counts>>,
    ) -> io::Result<Self> {
        let Options { mut channels, max_connections, acks, tokens, limits, metrics, modes, tasks } = options;
        channels.sort();
        for channel in &channels {
            metrics.begin(channel);
        }
        let of = announcements.len();
        let local = Arc::new(Local::new(&channels, of, max_connections));
        let shards = announcements.into_iter().enumerate().map(|(number, announcements)| {
            let (projection, metrics) = (projection.clone(), metrics.clone());
            let (acks, tokens) = (acks.clone(), tokens.clone());
            let ctx = Context { projection, metrics, acks, tokens, limits, clock: ShardClock::start() };
            let (inbox, requests) = mpsc::channel(INBOX);
            let shard =
                Shard::new((number, of), &channels, ctx, local.clone(), counts.clone(), modes.clone())?;
            tasks.spawn("shard of the hub", shard.run(inbox.downgrade(), requests, announcements));
            Ok(inbox)
        });
        Ok(Self { shards: shards.collect::<io::Result<_>>()?, local })
    }

    /// The shard of a user.
    fn of(&self, user: &UserId) -> &mpsc::Sender<Request> {
        self.shard(user_hash(user))
    }

    /// The shard of a connection: the names that a shard gives are its number and what is equal to it, modulo their count.
    fn shard(&self, number: u64) -> &mpsc::Sender<Request> {
        let count = self.shards.len() as u64;
        &self.shards[usize::try_from(number % count).unwrap_or_default()]
    }

    /// Attaches an event stream; or says how it is closed instead, when the replica is full or closes the others too.
    pub async fn attach(&self, who: Connecting) -> Result<Attached, Close> {
        let gone = || Close::Restart { retry_after_ms: 1_000 };
        let (reply, attached) = oneshot::channel();
        let shard = self.of(&who.user);
        shard.send(Request::Attach(who, reply)).await.map_err(|_| gone())?;
        attached.await.map_err(|_| gone())?
    }

    /// Hands a WebSocket over. When the replica is full, or closes the others too, it is told so and closed.
    pub async fn adopt(&self, who: Connecting, upgraded: Upgraded) {
        // The hub is gone: the replica is stopping, and the connection ends with it.
        let _ = self.of(&who.user).send(Request::Adopt(who, upgraded)).await;
    }

    /// Removes an event stream whose response body is gone.
    pub async fn detach(&self, id: ConnectionId) {
        let _ = self.shard(id).send(Request::Detach(id)).await;
    }

    /// Sends a connection the state of its channel.
    pub async fn send_state(&self, id: ConnectionId) {
        let _ = self.shard(id).send(Request::SendState(id)).await;
    }

    /// The channels that exist.
    pub fn channels(&self) -> BTreeSet<Channel> {
        self.local.channels.keys().cloned().collect()
    }

    /// Who is connected now. No shard is asked, so that a busy one holds nobody up.
    pub fn presence(&self) -> LocalPresence {
        self.local.presence()
    }

    /// How many requests of connections wait for it.
    pub fn requests_waiting(&self) -> usize {
        self.shards.iter().map(|shard| shard.max_capacity() - shard.capacity()).sum()
    }

    /// How many are connected to this replica in a channel, and how many distinct users these are.
    pub fn local(&self, channel: &Channel) -> (u64, u64) {
        self.local.of(channel)
    }

    /// Waits until somebody came or went.
    pub async fn changed(&self) {
        self.local.changed.notified().await;
    }

    /// Begins to close every connection with `1012`, spread evenly over a time, and takes nobody new until [`Self::resume`].
    pub async fn release(&self, over: Duration) {
        for shard in self.shards.iter() {
            let _ = shard.send(Request::Release(over)).await;
        }
    }

    /// Takes connections again, and closes none that is left, unless the replica stops.
    pub async fn resume(&self) {
        for shard in self.shards.iter() {
            let _ = shard.send(Request::Resume).await;
        }
    }

    /// Closes every connection with `1012`, spread evenly over a time, and returns when none is left.
    pub async fn drain(&self, over: Duration) {
        let drained = self.shards.iter().map(|shard| async move {
            let (reply, drained) = oneshot::channel();
            if shard.send(Request::Drain(over, reply)).await.is_ok() {
                let _ = drained.await;
            }
        });
        join_all(drained).await;
    }
}
