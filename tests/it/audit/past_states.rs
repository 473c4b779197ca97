//! Time travel: what the auditor folds up to any place is what a replica had there, whatever the log says.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use tidings::audit::source::Source;
use tidings::audit::state::state_at;
use tidings::domain::{BroadcastId, Digest, State, Timestamp};
use tidings::log::memory::MemoryLog;
use tidings::log::merkle::Frontier;
use tidings::log::names::Subject;
use tidings::log::{EventLog as _, NewEvent, RawMessage};

use crate::support::log::{acknowledged, channel, cleared, created, everything};
use crate::support::projecting::Projecting;
use crate::support::random;

/// Places of one log, and logs that are tried.
const PLACES: u64 = 40;
const SEEDS: std::ops::RangeInclusive<u64> = 1..=12;

/// What both can say of a moment: the digest of all facts, what is active, and how many have acknowledged what is loaded.
fn told(state: &State) -> (Digest, Option<BroadcastId>, u64) {
    (state.digest, state.channel(&channel()).active, state.channel(&channel()).lifecycle_head)
}

/// Anything that can stand in a log: what replicas write, doubles of it, and what they would never write.
async fn append_anything(log: &MemoryLog, random: &mut Rng, known: &mut Vec<NewEvent>) {
    let some = |random: &mut Rng, known: &[NewEvent]| {
        let at = random.usize(..known.len().max(1));
        known.get(at).map_or_else(|| created("nobody knows it"), Clone::clone)
    };
    let late = |event: NewEvent| NewEvent { subject: Subject::Late(channel()), ..event };
    let about = some(random, known);
    let id = about.event.broadcast_id().0;
    let users = ["ann", "bob", "a.b c", "日本"];
    let users = &users[..=random.usize(..4)];
    let event = match random.u8(..10) {
        0..=2 => created(&format!("number {}", known.len())),
        3 => late(created(&format!("late {}", known.len()))),
        4 => cleared(id, Timestamp::from_unix_ms(5)),
        5 => late(cleared(id, Timestamp::from_unix_ms(5))),
        6 | 7 => acknowledged(id, users),
        8 => about,
        _ => {
            log.inject("broadcasts.creator.lifecycle", vec![], Bytes::from_static(b"foreign"));
            return;
        }
    };
    if log.append(event.clone()).await.is_ok_and(|appended| !appended.duplicate) {
        known.push(event);
    }
}

#[tokio::test]
async fn the_state_after_any_place_is_what_a_replica_had_there() {
    for mut random in random::of_each(SEEDS) {
        let (log, mut known) = (MemoryLog::default(), Vec::new());
        let folder = tempfile::tempdir().unwrap();
        let replica = Projecting::start(log.clone(), folder.path());
        let mut had = BTreeMap::new();
        let mut length = 0;
        while length < PLACES {
            append_anything(&log, &mut random, &mut known).await;
            let now = log.info().await.unwrap().last_sequence;
            if now > length {
                length = now;
                replica.digest_at(length).await;
                let (_, size, root) = replica.projection.tree().await.unwrap();
                had.insert(length, (replica.look(|view| told(view.log())).await, size, root));
            }
        }
        replica.stop().await;
        let source = Source::Log(Arc::new(log.clone()));
        let messages = everything(&log).await;
        let mut tree = Frontier::default();
        for ((place, (had, size, root)), message) in had.into_iter().zip(&messages) {
            let at = state_at(&source, place).await.unwrap();
            assert_eq!(told(&at.state), had, "after {place}");
            tree.push(RawMessage::leaf(message));
            assert_eq!((tree.size(), tree.root()), (size, root), "the tree after {place}");
        }
    }
}
