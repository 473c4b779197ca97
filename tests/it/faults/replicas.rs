//! Replicas that are killed, stopped for a while, or told to end, under load.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use strum::IntoEnumIterator as _;
use tidings::crash_point::CrashPoint;
use tokio::time::sleep;

use super::people::SECRET;
use super::world::World;
use crate::support::{Condition, Nats, PATIENCE, eventually};

const ROUNDS: u64 = 20;

async fn world() -> (Nats, World) {
    let nats = Nats::start_with_password(SECRET).await;
    let world = World::behind_links(&nats).await;
    (nats, world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random() {
    let (nats, mut world) = world().await;
    for _ in 0..ROUNDS {
        let victim = world.random.usize(..3);
        let events = 3 + world.random.u64(..20);
        let before = world.position_of(victim).await;
        eventually("there is load", || async { world.position_of(victim).await > before + events }).await;
        world.replicas[victim].kill();
        world.replicas[victim].start_again().await;
    }
    world.end(&nats).await;
}

/// Has the second replica end itself at a point, and starts it again.
async fn crash(world: &mut World, point: CrashPoint) {
    let (link, replica) = (&world.links[1], &mut world.replicas[1]);
    replica.terminate().await;
    match point {
        CrashPoint::BeforeAppend
        | CrashPoint::AfterAppend
        | CrashPoint::BeforeApply
        | CrashPoint::AfterApply
        | CrashPoint::BeforeProbe
        | CrashPoint::BeforeCommit => {
            replica.crash_at(Some((point, 5)));
            replica.spawn();
        }
        CrashPoint::BeforeAttach => {
            replica.crash_at(Some((point, 1)));
            replica.spawn();
            // One of the clients connects, or else this one.
            let begun = Instant::now();
            while !replica.has_ended() && begun.elapsed() < PATIENCE {
                let _ = replica.request(Method::GET, "/events").send().await;
                sleep(Duration::from_millis(20)).await;
            }
        }
        CrashPoint::BeforeAckLookup | CrashPoint::BeforeHeadLookup => {
            replica.crash_at(Some((point, 1)));
            replica.start_again().await;
            let unknown = json!({"broadcast_id": "00000000-0000-0000-0000-000000000001"});
            let _ = replica.request(Method::POST, "/acknowledge").json(&unknown).send().await;
        }
        CrashPoint::BeforeOutboxWrite | CrashPoint::AfterOutboxWrite => {
            replica.crash_at(Some((point, 3)));
            replica.start_again().await;
            link.become_(Condition::Cut);
        }
        CrashPoint::BeforeRelay | CrashPoint::AfterRelay => {
            replica.crash_at(Some((point, 3)));
            replica.start_again().await;
            link.become_(Condition::Cut);
            eventually("something waits", || async { replica.count("tidings_outbox_entries").await > 5 })
                .await;
            link.become_(Condition::Whole);
        }
    }
    let ended = replica.ended().await;
    assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{point}: {ended}");
    replica.crash_at(None);
    link.become_(Condition::Whole);
    replica.start_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_point_between_two_steps() {
    let (nats, mut world) = world().await;
    for point in CrashPoint::iter() {
        crash(&mut world, point).await;
    }
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn stopped_for_ten_seconds() {
    let (nats, world) = world().await;
    world.replicas[1].signal(Signal::STOP);
    sleep(Duration::from_secs(10)).await;
    world.replicas[1].signal(Signal::CONT);
    world.end(&nats).await;
}

/// The replica that writes the mirror.
async fn mirroring(world: &World, among: &[usize]) -> Option<usize> {
    for n in among {
        if world.replicas[*n].count("tidings_mirroring").await == 1 {
            return Some(*n);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn who_mirrors_is_stopped_for_fifteen_seconds() {
    let (nats, world) = world().await;
    eventually("somebody mirrors", || async { mirroring(&world, &[0, 1, 2]).await.is_some() }).await;
    let holder = mirroring(&world, &[0, 1, 2]).await.unwrap();
    let others: Vec<_> = (0..3).filter(|n| *n != holder).collect();
    world.replicas[holder].signal(Signal::STOP);
    sleep(Duration::from_secs(15)).await;
    assert!(mirroring(&world, &others).await.is_some(), "another one has taken over");
    world.replicas[holder].signal(Signal::CONT);
    // What it had on its way when it was stopped must not come over what was written since.
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn each_is_told_to_end_in_turn() {
    let (nats, mut world) = world().await;
    for n in 0..3 {
        assert!(world.replicas[n].terminate().await.success(), "replica {n}");
        world.replicas[n].start_again().await;
        world.in_mode("cluster", &[n]).await;
    }
    world.end(&nats).await;
}
