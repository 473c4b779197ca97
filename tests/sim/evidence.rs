//! The evidence: everything that is known at the end of a run.

use std::collections::BTreeMap;

use tidings::domain::{Digest, State, evolve};
use tidings::log::envelope::{Decoded, decode};
use tidings::log::{EventLog as _, RawMessage};
use tidings::submit::mode::Mode;
use tokio::time::Instant;

use crate::client::Visit;
use crate::people::{Acked, Tried};
use crate::trouble::Troubles;
use crate::world::World;

/// What a replica knows at the end.
#[derive(Debug)]
pub struct Standing {
    pub digest: Digest,
    pub rejected: u64,
    /// The active broadcast of each channel.
    pub active: BTreeMap<String, String>,
    /// Who acknowledged each broadcast that a creator was told of, at which sequence.
    pub acknowledged: BTreeMap<String, BTreeMap<String, u64>>,
}

pub struct Evidence {
    pub log: Vec<RawMessage>,
    /// The digest of a clean replay.
    pub replayed: Digest,
    pub standings: Vec<Standing>,
    pub tried: Vec<Tried>,
    pub acked: Vec<Acked>,
    pub visits: Vec<Visit>,
    /// Changes of mode of all replicas.
    pub modes: usize,
    pub troubles: Troubles,
}

impl Evidence {
    pub async fn collect(
        world: &World,
        tried: Vec<Tried>,
        acked: Vec<Acked>,
        visits: Vec<Visit>,
        troubles: Troubles,
    ) -> Self {
        let mut log = Vec::new();
        for sequence in 1..=world.network.log.info().await.unwrap().last_sequence {
            log.extend(world.network.log.get(sequence).await.unwrap());
        }
        let mut standings = Vec::new();
        for number in 0..world.replicas() {
            standings.push(standing(world, number, &log).await);
        }
        let modes = world.modes.lock().unwrap().iter().map(|modes| changes(&modes.lock().unwrap())).sum();
        Self { replayed: replay(&log), log, standings, tried, acked, visits, modes, troubles }
    }
}

async fn standing(world: &World, number: usize, log: &[RawMessage]) -> Standing {
    let replica = world.replica(number).expect("it runs at the end");
    let snapshot = replica.projection.snapshot();
    let active = snapshot.all_active();
    let active =
        active.map(|(channel, known)| (channel.to_string(), known.broadcast.id.to_string())).collect();
    let mut acknowledged = BTreeMap::new();
    for message in log {
        let Decoded::Event(recorded) = decode(message) else { continue };
        let id = recorded.event.broadcast_id();
        let found = replica.projection.acks_after(id, (0, 0), 1_000).await.unwrap();
        let found = found.into_iter().map(|ack| (ack.acknowledgement.user.to_string(), ack.place.0));
        acknowledged.insert(id.to_string(), found.collect());
    }
    let rejected = replica.submit.outbox_stats().rejected;
    Standing { digest: replica.projection.position().digest, rejected, active, acknowledged }
}

fn replay(log: &[RawMessage]) -> Digest {
    let mut state = State::default();
    for message in log {
        match decode(message) {
            Decoded::Event(recorded) => drop(evolve(&mut state, &recorded)),
            Decoded::Skipped(why) => panic!("the log has what nobody can read: {why:?}"),
        }
    }
    state.digest
}

/// How often the mode changed. That a watcher woke up is no change.
fn changes(modes: &[(Instant, Mode)]) -> usize {
    modes.array_windows().filter(|[(_, before), (_, after)]| before != after).count()
}

#[test]
fn the_tally_of_modes_counts_changes() {
    let now = Instant::now();
    let seen = [Mode::Cluster, Mode::Cluster, Mode::Local, Mode::Relaying, Mode::Cluster, Mode::Cluster];
    assert_eq!(changes(&seen.map(|mode| (now, mode))), 3);
    assert_eq!(changes(&[(now, Mode::Cluster); 9]), 0, "a mode that is reported again has not changed");
}
