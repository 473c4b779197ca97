//! Replicas killed at random under load: whatever they were doing, they come back equal to the log and to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::load::{Random, all_equal, load, promises_kept};
use crate::support::{Nats, Replica, eventually};

const ROUNDS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_killed_at_random_under_load_come_back_equal() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random(seed);
    let nats = Nats::start().await;
    let mut replicas = Replica::three(&nats).await;
    let mut journals = Vec::new();
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let loads: Vec<_> =
            replicas.iter().map(|r| load(r.url(), random.below(u64::MAX), stop.clone())).collect();
        let victim = usize::try_from(random.below(3)).unwrap();
        let before = replicas[victim].readyz().await["sequence"].as_u64().unwrap();
        let events = 5 + random.below(60);
        eventually("there is load", || async {
            replicas[victim].readyz().await["sequence"].as_u64().unwrap() > before + events
        })
        .await;
        replicas[victim].kill();
        replicas[victim].start_again().await;
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            journals.push(load.await.unwrap());
        }
        println!("round {round}");
        all_equal(&nats, &replicas).await;
    }
    promises_kept(&nats, &journals).await;
}
