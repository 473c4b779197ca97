//! Heartbeats: what a replica says of itself in the KV bucket, and what the heartbeats of all say together.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::Stream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::local::{ChannelPresence, EXACT_USERS, LocalPresence, PresentUsers};
use super::sketch::Sketch;
use crate::domain::{Channel, Digest, Timestamp};
use crate::log::Epoch;
use crate::log::names::{REPLICAS_BUCKET, bucket_subject};

/// Sketches in one heartbeat, 5.5 KB each, so that it fits into a message. Further channels say only how many there are.
const MAX_SKETCHES: usize = 32;

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
    /// Whether it shows what the log has: its projection has caught up once, and goes on.
    pub serving: bool,
    /// How far its projection is, in which log, and the digest there and at the last multiple of 256.
    pub epoch: Option<Epoch>,
    /// The last sequence applied.
    pub sequence: u64,
    /// The digest at `sequence`.
    pub digest: Digest,
    /// The last multiple of 256 that was applied, and the digest there.
    pub milestone: (u64, Digest),
    /// What is wrong with it although it serves: codes, of which an older replica may not know all.
    pub warnings: Vec<String>,
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
    /// Their hashes, 8 bytes little-endian each, in unpadded base64: at most 4,096 in a heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_hashes: Option<String>,
    /// Where they are too many for that, their sketch: see [`Sketch::encode`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_sketch: Option<String>,
}

impl Present {
    /// What a heartbeat says of an audience.
    pub fn of(audience: &ChannelPresence) -> Self {
        let ChannelPresence { connections, users, ref who } = *audience;
        let bytes = |hashes: &[u64]| hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect::<Vec<_>>();
        let (user_hashes, user_sketch) = match who {
            PresentUsers::Exact(hashes) => (Some(STANDARD_NO_PAD.encode(bytes(hashes))), None),
            PresentUsers::Sketch(sketch) => (None, Some(sketch.encode())),
            PresentUsers::Unknown => (None, None),
        };
        Self { connections, users, user_hashes, user_sketch }
    }

    /// The audience that a heartbeat speaks of.
    pub fn audience(&self) -> ChannelPresence {
        let Self { connections, users, .. } = *self;
        let exact = self.hashes().map(PresentUsers::Exact);
        let sketch = || self.user_sketch.as_deref().and_then(Sketch::decode).map(PresentUsers::Sketch);
        ChannelPresence { connections, users, who: exact.or_else(sketch).unwrap_or(PresentUsers::Unknown) }
    }

    /// More than a heartbeat may have are not read.
    fn hashes(&self) -> Option<Vec<u64>> {
        let bytes = STANDARD_NO_PAD.decode(self.user_hashes.as_ref()?).ok()?;
        if bytes.len() > 8 * EXACT_USERS {
            return None;
        }
        Some(
            bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok()).map(u64::from_le_bytes).collect(),
        )
    }
}

/// Whom this replica serves. The hashes of all channels together have to fit into one message: the smallest channels have
/// theirs, and the others a sketch.
pub(super) fn present(local: &LocalPresence) -> BTreeMap<Channel, Present> {
    let mut channels: Vec<_> = local.iter().collect();
    channels.sort_by_key(|(_, audience)| audience.users);
    let (mut named, mut sketches) = (0, 0);
    let of = |(channel, audience): (&Channel, &ChannelPresence)| {
        let mut audience = audience.clone();
        if let PresentUsers::Exact(hashes) = &audience.who {
            named += hashes.len();
            if named > EXACT_USERS {
                audience.who = PresentUsers::Sketch(hashes.iter().copied().collect());
            }
        }
        if matches!(audience.who, PresentUsers::Sketch(_)) {
            sketches += 1;
            if sketches > MAX_SKETCHES {
                audience.who = PresentUsers::Unknown;
            }
        }
        (channel.clone(), Present::of(&audience))
    };
    channels.into_iter().map(of).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn audience(hashes: Vec<u64>) -> ChannelPresence {
        ChannelPresence { connections: 1, users: hashes.len() as u64, who: PresentUsers::Exact(hashes) }
    }

    #[test]
    fn hashes_and_sketches_survive_the_heartbeat() {
        let PresentUsers::Exact(hashes) = Present::of(&audience(vec![7, u64::MAX])).audience().who else {
            panic!("they are few")
        };
        assert_eq!(hashes, [7, u64::MAX]);
        let sketch: Sketch = (0..9_000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let large =
            ChannelPresence { connections: 1, users: 9_000, who: PresentUsers::Sketch(sketch.clone()) };
        let PresentUsers::Sketch(read) = Present::of(&large).audience().who else { panic!("they are many") };
        assert!(read == sketch);
    }

    #[test]
    fn a_heartbeat_fits_into_a_message_however_many_channels_and_users_there_are() {
        let large = (0..EXACT_USERS as u64).collect::<Vec<_>>();
        let channel = |n: usize| format!("c{n}").parse::<Channel>().unwrap();
        let local: LocalPresence =
            (0..200).map(|n| (channel(n), audience(if n == 0 { vec![1] } else { large.clone() }))).collect();
        let present = present(&local);
        let bytes = serde_json::to_vec(&present).unwrap().len();
        assert!(bytes < 300_000, "{bytes}");
        assert!(present[&channel(0)].user_hashes.is_some(), "the smallest has its hashes");
        assert_eq!(present.values().filter(|one| one.user_sketch.is_some()).count(), MAX_SKETCHES);
        assert!(present.values().all(|one| one.users == 1 || one.users == EXACT_USERS as u64));
    }
}
