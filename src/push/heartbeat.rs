//! Heartbeats: what a replica says of itself in the KV bucket, and what the heartbeats of all say together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::hub::LocalPresence;
use crate::domain::{Channel, Digest, Timestamp};
use crate::log::Epoch;
use crate::log::names::{REPLICAS_BUCKET, bucket_subject};

/// A replica that was not heard of for this long is gone; the bucket forgets its heartbeat then, too.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Up to this many distinct users of a replica, its heartbeat names each by a hash, and the union over replicas is exact.
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
    fn new(connections: u64, users: &HashSet<u64>, exact: bool) -> Self {
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

/// Whom this replica serves. The hashes of all channels together have to fit into one message.
pub(super) fn present(local: &LocalPresence) -> BTreeMap<Channel, Present> {
    let users: usize = local.values().map(|(_, users)| users.len()).sum();
    let exact = users <= EXACT_USERS;
    local.iter().map(|(channel, (n, users))| (channel.clone(), Present::new(*n, users, exact))).collect()
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

impl Counts {
    /// What to show, with who is connected to this replica at this moment: the sums are a heartbeat old.
    pub fn with_local(self, connections_local: u64, users_local: u64) -> Connected {
        Connected {
            connections: self.elsewhere + connections_local,
            users: self.users.max(users_local),
            connections_local,
            users_local,
            approximate: self.approximate,
            replicas: self.replicas.max(1),
        }
    }
}

/// How many are connected in a channel, as creators and team are told.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    /// Connections over all replicas.
    pub connections: u64,
    /// Distinct users over all replicas.
    pub users: u64,
    /// Connections to this replica.
    pub connections_local: u64,
    /// Distinct users of this replica.
    pub users_local: u64,
    /// Whether `users` may count a user of two replicas twice.
    pub approximate: bool,
    /// Live replicas.
    pub replicas: u64,
}

/// A replica that was heard.
pub(super) struct Peer {
    pub(super) heartbeat: Heartbeat,
    pub(super) heard: Instant,
}

/// The heartbeats in the bucket, with the time at which it took each.
pub async fn heartbeats(bucket: &Stream) -> anyhow::Result<Vec<(Heartbeat, Timestamp)>> {
    let mut subjects = bucket.info_with_subjects(bucket_subject(REPLICAS_BUCKET, ">")).await?;
    let mut heartbeats = Vec::new();
    while let Some(subject) = subjects.next().await {
        let (subject, _) = subject?;
        let Ok(found) = bucket.get_last_raw_message_by_subject(&subject).await else { continue };
        if let Ok(heartbeat) = serde_json::from_slice(&found.payload) {
            let ns = i64::try_from(found.time.unix_timestamp_nanos()).unwrap_or(i64::MAX);
            heartbeats.push((heartbeat, Timestamp::from_unix_ns(ns)));
        }
    }
    Ok(heartbeats)
}

/// The other replicas, by name.
pub(super) struct Peers(pub(super) HashMap<String, Peer>);

impl Peers {
    pub(super) fn forget_silent(&mut self) {
        self.0.retain(|_, peer| peer.heard.elapsed() < FORGOTTEN_AFTER);
    }

    pub(super) fn sum(&self, local: &LocalPresence) -> BTreeMap<Channel, Counts> {
        let sums = local.iter().map(|(channel, (_, users))| (channel.clone(), self.sum_of(channel, users)));
        sums.collect()
    }

    fn sum_of(&self, channel: &Channel, users: &HashSet<u64>) -> Counts {
        let present: Vec<_> =
            self.0.values().filter_map(|peer| peer.heartbeat.channels.get(channel)).collect();
        let hashes: Option<Vec<_>> = present.iter().map(|p| p.hashes()).collect();
        let exact = hashes.map(|hashes| {
            let everyone: HashSet<_> = hashes.iter().flatten().chain(users).collect();
            everyone.len() as u64
        });
        let total = users.len() as u64 + present.iter().map(|p| p.users).sum::<u64>();
        Counts {
            elsewhere: present.iter().map(|p| p.connections).sum(),
            users: exact.unwrap_or(total),
            approximate: exact.is_none(),
            replicas: self.0.len() as u64 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(connections: u64, users: &[u64]) -> Peer {
        let present = Present::new(connections, &users.iter().copied().collect(), users.len() <= EXACT_USERS);
        let heartbeat = Heartbeat {
            replica: "r".into(),
            instance: Uuid::nil(),
            started_at: Timestamp::from_unix_ms(0),
            at: Timestamp::from_unix_ms(0),
            mode: "cluster".to_owned(),
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
        let counts = Peers(peers).sum(&local)[&channel];
        assert_eq!(counts, Counts { elsewhere: 3, users: 4, approximate: false, replicas: 3 });

        let many: Vec<u64> = (0..5_000).collect();
        let peers: HashMap<_, _> = [("a".to_owned(), peer(5_000, &many))].into();
        let counts = Peers(peers).sum(&local)[&channel];
        assert_eq!((counts.users, counts.approximate), (5_002, true));
    }

    #[test]
    fn hashes_survive_the_heartbeat() {
        let present = Present::new(1, &HashSet::from([7, u64::MAX]), true);
        let mut hashes = present.hashes().unwrap();
        hashes.sort_unstable();
        assert_eq!(hashes, [7, u64::MAX]);
    }
}
