//! `tidings admin status`: it judges what it finds, for people and for monitors.

use std::process::Output;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Cluster, Nats, Replica, Spec, eventually, within};
use tidings::log::names::LOG_STREAM;

async fn status(replica: &Replica) -> (Option<i32>, Value) {
    let output = replica.tidings(&["admin", "status", "--format", "json"]).await;
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a problem of this text is reported, with exit code 1.
async fn reports(replica: &Replica, problem: &str) {
    // A cluster takes a while until it calls a server offline.
    within(Duration::from_mins(1), problem, || async {
        let (code, status) = status(replica).await;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        code == Some(1) && problems.iter().any(|said| said.as_str().unwrap().contains(problem))
    })
    .await;
}

async fn verify_own_tree(replica: &Replica) {
    eventually("nothing is wrong", || async {
        let (code, status) = status(replica).await;
        code == Some(0) && status["problems"] == Value::Array(Vec::new())
    })
    .await;
}

#[tokio::test]
async fn a_sound_service_is_0_and_a_table_for_people_has_every_stream_and_replica() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    verify_own_tree(&replica).await;
    let table = replica.tidings(&["admin", "status", "--format", "table"]).await;
    let said = text(&table);
    let name = status(&replica).await.1["replicas"][0]["replica"].as_str().unwrap().to_owned();
    for word in [LOG_STREAM, "KV_broadcast_active", "cluster", "Nothing is wrong.", &name] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let row = |word: &str| said.lines().find(|line| line.starts_with(word)).unwrap().to_owned();
    assert!(row("KV_broadcast_replicas").contains("  none  "), "a stream without a limit: {said}");
    assert_eq!(row("REPLICA").len(), row(&name).len(), "numbers end under their headings: {said}");
    assert_eq!(table.status.code(), Some(0));
}

#[tokio::test]
async fn a_replica_that_is_ready_counts_as_serving_before_its_next_regular_heartbeat() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    within(Duration::from_secs(2), "nothing is wrong", || async { status(&replica).await.0 == Some(0) })
        .await;
}

#[tokio::test]
async fn what_is_wrong_is_1_and_what_cannot_be_asked_is_3() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start_with(Spec::joining(nats.url()).with(&["--log-max-bytes", "2000"])).await;
    verify_own_tree(&replica).await;
    let post = async |n: u32| {
        replica.request(Method::POST, "").json(&json!({"message": n.to_string()})).send().await
    };
    let mut n = 0;
    while post(n).await.unwrap().status() == StatusCode::CREATED {
        n += 1;
    }
    reports(&replica, "stream BROADCASTS is ").await;
    replica.kill();
    reports(&replica, "no replica is connected").await;
    nats.jetstream().await.delete_stream("KV_broadcast_acks").await.unwrap();
    reports(&replica, "stream KV_broadcast_acks does not exist").await;
    nats.kill();
    assert_eq!(status(&replica).await.0, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_cluster_that_is_down_and_a_majority_that_is_down_are_named() {
    let mut cluster = Cluster::start().await;
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3"]);
    let replica = Replica::start_with(spec).await;
    verify_own_tree(&replica).await;
    let leader = cluster.log_leader(0).await;
    let down = (leader + 1) % 3;
    cluster.nodes[down].kill();
    let name = cluster.nodes[down].name.clone();
    reports(&replica, &name).await;
    cluster.nodes[leader].kill();
    reports(&replica, "has no leader").await;
}
