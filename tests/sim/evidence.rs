//! The evidence: everything that is known at the end of a run.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidings::domain::{Digest, State, evolve};
use tidings::log::envelope::{Decoded, decode};
use tidings::log::{Epoch, EventLog as _, Position, RawMessage};
use tidings::submit::mode::Mode;
use tokio::time::Instant;

use crate::client::Visit;
use crate::people::{Acked, Tried};
use crate::world::World;

/// More than the acknowledgements of any broadcast.
const ALL: usize = 100_000;

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
    /// What is lost on the disk of the log.
    pub lost: Vec<RawMessage>,
    /// Since when the log is this one, if it is not the first.
    pub replaced: Option<Instant>,
    /// How often each kind of fault happened.
    pub injected: BTreeMap<&'static str, usize>,
}

impl Evidence {
    pub async fn collect(world: &World, tried: Vec<Tried>, acked: Vec<Acked>, visits: Vec<Visit>) -> Self {
        let info = world.network.log.info().await.unwrap();
        let mut log = Vec::new();
        for sequence in 1..=info.last_sequence {
            log.extend(world.network.log.get(sequence).await.unwrap());
        }
        // What was heard of another log is not judged by this one.
        let of_this_log = |visit: &Visit| visit.heard.iter().all(|heard| is_of(info.epoch, heard));
        let visits = visits.into_iter().filter(of_this_log).collect();
        let mut standings = Vec::new();
        for number in 0..world.replicas() {
            standings.push(standing(world, number, &log).await);
        }
        let modes = world.modes.lock().unwrap().iter().map(|modes| changes(&modes.lock().unwrap())).sum();
        let (lost, replaced, injected) = (world.network.lost(), world.replaced(), world.network.injected());
        Self { replayed: replay(&log), log, standings, tried, acked, visits, modes, lost, replaced, injected }
    }
}

/// Whether the position in what was heard, if there is one, is of this log.
fn is_of(epoch: Epoch, heard: &Value) -> bool {
    let position = heard["position"].as_str().and_then(|position| position.parse::<Position>().ok());
    position.is_none_or(|position| position.epoch == epoch)
}

async fn standing(world: &World, number: usize, log: &[RawMessage]) -> Standing {
    let replica = world.replica(number).expect("it runs at the end");
    let snapshot = replica.projection.snapshot();
    let active = snapshot.all_active();
    let active =
        active.map(|(channel, known)| (channel.to_string(), known.broadcast.id.to_string())).collect();
    let mut acknowledged = BTreeMap::new();
    let about = log.iter().filter_map(|message| match decode(message) {
        Decoded::Event(recorded) => Some(recorded.event.broadcast_id()),
        Decoded::Skipped(_) => None,
    });
    for id in about.collect::<BTreeSet<_>>() {
        let found = replica.projection.acks_after(id, (0, 0), ALL).await.unwrap();
        let found = found.into_iter().map(|ack| (ack.acknowledgement.user.to_string(), ack.position.0));
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
