//! Acknowledgements: once a user, whatever the device, the replica and the way in; a storm costs a few events.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Nats, Replica, eventually, percent_encoded};

/// Every event of acknowledgements in the log, as `tidings audit replay` prints it.
async fn ack_events(replica: &Replica) -> Vec<Value> {
    let output = replica.tidings(&["audit", "replay", "--type", "broadcast.acknowledged"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_sender_gets_its_answer_and_the_other_devices_get_the_news_once() {
    let nats = Nats::start().await;
    let replicas = [Replica::start(&nats).await, Replica::start(&nats).await];
    let id = replicas[0].post_broadcast("x").await["id"].as_str().unwrap().to_owned();
    let mut phone = replicas[0].connect("ann").await;
    let mut tablet = replicas[0].connect("ann").await;
    let mut desk = replicas[1].connect("ann").await;
    let mut bob = replicas[1].connect("bob").await;
    for client in [&mut phone, &mut tablet, &mut desk, &mut bob] {
        client.expect("connected").await;
        client.until("the broadcast", |m| m["broadcast"]["id"] == id.as_str()).await;
    }

    let answer = phone.acknowledge(&id).await;
    assert_eq!((&answer["type"], &answer["already"]), (&json!("acknowledged"), &json!(false)));
    for device in [&mut tablet, &mut desk] {
        let notice = device.expect("broadcast_acknowledged").await;
        assert_eq!((&notice["broadcast_id"], &notice["position"]), (&json!(id), &answer["position"]));
    }
    // Again, from another device on another replica: nothing new, so that nobody is told.
    let again = desk.acknowledge(&id).await;
    assert_eq!((&again["already"], &again["position"]), (&json!(true), &answer["position"]));
    assert_eq!(replicas[1].acknowledge(&id, "ann").await["already"], true);

    // Over REST there is no connection of the sender: each of them is told.
    let mut laptop = replicas[0].connect("bob").await;
    assert_eq!(laptop.greeted().await["id"], id);
    assert_eq!(replicas[1].acknowledge(&id, "bob").await["already"], false);
    for device in [&mut bob, &mut laptop] {
        assert_eq!(device.expect("broadcast_acknowledged").await["broadcast_id"], id);
    }
    for client in [&mut phone, &mut tablet, &mut desk, &mut bob, &mut laptop] {
        client.expect_silence(Duration::from_millis(150)).await;
        let notices = client.heard.iter().filter(|m| m["type"] == "broadcast_acknowledged").count();
        let own = client.heard.iter().any(|m| m["type"] == "acknowledged" && m["already"] == false);
        assert_eq!(notices, usize::from(!own), "{:?}", client.heard);
    }
    assert_eq!(ack_events(&replicas[0]).await.len(), 2);
}

#[tokio::test]
async fn an_unknown_broadcast_is_refused_and_an_older_one_is_not() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let superseded = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let cleared = replica.post_broadcast("two").await["id"].as_str().unwrap().to_owned();
    replica.clear().await;
    replica.post_broadcast("three").await;

    let mut client = replica.connect("ann").await;
    client.greeted().await;
    let unknown = "0198c5a0-1111-7222-8333-444455556666";
    assert_eq!(client.acknowledge(unknown).await["code"], "unknown_broadcast");
    let refused = replica.request(Method::POST, "/acknowledge").json(&json!({"broadcast_id": unknown}));
    assert_eq!(refused.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    for id in [&superseded, &cleared] {
        assert_eq!(client.acknowledge(id).await["already"], false, "it may be acknowledged late");
        assert_eq!(replica.acknowledge(id, "bob").await["already"], false);
        assert_eq!(replica.acknowledge(id, "ann").await["already"], true);
    }
    assert_eq!(replica.active("ann").await["message"], "three", "that changes nothing about the active one");
    assert_eq!(replica.stats().await["active_broadcast_acknowledged"], 0);
}

#[tokio::test]
async fn a_storm_of_acknowledgements_is_counted_to_the_last_and_costs_a_few_events() {
    const USERS: usize = 300;
    let nats = Nats::start().await;
    let replicas = &[Replica::start(&nats).await, Replica::start(&nats).await];
    let posted = replicas[0].post_broadcast("storm").await;
    let id = posted["id"].as_str().unwrap();
    eventually("both have it", || async { replicas[1].active("x").await["id"] == id }).await;
    let mut sockets = Vec::new();
    for n in 0..USERS / 2 {
        let mut client = replicas[n % 2].connect(&format!("ws-{n}")).await;
        client.greeted().await;
        sockets.push(client);
    }

    // All at once: one half over WebSockets, the other over REST and over both replicas in a row of two tries.
    let mut storm = Vec::new();
    for client in &mut sockets {
        storm.push(async move { vec![client.acknowledge(id).await["already"].clone()] }.boxed_local());
    }
    for n in 0..USERS / 2 {
        let both = async move {
            let user = format!("rest-{n}");
            let both = tokio::join!(replicas[0].acknowledge(id, &user), replicas[1].acknowledge(id, &user));
            vec![both.0["already"].clone(), both.1["already"].clone()]
        };
        storm.push(both.boxed_local());
    }
    for answers in join_all(storm).await {
        let new = answers.iter().filter(|already| **already == json!(false)).count();
        let known = answers.iter().filter(|already| **already == json!(true)).count();
        assert_eq!((new, known), (1, answers.len() - 1), "one answer is the news: {answers:?}");
    }

    for replica in replicas {
        eventually("every replica has counted them all", || async {
            replica.stats().await["active_broadcast_acknowledged"] == USERS
        })
        .await;
        let metric = r#"tidings_acks_total{channel="creator"}"#;
        assert!((replica.metric(metric).await - 300.0).abs() < 0.5, "each user once");
    }
    let events = ack_events(&replicas[0]).await;
    assert!(events.len() < USERS / 3, "{} events for {USERS} users", events.len());
    let mut seen = HashMap::<String, u32>::new();
    for acknowledgement in
        events.iter().flat_map(|event| event["data"]["acknowledgements"].as_array().unwrap())
    {
        *seen.entry(acknowledgement["user"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), USERS);
    assert!(seen.values().all(|times| *times <= 2), "at most once a replica");
}

#[tokio::test]
async fn any_string_of_up_to_128_bytes_is_a_user() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("x").await["id"].as_str().unwrap().to_owned();
    let longest = "ü".repeat(64);
    let odd =
        ["a b", "a.b.>", "*", "=", "ann@example.org", "名前", "🦀", "a/b?c&d=e#f%g", "\"'\\", "-", &longest];
    for user in odd {
        let mut client = replica.connect(&percent_encoded(user)).await;
        assert_eq!(client.greeted().await["id"], id, "{user}");
        assert_eq!(client.acknowledge(&id).await["already"], false, "{user}");
        assert_eq!(replica.acknowledge(&id, user).await["already"], true, "the same user over REST: {user}");
        assert_eq!(replica.active(user).await, Value::Null, "{user}");
    }
    assert_eq!(replica.stats().await["active_broadcast_acknowledged"], odd.len());
    let users: Vec<_> = ack_events(&replica)
        .await
        .iter()
        .map(|event| event["data"]["acknowledgements"][0]["user"].clone())
        .collect();
    assert_eq!(users, odd);

    let too_long = format!("{longest}x");
    let request = replica.request(Method::POST, "/acknowledge").header("X-User-Id", &too_long);
    let refused = request.json(&json!({"broadcast_id": id})).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let upgrade =
        replica.request(Method::GET, &format!("/ws?user_id={}", "x".repeat(129))).send().await.unwrap();
    assert_eq!(upgrade.status(), StatusCode::UNAUTHORIZED);
}
