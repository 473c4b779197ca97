//! Crowds: many come back at once, many acknowledge while NATS goes, and one reads nothing among many who do.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::people::{Diary, SECRET};
use super::world::World;
use crate::judge::Acknowledgement;
use crate::support::{Nats, Raw, Replica, eventually};

async fn world() -> (Nats, World) {
    let nats = Nats::start_with_password(SECRET).await;
    let world = World::behind_links(&nats).await;
    (nats, world)
}

/// One client reads nothing, among so many who do; that those miss nothing is for the judge.
async fn one_reads_nothing_among(many: u32) {
    let (nats, mut world) = world().await;
    world.end_load().await;
    let mut reader = world.replicas[0].connect("reader").await;
    reader.greeted().await;
    let before = world.connections(0).await;
    world.listen(0, many);
    let mut slow = Raw::narrow_websocket(&world.replicas[0], "?user_id=slow").await;
    let others = before + u64::from(many);
    eventually("all are connected", || async { world.connections(0).await == others + 1 }).await;
    let (replica, long) = (&world.replicas[0], "🦀".repeat(280));
    let mut posted = 0;
    while replica.count("tidings_slow_clients_total").await == 0 {
        assert!(posted < 1_000, "{posted} broadcasts later it is still not slow");
        // As fast as one who reads, and no faster.
        let id = replica.post_broadcast(&long).await["id"].clone();
        reader.until("what was posted", |m| m["broadcast"]["id"] == id).await;
        posted += 1;
    }
    let code = slow.close_code().await;
    assert!(code.is_none_or(|code| code == 4008), "{code:?}");
    eventually("the others stay", || async { world.connections(0).await == others }).await;
    let again = replica.connect("slow").await.greeted().await;
    assert_eq!(again["id"], replica.active("slow").await["id"], "on reconnect it is whole");
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_is_closed_and_the_others_miss_nothing() {
    one_reads_nothing_among(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn who_reads_nothing_is_closed_and_two_hundred_others_miss_nothing() {
    one_reads_nothing_among(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn two_thousand_come_back_at_once() {
    const CLIENTS: u32 = 2_000;
    let (nats, mut world) = world().await;
    // Thousands who are told of everything that people do are work for the test, not for the replica.
    world.end_load().await;
    let all = world.connections(0).await + u64::from(CLIENTS);
    world.listen(0, CLIENTS);
    eventually("all are connected", || async { world.connections(0).await == all }).await;
    world.replicas[0].kill();
    world.replicas[0].start_again().await;
    eventually("all are back", || async { world.connections(0).await == all }).await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_acknowledge_while_nats_restarts() {
    const USERS: usize = 2_000;
    let (mut nats, mut world) = world().await;
    let posted = world.replicas[0].post_broadcast("acknowledge me").await;
    let (id, sequence) = (posted["id"].as_str().unwrap().to_owned(), posted["sequence"].as_u64().unwrap());
    for n in 0..3 {
        eventually("all know it", || async { world.position_of(n).await >= sequence }).await;
    }
    // A third of them each, in connections that are kept for the next request.
    world.crowds = [667; 3];
    let users: Vec<_> = (0..USERS).map(|n| format!("of a crowd, {n}")).collect();
    let storm = users
        .iter()
        .enumerate()
        .map(|(n, user)| acknowledge_until_confirmed(&world.replicas[n % 3], &id, user));
    let restart = async {
        let head = world.replicas[0].count("tidings_log_sequence").await;
        eventually("some are confirmed", || async { world.position().await > head + 3 }).await;
        nats.restart().await;
    };
    tokio::join!(join_all(storm), restart);
    for replica in &world.replicas {
        replica.in_mode("cluster").await;
        eventually("each counts once", || async {
            let one = replica.ask(replica.request(Method::GET, &format!("/{id}"))).await.1;
            one["broadcast"]["acknowledged"] == USERS
        })
        .await;
    }
    let acknowledged = |user| Acknowledgement { broadcast: id.clone(), user, sequence: None, already: None };
    let acknowledged = users.into_iter().map(acknowledged).collect();
    world.note(Diary { acknowledged, ..Diary::default() });
    world.end(&nats).await;
}

/// An acknowledgement may be repeated as it is, as often as it takes.
async fn acknowledge_until_confirmed(replica: &Replica, id: &str, user: &str) {
    eventually("it is confirmed", || async {
        let request = replica.request(Method::POST, "/acknowledge").header("X-User-Id", user);
        let sent = request.json(&json!({"broadcast_id": id})).send().await;
        sent.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
}
