//! The other replicas, as they were last heard, and the sums over all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::counts::{Accuracy, Counts};
use super::heartbeat::Heartbeat;
use super::local::{ChannelPresence, LocalPresence, PresentUsers};
use super::sketch::Sketch;
use crate::domain::Channel;

/// A replica that was not heard of for this long is gone; the bucket forgets its heartbeat then, too.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Replicas that are remembered at most: whoever may write to the bucket could invent any number of names.
const MAX_PEERS: usize = 1_000;

/// Up to this many hashes of users are united one by one, about a millisecond's work. More are united as sketches.
const EXACT_UNION: usize = 65_536;

/// A replica that was heard.
struct Peer {
    channels: BTreeMap<Channel, ChannelPresence>,
    serving: bool,
    heard: Instant,
}

/// The other replicas.
pub struct Peers {
    /// The channels that this replica has.
    channels: BTreeSet<Channel>,
    by_name: HashMap<String, Peer>,
}

impl Peers {
    /// None yet. What they will say of these channels counts.
    pub fn new(channels: BTreeSet<Channel>) -> Self {
        Self { channels, by_name: HashMap::new() }
    }

    /// Takes in what a replica said at that moment. What it said before does not count any more.
    pub fn hear(&mut self, heartbeat: &Heartbeat, heard: Instant) {
        if self.by_name.len() >= MAX_PEERS && !self.by_name.contains_key(&heartbeat.replica) {
            return;
        }
        let known = heartbeat.channels.iter().filter(|(channel, _)| self.channels.contains(*channel));
        let channels = known.map(|(channel, present)| (channel.clone(), present.audience())).collect();
        self.by_name.insert(heartbeat.replica.clone(), Peer { channels, serving: heartbeat.serving, heard });
    }

    /// A replica has stopped.
    pub(super) fn forget(&mut self, replica: &str) {
        self.by_name.remove(replica);
    }

    pub(super) fn forget_silent(&mut self) {
        self.by_name.retain(|_, peer| peer.heard.elapsed() < FORGOTTEN_AFTER);
    }

    pub(super) fn count(&self) -> usize {
        self.by_name.len()
    }

    /// How many of them could serve this replica's clients.
    pub(super) fn serving(&self) -> usize {
        self.by_name.values().filter(|peer| peer.serving).count()
    }

    /// How many are connected, by channel. `away`: NATS is, so that the other replicas are not heard.
    pub fn sum(&self, local: &LocalPresence, away: bool) -> BTreeMap<Channel, Counts> {
        let of = |(channel, here): (&Channel, &ChannelPresence)| {
            let mut counts = self.sum_of(channel, here);
            if away {
                counts.accuracy = Accuracy::Partial;
            }
            (channel.clone(), counts)
        };
        local.iter().map(of).collect()
    }

    fn sum_of(&self, channel: &Channel, here: &ChannelPresence) -> Counts {
        let others = || self.by_name.values().filter_map(|peer| peer.channels.get(channel));
        let (users, accuracy) =
            distinct(&others().chain([here]).filter(|one| one.users > 0).collect::<Vec<_>>());
        Counts {
            elsewhere: others().map(|one| one.connections).fold(0, u64::saturating_add),
            users_elsewhere: users.saturating_sub(here.users),
            here: (here.connections, here.users),
            accuracy,
            replicas: self.by_name.len() as u64 + 1,
        }
    }
}

/// How many distinct users these audiences have together.
fn distinct(audiences: &[&ChannelPresence]) -> (u64, Accuracy) {
    if let [] | [_] = audiences {
        return (audiences.first().map_or(0, |only| only.users), Accuracy::Exact);
    }
    let named = |audience: &&ChannelPresence| match &audience.who {
        PresentUsers::Exact(hashes) => Some(hashes.len()),
        PresentUsers::Sketch(_) | PresentUsers::Unknown => None,
    };
    let all_named = audiences.iter().map(named).sum::<Option<usize>>();
    if all_named.is_some_and(|count| count <= EXACT_UNION) {
        let hashes = audiences.iter().flat_map(|audience| match &audience.who {
            PresentUsers::Exact(hashes) => hashes.as_slice(),
            PresentUsers::Sketch(_) | PresentUsers::Unknown => &[],
        });
        let union: HashSet<_, foldhash::fast::RandomState> = hashes.collect();
        return (union.len() as u64, Accuracy::Exact);
    }
    let (mut union, mut apart) = (Sketch::default(), 0_u64);
    for audience in audiences {
        match &audience.who {
            PresentUsers::Exact(hashes) => union.extend(hashes.iter().copied()),
            PresentUsers::Sketch(sketch) => union.merge(sketch),
            PresentUsers::Unknown => apart = apart.saturating_add(audience.users),
        }
    }
    // What each replica says of its own users bounds the estimate.
    let most = audiences.iter().map(|audience| audience.users).max().unwrap_or_default();
    let total = audiences.iter().map(|audience| audience.users).fold(0, u64::saturating_add);
    (union.estimate().saturating_add(apart).clamp(most, total), Accuracy::Estimate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Digest, Timestamp, UserId};
    use crate::push::connection::user_hash;
    use crate::push::heartbeat::Present;
    use uuid::Uuid;

    fn channel() -> Channel {
        "creator".parse().unwrap()
    }

    fn exact(connections: u64, hashes: &[u64]) -> ChannelPresence {
        ChannelPresence { connections, users: hashes.len() as u64, who: PresentUsers::Exact(hashes.to_vec()) }
    }

    /// Users that are too many to be named.
    fn many(users: std::ops::Range<u32>) -> ChannelPresence {
        let hash = |n: u32| user_hash(&format!("user-{n}").parse::<UserId>().unwrap());
        let count = u64::from(users.end - users.start);
        ChannelPresence {
            connections: count,
            users: count,
            who: PresentUsers::Sketch(users.map(hash).collect()),
        }
    }

    fn heartbeat(replica: &str, audience: &ChannelPresence) -> Heartbeat {
        Heartbeat {
            replica: replica.to_owned(),
            instance: Uuid::nil(),
            started_at: Timestamp::from_unix_ms(0),
            at: Timestamp::from_unix_ms(0),
            mode: "cluster".to_owned(),
            serving: replica != "stalled",
            epoch: None,
            sequence: 0,
            digest: Digest::default(),
            milestone: (0, Digest::default()),
            warnings: Vec::new(),
            channels: [(channel(), Present::of(audience)), ("other".parse().unwrap(), Present::of(audience))]
                .into(),
        }
    }

    fn sum(here: &ChannelPresence, others: &[ChannelPresence]) -> Counts {
        let local: LocalPresence = [(channel(), here.clone())].into();
        let mut peers = Peers::new([channel()].into());
        for (n, other) in others.iter().enumerate() {
            peers.hear(&heartbeat(&format!("r{n}"), other), Instant::now());
        }
        assert!(peers.by_name.values().all(|peer| peer.channels.len() == 1), "other channels are not kept");
        peers.sum(&local, false)[&channel()]
    }

    /// Distinct users over all replicas, as they were when it was summed up.
    fn users(counts: Counts) -> u64 {
        counts.with_local(counts.here.0, counts.here.1).users
    }

    #[tokio::test]
    async fn a_user_of_two_replicas_counts_once() {
        let counts = sum(&exact(3, &[1, 2]), &[exact(2, &[2, 3]), exact(1, &[4])]);
        let expected =
            Counts { elsewhere: 3, users_elsewhere: 2, here: (3, 2), accuracy: Accuracy::Exact, replicas: 3 };
        assert_eq!(counts, expected);

        let counts = sum(&many(0..6_000), &[many(3_000..9_000), exact(1, &[4])]);
        assert_eq!((counts.accuracy, counts.elsewhere), (Accuracy::Estimate, 6_001));
        assert!(users(counts).abs_diff(9_001) < 450, "{}", users(counts));
    }

    #[tokio::test]
    async fn the_users_of_one_replica_are_counted_exactly_however_many_they_are() {
        for others in [vec![], vec![exact(0, &[])]] {
            let counts = sum(&many(0..6_000), &others);
            assert_eq!((users(counts), counts.accuracy), (6_000, Accuracy::Exact));
        }
    }

    #[tokio::test]
    async fn an_estimate_is_between_the_largest_replica_and_the_sum_of_all() {
        let same = many(0..5_000);
        assert!(users(sum(&same, &[same.clone(), same.clone()])) >= 5_000);
        let unknown = ChannelPresence { connections: 9, users: 9, who: PresentUsers::Unknown };
        let counts = sum(&exact(1, &[1]), &[unknown]);
        assert_eq!((users(counts), counts.accuracy), (10, Accuracy::Estimate));
    }

    #[tokio::test]
    async fn heartbeats_that_are_not_true_break_nothing() {
        let huge = ChannelPresence { connections: u64::MAX, users: u64::MAX, who: PresentUsers::Unknown };
        let counts = sum(&exact(3, &[1]), &[huge.clone(), huge]);
        assert_eq!((counts.elsewhere, users(counts)), (u64::MAX, u64::MAX));
        assert_eq!(counts.with_local(3, 1).connections, u64::MAX);

        let local: LocalPresence = [(channel(), exact(1, &[1]))].into();
        let mut peers = Peers::new(local.keys().cloned().collect());
        for n in 0..2 * MAX_PEERS {
            peers.hear(&heartbeat(&format!("r{n}"), &exact(1, &[2])), Instant::now());
        }
        assert_eq!(peers.count(), MAX_PEERS);
    }

    #[tokio::test]
    async fn a_replica_that_stands_still_itself_could_serve_nobody() {
        let mut peers = Peers::new([channel()].into());
        peers.hear(&heartbeat("stalled", &exact(0, &[])), Instant::now());
        assert_eq!((peers.count(), peers.serving()), (1, 0));
        peers.hear(&heartbeat("well", &exact(0, &[])), Instant::now());
        assert_eq!((peers.count(), peers.serving()), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_nats_the_numbers_are_partial_and_other_replicas_leave_them() {
        let local: LocalPresence = [(channel(), exact(1, &[1]))].into();
        let mut peers = Peers::new(local.keys().cloned().collect());
        peers.hear(&heartbeat("r", &exact(2, &[2, 3])), Instant::now());
        let counts = peers.sum(&local, true)[&channel()];
        assert_eq!((users(counts), counts.accuracy, counts.replicas), (3, Accuracy::Partial, 2));
        tokio::time::advance(FORGOTTEN_AFTER).await;
        peers.forget_silent();
        let counts = peers.sum(&local, true)[&channel()];
        assert_eq!((users(counts), counts.accuracy, counts.replicas), (1, Accuracy::Partial, 1));
    }
}
