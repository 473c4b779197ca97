//! A NATS server that ends, hangs, or comes back with less than it had.

use std::time::Duration;

use fastrand::Rng;
use tidings::log::names::{ACKS_BUCKET, ACTIVE_BUCKET, REPLICAS_BUCKET};
use tokio::time::{Instant, sleep};

use super::people::SECRET;
use super::world::World;
use crate::support::{Nats, eventually};

/// How long NATS goes and comes at random.
const STORM: Duration = Duration::from_secs(25);

async fn world() -> (Nats, World) {
    let nats = Nats::start_with_password(SECRET).await;
    let world = World::behind_links(&nats).await;
    (nats, world)
}

/// NATS away by a kill, for so long.
async fn killed_for(time: Duration) {
    let (mut nats, world) = world().await;
    nats.kill();
    sleep(time).await;
    nats.start_again().await;
    world.end(&nats).await;
}

/// NATS there, and silent for so long.
async fn frozen_for(time: Duration) {
    let (nats, world) = world().await;
    nats.freeze();
    sleep(time).await;
    nats.thaw();
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_back_at_once() {
    killed_for(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_back_after_five_seconds() {
    killed_for(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn killed_and_back_after_thirty_seconds() {
    killed_for(Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_for_three_seconds() {
    frozen_for(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn frozen_for_twenty_seconds() {
    frozen_for(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn flapping() {
    let (mut nats, mut world) = world().await;
    for _ in 0..20 {
        nats.restart().await;
        sleep(Duration::from_millis(world.random.u64(..1_500))).await;
    }
    world.end(&nats).await;
}

/// Kills and starts NATS again, or stops it for a while, with pauses. The storm is the test: it lasts as long as it lasts.
async fn rage(nats: &mut Nats, random: &mut Rng) {
    let up_to = |random: &mut Rng, ms| sleep(Duration::from_millis(random.u64(..ms)));
    let begun = Instant::now();
    while begun.elapsed() < STORM {
        up_to(random, 4_000).await;
        if random.bool() {
            nats.kill();
            up_to(random, 4_000).await;
            nats.start_again().await;
        } else {
            nats.freeze();
            up_to(random, 5_000).await;
            nats.thaw();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_frozen_at_random() {
    let (mut nats, mut world) = world().await;
    rage(&mut nats, &mut world.random).await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_buckets() {
    let (nats, world) = world().await;
    let context = nats.jetstream().await;
    for bucket in [ACTIVE_BUCKET, ACKS_BUCKET, REPLICAS_BUCKET] {
        context.delete_key_value(bucket).await.unwrap();
    }
    let before = world.position().await;
    eventually("it goes on", || async { world.position().await > before + 20 }).await;
    world.end(&nats).await;
}

/// All replicas and listeners have noticed that the log is another one.
async fn another_log_is_noticed(nats: &Nats, mut world: World) {
    for replica in &world.replicas {
        eventually("another log is noticed", || async {
            replica.count("tidings_projection_epoch_changes_total").await > 0
        })
        .await;
    }
    world.begin_load().await;
    let evidence = world.end(nats).await;
    for (n, said) in evidence.diagnostics.iter().enumerate() {
        let lines = said.lines().filter(|line| line.contains("the log was replaced: ")).count();
        assert_eq!(lines, 1, "replica {n} says it once:\n{said}");
    }
    for session in evidence.sessions.iter().filter(|session| session.closed.is_none()) {
        assert!(session.heard.iter().any(|m| m["type"] == "resync"), "{session:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_without_its_data() {
    let (mut nats, mut world) = world().await;
    world.forget_promises().await;
    nats.kill();
    nats.wipe();
    nats.start_again().await;
    another_log_is_noticed(&nats, world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_with_an_older_backup() {
    let (mut nats, mut world) = world().await;
    nats.stop();
    let backup = nats.backup();
    nats.start_again().await;
    // More is written, which the backup does not have: its sequences are used again.
    world.in_mode("cluster", &[0, 1, 2]).await;
    let before = world.position().await;
    eventually("more is written", || async { world.position().await > before + 50 }).await;
    world.forget_promises().await;
    nats.kill();
    nats.restore(&backup);
    nats.start_again().await;
    another_log_is_noticed(&nats, world).await;
}
