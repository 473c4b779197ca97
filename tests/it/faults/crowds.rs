//! Crowds: many come back at once, many acknowledge while NATS goes, and one reads nothing among many who do.

use std::sync::Arc;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{Client, Nats, Raw, Replica, eventually};

/// One client reads nothing, among so many who do.
async fn one_reads_nothing_among(many: usize) {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut slow = Raw::narrow_websocket(&replica, "?user_id=slow").await;
    let mut healthy = Vec::new();
    for n in 0..many {
        let mut client = replica.connect(&format!("healthy-{n}")).await;
        client.greeted().await;
        healthy.push(client);
    }
    let long = "🦀".repeat(280);
    let mut posted = Vec::new();
    while replica.metric("tidings_slow_clients_total").await < 1.0 {
        assert!(posted.len() < 1_000, "{} broadcasts later it is still not slow", posted.len());
        for _ in 0..50 {
            posted.push(replica.post_broadcast(&long).await["id"].as_str().unwrap().to_owned());
            for client in &mut healthy {
                client.expect("new_broadcast").await;
            }
        }
    }
    for client in &healthy {
        assert_eq!(client.broadcasts(), posted);
    }
    let code = slow.close_code().await;
    assert!(code.is_none_or(|code| code == 4008), "{code:?}");
    eventually("only the healthy are counted", || async { replica.stats().await["connections"] == many })
        .await;
    let again = replica.connect("slow").await.greeted().await;
    assert_eq!(again["id"], *posted.last().unwrap(), "on reconnect it is whole");
}

#[tokio::test]
async fn who_reads_nothing_is_closed_and_the_others_miss_nothing() {
    one_reads_nothing_among(10).await;
}

#[tokio::test]
#[ignore = "slow: make faults"]
async fn who_reads_nothing_is_closed_and_two_hundred_others_miss_nothing() {
    one_reads_nothing_among(200).await;
}

async fn all_at_once(replica: &Replica, many: usize) -> Vec<Client> {
    join_all((0..many).map(|n| async move { replica.connect(&format!("u{n}")).await })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn two_thousand_come_back_at_once() {
    const CLIENTS: usize = 2_000;
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    replica.keep_port();
    let before = replica.post_broadcast("before").await;
    let mut clients = all_at_once(&replica, CLIENTS).await;
    for client in &mut clients {
        assert_eq!(client.greeted().await["id"], before["id"]);
    }
    let descriptors = replica.metric("process_open_fds").await;
    replica.kill();
    drop(clients);
    replica.start_again().await;
    let mut clients = all_at_once(&replica, CLIENTS).await;
    for client in &mut clients {
        assert_eq!(client.greeted().await["id"], before["id"]);
    }
    let after = replica.post_broadcast("after").await;
    assert_eq!(after["sent_to_users"], CLIENTS);
    for client in &mut clients {
        assert_eq!(client.expect("new_broadcast").await["broadcast"]["id"], after["id"]);
    }
    assert!(replica.metric("process_open_fds").await <= descriptors + 20.0, "descriptors stay in bounds");
    join_all(clients.into_iter().map(Client::close)).await;
    eventually("all have left", || async {
        replica.count("tidings_connections{channel=\"creator\"}").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_acknowledge_while_nats_restarts() {
    const USERS: usize = 2_000;
    let mut nats = Nats::start().await;
    let replicas = Arc::new(Replica::three(&nats).await);
    let posted = replicas[0].post_broadcast("acknowledge me").await;
    let id = posted["id"].as_str().unwrap().to_owned();
    replicas[1].digest_at(1).await;
    replicas[2].digest_at(1).await;
    let storm = (0..USERS).map(|n| {
        let (replicas, id) = (replicas.clone(), id.clone());
        tokio::spawn(
            async move { acknowledge_until_confirmed(&replicas[n % 3], &id, &format!("u{n}")).await },
        )
    });
    let storm: Vec<_> = storm.collect();
    eventually("some are confirmed", || async { replicas[0].count("tidings_log_sequence").await > 1 }).await;
    nats.restart().await;
    for confirmed in storm {
        confirmed.await.unwrap();
    }
    for replica in &*replicas {
        replica.in_mode("cluster").await;
        eventually("each counts once", || async {
            let one = replica.ask(replica.request(Method::GET, &format!("/{id}"))).await.1;
            one["broadcast"]["acknowledged"] == USERS
        })
        .await;
    }
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
