//! Readers on threads of their own, while the projection folds on others: each snapshot is whole, and none is older than what was
//! known before it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tidings::domain::{BroadcastId, UserId};
use tidings::log::EventLog as _;
use tidings::log::memory::MemoryLog;
use tidings::projection::Projection;
use tokio::time::sleep;

use crate::support::PATIENCE;
use crate::support::log::{acknowledged, channel, cleared, created};
use crate::support::projecting::Projecting;

const READERS: usize = 2;

/// Snapshots of different sequences that each reader has to see.
const SNAPSHOTS: usize = 100;

/// Events of a round: a broadcast is posted, two users acknowledge it one after the other, and it is cleared.
const ROUND: u64 = 4;
const USERS: [&str; 2] = ["ann", "bob"];

/// The broadcast of each round.
type Rounds = Arc<Mutex<Vec<BroadcastId>>>;

async fn round(log: &MemoryLog, rounds: &Rounds) {
    let post = created("a round begins");
    rounds.lock().unwrap().push(BroadcastId(post.id));
    let at = post.time;
    let acks = USERS.map(|user| acknowledged(post.id, &[user]));
    let [first, second] = acks;
    for event in [post.clone(), first, second, cleared(post.id, at)] {
        log.append(event).await.unwrap();
    }
}

/// Reads until enough was seen, and holds every snapshot to what the log has up to its sequence.
fn read(projection: &Projection, rounds: &Rounds, seen: &AtomicUsize) {
    let users = USERS.map(|user| user.parse::<UserId>().unwrap().fingerprint());
    let (started, mut last) = (Instant::now(), 0);
    while seen.load(Ordering::Relaxed) < SNAPSHOTS {
        assert!(started.elapsed() < PATIENCE, "too few snapshots");
        let known = projection.position().sequence;
        let snapshot = projection.snapshot();
        thread::yield_now();
        let Some(position) = snapshot.position else { continue };
        let sequence = position.sequence;
        assert!(sequence >= last.max(known), "{sequence} after {last}, when {known} was known");
        seen.fetch_add(usize::from(sequence > last), Ordering::Relaxed);
        last = sequence;

        let active = snapshot.active(&channel());
        let Some(step) = (sequence % ROUND).checked_sub(1) else {
            assert!(active.is_none(), "at {sequence} {active:?} is active");
            continue;
        };
        let begun = sequence - step;
        let id = rounds.lock().unwrap()[usize::try_from(begun / ROUND).unwrap()];
        let active = active.unwrap_or_else(|| panic!("at {sequence} nothing is active"));
        assert_eq!((active.broadcast.id, active.sequence, active.acknowledged), (id, begun, step));
        for (user, at) in users.into_iter().zip(begun + 1..) {
            // Who acknowledged since may be found already.
            let found = active.acknowledged_by(user);
            assert!(found == Some(at) || (found.is_none() && at > sequence), "at {sequence}: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_snapshot_is_whole_while_two_threads_read_and_the_log_grows() {
    let (log, rounds) = (MemoryLog::default(), Rounds::default());
    let directory = tempfile::tempdir().unwrap();
    let projecting = Projecting::start_heard(log.clone(), directory.path(), 1 << 20);
    projecting.digest_at(0).await;
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let seen = Arc::new(AtomicUsize::new(0));
            let (projection, rounds, counted) = (projecting.projection.clone(), rounds.clone(), seen.clone());
            (seen, thread::spawn(move || read(&projection, &rounds, &counted)))
        })
        .collect();
    while !readers.iter().all(|(_, reader)| reader.is_finished()) {
        round(&log, &rounds).await;
        sleep(Duration::from_millis(1)).await;
    }
    for (seen, reader) in readers {
        reader.join().unwrap();
        assert_eq!(seen.load(Ordering::Relaxed), SNAPSHOTS);
    }
    let head = log.info().await.unwrap().last_sequence;
    projecting.digest_at(head).await;
    projecting.stop().await;
}
