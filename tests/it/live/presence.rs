//! Presence: how many are connected, over all replicas, however a replica ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings::clock::{Clock as _, SystemClock};
use tokio::time::timeout;

use crate::support::{Client, Nats, Replica, Spec, eventually, within};

async fn connected(replica: &Replica, users: u64, connections: u64, replicas: u64) {
    let what = format!("{users} users on {connections} connections to {replicas} replicas");
    within(Duration::from_secs(20), &what, || async {
        let stats = replica.stats().await;
        (&stats["connected_users"], &stats["connections"], &stats["replicas"])
            == (&json!(users), &json!(connections), &json!(replicas))
    })
    .await;
}

async fn greeted(replica: &Replica, query: &str) -> Client {
    let mut client = replica.connect_with(query).await;
    client.greeted().await;
    client
}

#[tokio::test]
async fn counts_are_global_and_a_user_of_two_replicas_counts_once() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let mut clients = vec![
        greeted(&replicas[0], "?user_id=ann").await,
        greeted(&replicas[0], "?user_id=ann").await,
        greeted(&replicas[1], "?user_id=ann").await,
        greeted(&replicas[1], "?user_id=bob").await,
        greeted(&replicas[2], "?user_id=eve").await,
    ];
    for replica in &replicas {
        connected(replica, 3, 5, 3).await;
    }
    let stats = replicas[0].stats().await;
    assert_eq!((&stats["connected_users_local"], &stats["connections_local"]), (&json!(1), &json!(2)));
    assert_eq!(stats["approximate"], false);
    let posted = replicas[2].post_broadcast("x").await;
    assert_eq!((&posted["sent_to_users"], &posted["sent_to_connections"]), (&json!(3), &json!(5)));
    assert_eq!(posted["approximate"], false);
    assert_eq!(posted["message"], "Broadcast sent successfully to 3 connected users.");
    let request = replicas[1].request(reqwest::Method::POST, "/clear").send().await.unwrap();
    let cleared = request.json::<Value>().await.unwrap();
    assert_eq!((&cleared["cleared_for_users"], &cleared["cleared_for_connections"]), (&json!(3), &json!(5)));

    clients.pop().unwrap().close().await;
    clients.remove(0).close().await;
    for replica in &replicas {
        connected(replica, 2, 3, 3).await;
    }
}

/// Clients that come and go, one after the other, for as long as the task lives.
fn churn(url: String) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for n in 0.. {
            let mut client = Client::connect(&format!("{url}?user_id=passer-by-{n}")).await;
            client.greeted().await;
            client.close().await;
        }
    })
}

#[tokio::test]
async fn counts_keep_up_while_people_come_and_go() {
    let nats = Nats::start().await;
    let [left, other] = [Replica::start(&nats).await, Replica::start(&nats).await];
    let mut killed = Replica::start(&nats).await;
    let mut clients = Vec::new();
    for n in 0..5 {
        clients.push(greeted(&killed, &format!("?user_id=u{n}")).await);
    }
    let passing = [&left, &other]
        .map(|replica| churn(format!("{}/api/creator/broadcast/ws", replica.url().replace("http", "ws"))));
    within(Duration::from_secs(5), "new users are counted at once", || async {
        left.stats().await["connected_users"].as_u64() >= Some(5)
    })
    .await;
    killed.kill();
    within(Duration::from_secs(15), "the dead one's users are gone", || async {
        let stats = left.stats().await;
        stats["replicas"] == 2 && stats["connected_users"].as_u64() <= Some(4)
    })
    .await;
    passing.iter().for_each(tokio::task::JoinHandle::abort);
    connected(&left, 0, 0, 2).await;
}

#[tokio::test]
async fn the_users_of_a_dead_replica_leave_the_counts_and_it_may_come_back_at_once() {
    let nats = Nats::start().await;
    let left = Replica::start(&nats).await;
    let mut killed = Replica::start_with(Spec::joining(nats.url()).with(&["--replica", "unlucky"])).await;
    let mut stopped = Replica::start(&nats).await;
    let _ann = greeted(&left, "?user_id=ann").await;
    let _bob = greeted(&killed, "?user_id=bob").await;
    let _eve = greeted(&stopped, "?user_id=eve").await;
    connected(&left, 3, 3, 3).await;

    assert!(stopped.terminate().await.success());
    let said_goodbye = Instant::now();
    connected(&left, 2, 2, 2).await;
    assert!(said_goodbye.elapsed() < Duration::from_secs(2), "who stops in order leaves at once");

    killed.kill();
    let died = Instant::now();
    connected(&left, 1, 1, 1).await;
    assert!(died.elapsed() < Duration::from_secs(15), "{:?}", died.elapsed());

    // Under the name whose last heartbeat nobody took back: no live replica has it.
    killed.start_again().await;
    killed.kill();
    killed.start_again().await;
    let _bob = greeted(&killed, "?user_id=bob").await;
    connected(&left, 2, 2, 2).await;
    assert!(killed.is_ready().await, "it was not refused");
}

#[tokio::test]
async fn of_two_live_replicas_with_one_name_the_later_one_counts_under_another_and_shows_it() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--replica", "twin"]);
    let other = Replica::start(&nats).await;
    let earlier = Replica::start_with(spec.clone()).await;
    let mut later = Replica::start_with(spec).await;
    let _clients = [greeted(&earlier, "?user_id=ann").await, greeted(&later, "?user_id=bob").await];
    connected(&other, 2, 2, 3).await;
    let warnings = later.readyz().await["warnings"].clone();
    assert_eq!(warnings, json!(["name_taken"]));
    assert_eq!(earlier.readyz().await["warnings"], json!([]));
    let log = later.log();
    assert!(log.contains("a live replica is already called twin") && log.contains("--replica"), "{log}");
    eventually("admin status reports it", || async {
        let status = other.tidings(&["admin", "status", "--format", "json"]).await;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        said.contains("has the name of another live replica") && said.contains("\"replica\": \"twin\"")
    })
    .await;

    // The heartbeat under the common name is the earlier one's, and it stays.
    assert_eq!(later.terminate().await.code(), Some(0));
    connected(&other, 1, 1, 2).await;
    let bucket = nats.jetstream().await.get_key_value("broadcast_replicas").await.unwrap();
    assert!(bucket.get("twin").await.unwrap().is_some(), "the later one did not take it out");
}

#[tokio::test]
async fn creators_and_team_hear_how_many_are_there_and_users_do_not() {
    let nats = Nats::start().await;
    let replicas = [Replica::start(&nats).await, Replica::start(&nats).await];
    let mut creator = greeted(&replicas[0], "?user_id=c&role=creator").await;
    let mut team = greeted(&replicas[1], "?user_id=t&role=team").await;
    let mut user = greeted(&replicas[0], "?user_id=u").await;
    for staff in [&mut creator, &mut team] {
        let update = staff.until("all three", |m| m["stats"]["connected_users"] == 3).await;
        assert_eq!(update["type"], "stats_update");
        assert_eq!((&update["stats"]["connections"], &update["stats"]["replicas"]), (&json!(3), &json!(2)));
    }
    let posted = replicas[1].post_broadcast("x").await;
    for staff in [&mut creator, &mut team] {
        let sent = staff.until("that it was sent", |m| m["type"] == "broadcast_sent").await;
        assert_eq!((&sent["broadcast_id"], &sent["sent_to_users"]), (&posted["id"], &json!(3)));
        assert_eq!((&sent["sent_to_connections"], &sent["approximate"]), (&json!(3), &json!(false)));
    }

    // Many come and go: updates stay rare, and the last one is right.
    let started = Instant::now();
    let mut crowd = Vec::new();
    let mut updates = Vec::new();
    for n in 0..40 {
        crowd.push(greeted(&replicas[n % 2], &format!("?user_id=crowd-{n}")).await);
        if let Ok(message) = timeout(Duration::from_millis(100), creator.next()).await {
            updates.push(message);
        }
    }
    while updates.last().is_none_or(|m| m["stats"]["connected_users"] != 43) {
        updates.push(creator.next().await);
    }
    let most = 2 + started.elapsed().as_secs() / 2;
    assert!(
        updates.iter().all(|m| m["type"] == "stats_update" || m["type"] == "new_broadcast"),
        "{updates:?}"
    );
    assert!(updates.len() as u64 <= most, "{} updates in {:?}", updates.len(), started.elapsed());

    user.expect("new_broadcast").await;
    replicas[0].clear().await;
    user.expect("broadcast_cleared").await;
    assert!(
        user.heard.iter().all(|m| m["type"] != "stats_update" && m["type"] != "broadcast_sent"),
        "{:?}",
        user.heard
    );
}

#[tokio::test]
async fn without_nats_a_replica_says_that_it_counts_its_own_clients_alone() {
    let mut nats = Nats::start().await;
    let [replica, other] = [Replica::start(&nats).await, Replica::start(&nats).await];
    let _clients = [
        greeted(&replica, "?user_id=ann").await,
        greeted(&replica, "?user_id=ann").await,
        greeted(&other, "?user_id=bob").await,
    ];
    let mut staff = replica.connect_with("?user_id=ann&role=team").await;
    connected(&replica, 2, 4, 2).await;
    assert_eq!(replica.stats().await["approximate"], false);
    let numbers = |message: &Value, approximate: bool| {
        message["type"] == "stats_update" && message["stats"]["approximate"] == approximate
    };
    staff.until("exact numbers", |message| numbers(message, false)).await;

    nats.kill();
    within(Duration::from_secs(10), "the numbers are said to be approximate", || async {
        replica.stats().await["approximate"] == true
    })
    .await;
    staff.until("the same over the connection", |message| numbers(message, true)).await;
    let request = replica.request(reqwest::Method::POST, "").json(&json!({"message": "alone"}));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let posted = answer.json::<Value>().await.unwrap();
    assert_eq!((&posted["sent_to_users"], &posted["sent_to_connections"]), (&json!(1), &json!(3)));
    assert_eq!(posted["approximate"], true);
    let message = posted["message"].as_str().unwrap();
    assert!(
        message.starts_with("Broadcast sent successfully to 1 connected user of this replica"),
        "{message}"
    );
    connected(&replica, 1, 3, 1).await;
    assert_eq!(replica.stats().await["approximate"], true, "others may be there, and are not heard");
}

/// Says something under the name of a replica, as a foreign process would.
async fn forge(nats: &Nats, replica: &str, change: impl Fn(&mut Value)) {
    let bucket = nats.jetstream().await.get_key_value("broadcast_replicas").await.unwrap();
    let stored = bucket.get(replica).await.unwrap().unwrap();
    let mut heartbeat: Value = serde_json::from_slice(&stored).unwrap();
    change(&mut heartbeat);
    bucket.put(replica, serde_json::to_vec(&heartbeat).unwrap().into()).await.unwrap();
}

#[tokio::test]
async fn a_forged_heartbeat_ends_no_replica() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--replica", "true-one"])).await;
    let _ann = greeted(&replica, "?user_id=ann").await;
    let forged = |heartbeat: &mut Value| {
        heartbeat["instance"] = json!(SystemClock.new_id());
        heartbeat["started_at"] = json!("2020-01-01T00:00:00.000Z");
    };
    // Each is of another process: none of them goes on beating, as a live replica would.
    within(Duration::from_mins(1), "it warns, and goes on", || async {
        forge(&nats, "true-one", forged).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        replica.log().contains("a heartbeat has this replica's name")
    })
    .await;
    assert!(replica.is_ready().await);
}

#[tokio::test]
async fn no_number_of_forged_heartbeats_ends_a_replica_that_has_just_started() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--replica", "true-one"])).await;
    let _ann = greeted(&replica, "?user_id=ann").await;
    let instance = SystemClock.new_id();
    // All of one process, as a live replica of the same name would send them.
    within(Duration::from_secs(14), "it takes another name", || async {
        forge(&nats, "true-one", |heartbeat| {
            heartbeat["instance"] = json!(instance);
            heartbeat["started_at"] = json!("2020-01-01T00:00:00.000Z");
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        replica.readyz().await["warnings"] == json!(["name_taken"])
    })
    .await;
    assert!(replica.is_ready().await);
    replica.post_broadcast("still here").await;
}
