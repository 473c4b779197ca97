//! The seed's load checklist: hundreds of clients, a broadcast a second, nobody disconnected, nothing missed, no double.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::support::{Client, Nats, Replica, eventually};

const CLIENTS: usize = 300;
const BROADCASTS: usize = 60;

/// Reads until the last broadcast; the client remembers what it heard in between.
async fn listen(mut client: Client, last: String) -> Client {
    while client.next().await["broadcast"]["message"] != last.as_str() {}
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_clients_get_a_broadcast_a_second_for_a_minute() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let mut client = replicas[n % 3].connect(&format!("u{n}")).await;
        client.greeted().await;
        clients.spawn(listen(client, format!("number {}", BROADCASTS - 1)));
    }
    eventually("all are counted", || async { replicas[0].stats().await["connections"] == CLIENTS }).await;

    let mut every_second = interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = Vec::new();
    for n in 0..BROADCASTS {
        every_second.tick().await;
        let answer = replicas[n % 3].post_broadcast(&format!("number {n}")).await;
        assert_eq!(answer["sent_to_users"], CLIENTS, "somebody was disconnected");
        sent.push(answer["id"].as_str().unwrap().to_owned());
    }
    while let Some(client) = clients.join_next().await {
        assert_eq!(client.unwrap().broadcasts(), sent, "each once, in order");
    }
    for replica in &replicas {
        assert!(replica.metric("tidings_slow_clients_total").await < 1.0);
    }
}
