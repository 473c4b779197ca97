//! Presence: each replica says in a KV bucket that it lives and whom it serves; the sums are the global counts.
//!
//! Heartbeats are followed with a plain subscription: each one is whole, so a lost one costs three seconds and nothing
//! else. A replica that falls silent leaves the counts when its heartbeat would have left the bucket.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Client, jetstream};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::hub::{Hub, LocalPresence};
use super::wire::Mode;
use crate::clock::Clock;
use crate::domain::{Channel, Digest, Timestamp};
use crate::log::names::{MIRROR_LEASE_KEY, REPLICAS_BUCKET, bucket_subject};
use crate::log::provision::{Provision, replicas_stream};
use crate::log::{Epoch, connection::Connection};
use crate::metrics::Metrics;
use crate::projection::Projection;

/// A heartbeat at least this often, and this soon after a change.
const BEAT_EVERY: Duration = Duration::from_secs(3);
const BEAT_AFTER_CHANGE: Duration = Duration::from_millis(200);

/// A replica that was not heard of for this long is gone; the bucket forgets its heartbeat then, too.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Up to this many distinct users, a heartbeat names each by a hash, and the union over replicas is exact.
const EXACT_USERS: usize = 4_096;

/// What a replica says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its name.
    pub replica: String,
    /// This process: a new one a start.
    pub instance: Uuid,
    /// When the process started.
    pub started_at: Timestamp,
    /// When it said this.
    pub at: Timestamp,
    /// Whether it works with the log; a word that an older replica may not know.
    pub mode: String,
    /// How far its projection is, in which log, and the digest there and at the last multiple of 256.
    pub epoch: Option<Epoch>,
    /// The last sequence applied.
    pub sequence: u64,
    /// The digest at `sequence`.
    pub digest: Digest,
    /// The last multiple of 256 that was applied, and the digest there.
    pub milestone: (u64, Digest),
    /// Whom it serves.
    pub channels: BTreeMap<Channel, Present>,
}

/// Whom a replica serves in a channel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Present {
    /// Connections.
    pub connections: u64,
    /// Distinct users.
    pub users: u64,
    /// Their hashes, 8 bytes little-endian each, in unpadded base64; absent beyond 4,096 users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_hashes: Option<String>,
}

impl Present {
    fn new(connections: u64, users: &HashSet<u64>) -> Self {
        let exact = users.len() <= EXACT_USERS;
        let bytes = || users.iter().flat_map(|hash| hash.to_le_bytes()).collect::<Vec<_>>();
        Self {
            connections,
            users: users.len() as u64,
            user_hashes: exact.then(|| STANDARD_NO_PAD.encode(bytes())),
        }
    }

    fn hashes(&self) -> Option<Vec<u64>> {
        let bytes = STANDARD_NO_PAD.decode(self.user_hashes.as_ref()?).ok()?;
        Some(
            bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok()).map(u64::from_le_bytes).collect(),
        )
    }
}

/// How many are connected in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections to other replicas.
    pub elsewhere: u64,
    /// Distinct users over all replicas.
    pub users: u64,
    /// Whether `users` counts a user of two replicas twice.
    pub approximate: bool,
    /// Live replicas, this one included.
    pub replicas: u64,
}

/// Who this process is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The replica's name: a KV token, other than the mirror's key.
    pub replica: String,
    /// This process.
    pub instance: Uuid,
    /// When it started.
    pub started_at: Timestamp,
}

/// What keeps the counts.
pub struct Presence {
    /// This process.
    pub identity: Identity,
    /// The connection, for the subscription.
    pub connection: Connection,
    /// How the bucket is made when it is missing.
    pub provision: Provision,
    /// Who is connected here.
    pub hub: Hub,
    /// How far this replica is.
    pub projection: Projection,
    /// Where divergence is counted.
    pub metrics: Metrics,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

struct Peer {
    heartbeat: Heartbeat,
    heard: Instant,
}

impl Presence {
    /// Beats and listens until the replica stops. `taken` is told when another live process has this replica's name.
    pub async fn run(
        self,
        counts: watch::Sender<BTreeMap<Channel, Counts>>,
        taken: oneshot::Sender<Heartbeat>,
    ) -> anyhow::Result<()> {
        let context = self.provision.context(&self.connection.client);
        let everyone = bucket_subject(REPLICAS_BUCKET, ">");
        let mut heard =
            self.connection.client.subscribe(everyone).await.context("listening to heartbeats")?;
        let mut peers: HashMap<String, Peer> = HashMap::new();
        for heartbeat in self.last_heartbeats(&context).await {
            peers.insert(heartbeat.replica.clone(), Peer { heartbeat, heard: Instant::now() });
        }
        let mut taken = Some(taken);
        let mut beat = interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => self.beat(&context).await,
                () = self.hub.changed() => {
                    // What changes meanwhile goes out with the same beat.
                    sleep(BEAT_AFTER_CHANGE).await;
                    self.beat(&context).await;
                    beat.reset();
                }
                message = heard.next() => {
                    let Some(message) = message else { return Ok(()) };
                    if message.payload.is_empty() {
                        // A replica that stops takes its heartbeat out of the bucket.
                        peers.retain(|name, _| bucket_subject(REPLICAS_BUCKET, name) != message.subject.as_str());
                    }
                    if let Some(heartbeat) = self.foreign(&message) {
                        if heartbeat.replica == self.identity.replica {
                            if self.is_older(&heartbeat) && let Some(taken) = taken.take() {
                                let _ = taken.send(heartbeat);
                            }
                            continue;
                        }
                        self.compare(&heartbeat);
                        peers.insert(heartbeat.replica.clone(), Peer { heartbeat, heard: Instant::now() });
                    }
                }
            }
            peers.retain(|_, peer| peer.heard.elapsed() < FORGOTTEN_AFTER);
            let Ok(local) = self.hub.presence().await else { return Ok(()) };
            let now = sum(&local, &peers);
            counts.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    }

    /// Two processes of one name: the one that came later gives way.
    fn is_older(&self, other: &Heartbeat) -> bool {
        (other.started_at, other.instance) < (self.identity.started_at, self.identity.instance)
    }

    /// A heartbeat of another process; `None` for our own, for the lease, and for what is no heartbeat.
    fn foreign(&self, message: &async_nats::Message) -> Option<Heartbeat> {
        if message.subject.as_str() == bucket_subject(REPLICAS_BUCKET, MIRROR_LEASE_KEY)
            || message.payload.is_empty()
        {
            return None;
        }
        let heartbeat: Heartbeat = serde_json::from_slice(&message.payload)
            .inspect_err(|e| debug!("a heartbeat that cannot be read: {e}"))
            .ok()?;
        (heartbeat.instance != self.identity.instance).then_some(heartbeat)
    }

    async fn beat(&self, context: &jetstream::Context) {
        let Ok(local) = self.hub.presence().await else { return };
        let position = self.projection.position();
        let heartbeat = Heartbeat {
            replica: self.identity.replica.clone(),
            instance: self.identity.instance,
            started_at: self.identity.started_at,
            at: self.clock.now(),
            mode: Mode::Cluster.as_str().to_owned(),
            epoch: position.epoch,
            sequence: position.sequence,
            digest: position.digest,
            milestone: position.milestone,
            channels: local.iter().map(|(c, (n, users))| (c.clone(), Present::new(*n, users))).collect(),
        };
        if let Err(error) = self.publish(context, &heartbeat).await {
            debug!("the heartbeat did not go out: {error:#}");
            if let Err(error) = self.provision.stream(context, &replicas_stream()).await {
                debug!("the bucket of heartbeats is not there: {error:#}");
            }
        }
    }

    async fn publish(&self, context: &jetstream::Context, heartbeat: &Heartbeat) -> anyhow::Result<()> {
        if self.connection.client.connection_state() != async_nats::connection::State::Connected {
            anyhow::bail!("not connected");
        }
        let subject = bucket_subject(REPLICAS_BUCKET, &heartbeat.replica);
        context.publish(subject, serde_json::to_vec(heartbeat)?.into()).await?.await?;
        Ok(())
    }

    /// The heartbeats that are in the bucket at start, so that the first counts are whole.
    async fn last_heartbeats(&self, context: &jetstream::Context) -> Vec<Heartbeat> {
        match self.read_bucket(context).await {
            Ok(heartbeats) => heartbeats,
            Err(error) => {
                warn!("cannot read the heartbeats of before; counts are whole in a few seconds: {error:#}");
                Vec::new()
            }
        }
    }

    async fn read_bucket(&self, context: &jetstream::Context) -> anyhow::Result<Vec<Heartbeat>> {
        let stream = self.provision.stream(context, &replicas_stream()).await?;
        let mut subjects = stream.info_with_subjects(bucket_subject(REPLICAS_BUCKET, ">")).await?;
        let mut heartbeats = Vec::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject?;
            if let Ok(found) = stream.get_last_raw_message_by_subject(&subject).await
                && let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(&found.payload)
                && heartbeat.replica != self.identity.replica
            {
                heartbeats.push(heartbeat);
            }
        }
        Ok(heartbeats)
    }

    fn compare(&self, other: &Heartbeat) {
        let own = self.projection.position();
        let same_log = own.epoch.is_some() && own.epoch == other.epoch;
        let differ = |own: (u64, Digest), other: (u64, Digest)| own.0 == other.0 && own.1 != other.1;
        if same_log
            && (differ(own.milestone, other.milestone)
                || differ((own.sequence, own.digest), (other.sequence, other.digest)))
        {
            self.metrics.divergence.inc();
            error!(
                replica.other = other.replica,
                log.sequence = own.sequence,
                "another replica has another digest at the same sequence: one of the two projections is wrong"
            );
        }
    }
}

/// Takes this process's heartbeat out of the bucket, so that the counts are right at once.
pub async fn leave(client: &Client, replica: &str) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let subject = bucket_subject(REPLICAS_BUCKET, replica);
    if client.publish_with_headers(subject, headers, "".into()).await.is_ok() {
        let _ = tokio::time::timeout(Duration::from_secs(1), client.flush()).await;
    }
}

fn sum(local: &LocalPresence, peers: &HashMap<String, Peer>) -> BTreeMap<Channel, Counts> {
    local
        .iter()
        .map(|(channel, (_, users))| {
            let present: Vec<_> =
                peers.values().filter_map(|peer| peer.heartbeat.channels.get(channel)).collect();
            let elsewhere = present.iter().map(|p| p.connections).sum();
            let hashes: Option<Vec<_>> = present.iter().map(|p| p.hashes()).collect();
            let exact = hashes.map(|hashes| {
                let everyone: HashSet<_> = hashes.iter().flatten().chain(users).collect();
                everyone.len() as u64
            });
            let total = users.len() as u64 + present.iter().map(|p| p.users).sum::<u64>();
            let replicas = peers.len() as u64 + 1;
            let counts =
                Counts { elsewhere, users: exact.unwrap_or(total), approximate: exact.is_none(), replicas };
            (channel.clone(), counts)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(connections: u64, users: &[u64]) -> Peer {
        let present = Present::new(connections, &users.iter().copied().collect());
        let heartbeat = Heartbeat {
            replica: "r".into(),
            instance: Uuid::nil(),
            started_at: Timestamp::from_unix_ms(0),
            at: Timestamp::from_unix_ms(0),
            mode: Mode::Cluster.as_str().to_owned(),
            epoch: None,
            sequence: 0,
            digest: Digest::default(),
            milestone: (0, Digest::default()),
            channels: [("creator".parse().unwrap(), present)].into(),
        };
        Peer { heartbeat, heard: Instant::now() }
    }

    #[test]
    fn a_user_of_two_replicas_counts_once_while_hashes_are_exchanged() {
        let channel: Channel = "creator".parse().unwrap();
        let local: LocalPresence = [(channel.clone(), (3, HashSet::from([1, 2])))].into();
        let peers: HashMap<_, _> =
            [("a".to_owned(), peer(2, &[2, 3])), ("b".to_owned(), peer(1, &[4]))].into();
        let counts = sum(&local, &peers)[&channel];
        assert_eq!(counts, Counts { elsewhere: 3, users: 4, approximate: false, replicas: 3 });

        let many: Vec<u64> = (0..5_000).collect();
        let peers: HashMap<_, _> = [("a".to_owned(), peer(5_000, &many))].into();
        let counts = sum(&local, &peers)[&channel];
        assert_eq!((counts.users, counts.approximate), (5_002, true));
    }

    #[test]
    fn hashes_survive_the_heartbeat() {
        let present = Present::new(1, &HashSet::from([7, u64::MAX]));
        let mut hashes = present.hashes().unwrap();
        hashes.sort_unstable();
        assert_eq!(hashes, [7, u64::MAX]);
    }
}
