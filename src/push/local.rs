//! Who is connected to this replica: what the shards share, and what heartbeats say of it.
//!
//! Sets of users change when a connection comes or goes, and at no other time, so that looking at them costs nothing that
//! grows with the connections.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::counts::{Connected, Counts};
use super::sketch::Sketch;
use crate::domain::Channel;

/// Up to this many distinct users of a channel are named by their hashes. More are a sketch.
pub(super) const EXACT_USERS: usize = 4_096;

/// The distinct users of a set of connections: exactly who, or about how many.
#[derive(Clone)]
pub enum PresentUsers {
    /// The hash of each.
    Exact(Vec<u64>),
    /// What does not fit into the number of users that are named one by one.
    Sketch(Sketch),
    /// Nothing is known of who they are.
    Unknown,
}

/// Who is connected in a channel.
#[derive(Clone)]
pub struct ChannelPresence {
    /// Connections.
    pub connections: u64,
    /// Distinct users. Of one replica it is exact.
    pub users: u64,
    /// Who they are.
    pub who: PresentUsers,
}

/// Who is connected to this replica, by channel.
pub type LocalPresence = BTreeMap<Channel, ChannelPresence>;

/// The users of one shard in one channel. All connections of a user are on one shard.
#[derive(Default)]
struct UserSet {
    hashes: HashSet<u64, foldhash::fast::RandomState>,
    /// Of the hashes, once they were too many; nothing can be taken out of it.
    sketch: Option<Sketch>,
}

impl UserSet {
    fn add(&mut self, hash: u64) {
        if self.hashes.insert(hash)
            && let Some(sketch) = &mut self.sketch
        {
            sketch.add(hash);
        }
    }

    fn remove(&mut self, hash: u64) {
        if self.hashes.remove(&hash) {
            self.sketch = None;
        }
    }

    fn sketch(&mut self) -> &Sketch {
        let hashes = &self.hashes;
        self.sketch.get_or_insert_with(|| hashes.iter().copied().collect())
    }
}

/// How many are connected to this replica in a channel, and who by shard.
pub(super) struct LocalChannel {
    pub(super) connections: AtomicU64,
    pub(super) users: AtomicU64,
    /// Each is locked by its shard, and about once a second by who counts.
    shards: Box<[Mutex<UserSet>]>,
}

impl LocalChannel {
    fn new(shards: usize) -> Self {
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Self { connections: AtomicU64::new(0), users: AtomicU64::new(0), shards }
    }

    /// The first connection of a user of this shard has come.
    pub(super) fn user_came(&self, shard: usize, hash: u64) {
        if let Some(users) = self.shards.get(shard) {
            users.lock().unwrap_or_else(PoisonError::into_inner).add(hash);
        }
    }

    /// The last connection of a user of this shard has gone.
    pub(super) fn user_left(&self, shard: usize, hash: u64) {
        if let Some(users) = self.shards.get(shard) {
            users.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
        }
    }

    fn presence(&self) -> ChannelPresence {
        let mut exact = Vec::new();
        let mut union = None;
        let mut users = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            users += shard.hashes.len();
            if users > EXACT_USERS {
                let union = union.get_or_insert_with(Sketch::default);
                union.extend(exact.drain(..));
                union.merge(shard.sketch());
            } else {
                exact.extend(&shard.hashes);
            }
        }
        ChannelPresence {
            connections: self.connections.load(Ordering::Relaxed),
            users: users as u64,
            who: union.map_or(PresentUsers::Exact(exact), PresentUsers::Sketch),
        }
    }
}

/// What shards share.
pub(super) struct Local {
    pub(super) channels: BTreeMap<Channel, LocalChannel>,
    pub(super) changed: Notify,
    connections: AtomicUsize,
    max_connections: usize,
}

impl Local {
    pub(super) fn new(channels: &[Channel], shards: usize, max_connections: usize) -> Self {
        Self {
            channels: channels.iter().map(|channel| (channel.clone(), LocalChannel::new(shards))).collect(),
            changed: Notify::new(),
            connections: AtomicUsize::new(0),
            max_connections,
        }
    }

    /// Takes one of the places that there are.
    pub(super) fn enter(&self) -> bool {
        let one_more = |open| (open < self.max_connections).then_some(open + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives the place back.
    pub(super) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are connected, and how many distinct users these are.
    pub(super) fn of(&self, channel: &Channel) -> (u64, u64) {
        self.channels.get(channel).map_or((0, 0), |channel| {
            (channel.connections.load(Ordering::Relaxed), channel.users.load(Ordering::Relaxed))
        })
    }

    /// With those of other replicas.
    pub(super) fn connected(&self, channel: &Channel, counts: Counts) -> Connected {
        let (connections, users) = self.of(channel);
        counts.with_local(connections, users)
    }

    /// Who is connected, by channel.
    pub(super) fn presence(&self) -> LocalPresence {
        self.channels.iter().map(|(name, channel)| (name.clone(), channel.presence())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::connection::user_hash;

    fn hashes(audience: &ChannelPresence) -> Option<Vec<u64>> {
        match &audience.who {
            PresentUsers::Exact(hashes) => {
                let mut hashes = hashes.clone();
                hashes.sort_unstable();
                Some(hashes)
            }
            PresentUsers::Sketch(_) | PresentUsers::Unknown => None,
        }
    }

    #[test]
    fn a_set_of_users_changes_only_when_one_comes_or_goes_and_is_exact_until_it_is_large() {
        let channel = LocalChannel::new(2);
        channel.user_came(0, 1);
        channel.user_came(1, 2);
        channel.user_came(0, 3);
        channel.user_left(0, 1);
        assert_eq!(hashes(&channel.presence()), Some(vec![2, 3]));

        let spread = |n: usize| user_hash(&format!("user-{n}").parse().unwrap());
        for n in 10..10 + EXACT_USERS {
            channel.user_came(n % 2, spread(n));
        }
        let audience = channel.presence();
        let PresentUsers::Sketch(sketch) = &audience.who else { panic!("they are too many to name") };
        assert_eq!(audience.users, EXACT_USERS as u64 + 2, "how many it is exactly is known all the same");
        assert!(sketch.estimate().abs_diff(audience.users) < audience.users / 20, "{}", sketch.estimate());

        for n in 10..10 + EXACT_USERS {
            channel.user_left(n % 2, spread(n));
        }
        assert_eq!(hashes(&channel.presence()), Some(vec![2, 3]), "who has gone is in no sketch any more");
    }

    #[test]
    fn looking_at_a_large_set_again_costs_nothing_that_grows_with_it() {
        let mut set = UserSet::default();
        for n in 0..100_000_u64 {
            set.add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        let first = set.sketch().clone();
        // A hash beside the sketch would be seen by a sketch that is made anew.
        set.hashes.insert(0);
        assert!(*set.sketch() == first, "it is kept while users only come");
        set.remove(0);
        assert!(set.sketch.is_none(), "it is made anew when one has gone");
    }
}
