//! Connections that carry nothing, clusters without a leader, and tasks that panic: a replica notices, says so, and is never
//! half dead.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tidings::crash_point::CrashPoint;

use crate::support::{Cluster, Condition, Link, Nats, Replica, Spec, eventually, within};

async fn post(replica: &Replica, message: &str) -> u16 {
    replica.ask(replica.request(Method::POST, "").json(&json!({"message": message}))).await.0
}

async fn acknowledge(replica: &Replica, id: &str, user: &str) -> u16 {
    let request = replica.request(Method::POST, "/acknowledge").header("X-User-Id", user);
    replica.ask(request.json(&json!({"broadcast_id": id}))).await.0
}

/// How many lines of its log have this text.
fn lines_with(replica: &Replica, text: &str) -> usize {
    replica.log().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_connection_over_which_nothing_goes_out_any_more_is_given_up() {
    let nats = Nats::start().await;
    let link = Link::to(nats.port()).await;
    let replica = Replica::start_with(Spec::joining(nats.url_through(link.address()))).await;
    // The others are heard all the time, so that the client itself takes the connection for alive.
    let _others = Replica::three(&nats).await;
    replica.post_broadcast("before").await;
    let connections = replica.count("tidings_nats_connections_total").await;
    link.become_(Condition::OldRequestsLost);
    replica.in_mode("local").await;
    within(Duration::from_secs(15), "it works with the log again", || async {
        replica.readyz().await["mode"] == "cluster"
    })
    .await;
    assert!(replica.count("tidings_nats_connections_total").await > connections);
    assert_eq!(lines_with(&replica, "giving the connection up"), 1);
    replica.post_broadcast("after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_leader_is_an_outage_also_while_nobody_posts() {
    let mut cluster = Cluster::start().await;
    let spec = Spec::joining(cluster.nodes[0].url()).with(&["--stream-replicas", "3"]);
    let replica = Replica::start_with(spec).await;
    replica.post_broadcast("before").await;
    let began = Instant::now();
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    within(Duration::from_secs(40), "it is said", || async {
        replica.log().contains("NATS has no leader for the stream BROADCASTS")
    })
    .await;
    replica.in_mode("local").await;
    assert_eq!(replica.count("tidings_degraded").await, 1);
    let asked = Instant::now();
    assert_eq!(post(&replica, "alone").await, 202);
    assert!(asked.elapsed() < Duration::from_secs(2), "it did not wait for the log: {:?}", asked.elapsed());
    // With something in the outbox it does not try what cannot be.
    within(Duration::from_secs(20), "it stays alone for a while", || async {
        began.elapsed().as_secs() >= 15
    })
    .await;
    assert_eq!(replica.readyz().await["mode"], "local");
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    for text in ["head is", "cannot read the log", "no leader", "the event log is away"] {
        let lines = lines_with(&replica, text);
        assert!(lines <= seconds / 5 + 4, "{lines} lines of {text:?} in {seconds} s:\n{}", replica.log());
    }
    for node in [1, 2] {
        cluster.nodes[node].start_again().await;
    }
    within(Duration::from_mins(1), "it works with the log again", || async {
        replica.readyz().await["mode"] == "cluster"
    })
    .await;
    assert_eq!(replica.count("tidings_outbox_entries").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_copy_in_a_cluster_is_warned_of() {
    let cluster = Cluster::start().await;
    let replica = Replica::start_with(Spec::joining(cluster.url())).await;
    let warning = "one node alone keeps the stream BROADCASTS";
    eventually("it is said at the start", || async { replica.log().contains(warning) }).await;
    let code = json!(["log_copies_few"]);
    eventually("it is a warning", || async { replica.readyz().await["warnings"] == code }).await;
    let provisioned = replica.tidings(&["admin", "provision"]).await;
    let said = String::from_utf8_lossy(&provisioned.stdout).into_owned();
    assert!(provisioned.status.success() && said.contains(warning), "{said}");
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    assert!(!replica.log().contains(warning), "one server alone has no other choice");
}

#[tokio::test]
async fn a_panic_of_the_relay_ends_the_replica() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.panic_at(CrashPoint::BeforeRelay);
    replica.start_again().await;
    nats.kill();
    replica.in_mode("local").await;
    assert_eq!(post(&replica, "to be relayed").await, 202);
    nats.start_again().await;
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("the relay of the outbox failed"), "{}", replica.log());
}

#[tokio::test]
async fn a_panic_of_the_committer_ends_the_replica() {
    let nats = Nats::start().await;
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.panic_at(CrashPoint::BeforeCommit);
    replica.start_again().await;
    let id = replica.post_broadcast("to be acknowledged").await["id"].as_str().unwrap().to_owned();
    assert_eq!(acknowledge(&replica, &id, "ann").await, 503);
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("the committer of acknowledgements failed"), "{}", replica.log());
}

#[tokio::test]
async fn a_panic_of_a_look_up_of_acknowledgements_ends_the_replica() {
    let nats = Nats::start().await;
    for (point, task) in [
        (CrashPoint::BeforeAckLookup, "the look-up of acknowledgements failed"),
        (CrashPoint::BeforeHeadLookup, "the look-up of acknowledgements in the log failed"),
    ] {
        let mut replica = Replica::prepared(Spec::joining(nats.url()));
        replica.panic_at(point);
        replica.start_again().await;
        let unknown = "00000000-0000-0000-0000-000000000001";
        assert_eq!(acknowledge(&replica, unknown, "ann").await, 503);
        assert_eq!(replica.ended().await.code(), Some(1));
        assert!(replica.log().contains(task), "{}", replica.log());
    }
}

#[tokio::test]
async fn a_panic_of_a_shard_ends_the_replica() {
    let nats = Nats::start().await;
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.panic_at(CrashPoint::BeforeAttach);
    replica.start_again().await;
    let _ = replica.request(Method::GET, "/events").send().await;
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("the shard of the hub failed"), "{}", replica.log());
}

#[tokio::test]
async fn a_panic_of_the_probe_ends_the_replica() {
    let nats = Nats::start().await;
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.panic_at(CrashPoint::BeforeProbe);
    replica.spawn();
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("the probe of the log failed"), "{}", replica.log());
}

#[tokio::test]
async fn a_log_that_was_lost_while_acknowledgements_waited_verifies() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let lost = replica.post_broadcast("lost").await["id"].as_str().unwrap().to_owned();
    nats.kill();
    replica.in_mode("local").await;
    assert_eq!(acknowledge(&replica, &lost, "ann").await, 202);
    assert_eq!(post(&replica, "kept").await, 202);
    let kept = replica.active("bob").await["id"].as_str().unwrap().to_owned();
    assert_eq!(acknowledge(&replica, &kept, "bob").await, 202);
    nats.wipe();
    nats.start_again().await;
    replica.in_mode("cluster").await;
    assert_eq!(replica.count("tidings_outbox_rejected_entries_total").await, 1);
    assert!(replica.log().contains("does not have the broadcast that it acknowledges"), "{}", replica.log());
    let verify = || replica.tidings(&["audit", "verify"]);
    // Nothing is wrong with it, and nobody signs it.
    within(Duration::from_secs(30), "an auditor finds nothing", || async {
        verify().await.status.code() == Some(4)
    })
    .await;
}
