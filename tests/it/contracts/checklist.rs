//! The seed's checklist, automated: what its clients and its `curl` lines do, on one replica and on three.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Nats, Replica, Spec, eventually};

#[tokio::test]
async fn on_a_single_replica_everything_works_as_the_seeds_lines_stand() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;

    // new WebSocket('ws://localhost:8000/api/creator/broadcast/ws?user_id=1')
    let mut client = replica.connect("1").await;
    let connected = client.expect("connected").await;
    assert_eq!(connected["message"], "Connected to broadcast live updates");
    assert_eq!(client.expect("active_broadcast").await["broadcast"], Value::Null);

    // curl -X POST … -H "Content-Type: application/json" -d '{"message": "Test", "type": "info"}'
    let answer = replica.post_broadcast("Test").await;
    assert_eq!(answer["status"], "success");
    assert_eq!(answer["message"], "Broadcast sent successfully to 1 connected user.");
    assert_eq!((&answer["character_count"], &answer["max_characters"]), (&json!(4), &json!(280)));
    assert_eq!(answer["sent_to_users"], 1);
    let id = answer["id"].as_str().unwrap();

    let new = client.expect("new_broadcast").await;
    let broadcast = &new["broadcast"];
    assert_eq!(broadcast["id"], id);
    assert_eq!((&broadcast["message"], &broadcast["message_type"]), (&json!("Test"), &json!("info")));
    assert_eq!(broadcast["created_by"], "dev");
    assert!(broadcast["created_at"].as_str().unwrap().ends_with('Z'));

    assert_eq!(replica.active("1").await["id"], id);
    let acknowledged = client.acknowledge(id).await;
    assert_eq!((&acknowledged["type"], &acknowledged["already"]), (&json!("acknowledged"), &json!(false)));
    assert_eq!(replica.active("1").await, Value::Null, "this user has acknowledged it");
    assert_eq!(replica.active("2").await["id"], id, "others have not");

    let stats = replica.stats().await;
    assert_eq!((&stats["broadcasts_today"], &stats["active_broadcast"]), (&json!(1), &json!(true)));
    assert_eq!(stats["max_characters"], 280);

    let cleared = replica.clear().await;
    assert_eq!(cleared["message"], "Broadcast cleared successfully");
    let message = client.expect("broadcast_cleared").await;
    assert_eq!(message["message"], "Active broadcast has been cleared");
    assert_eq!((&message["broadcast_id"], &message["reason"]), (&json!(id), &json!("cleared")));

    let limits: Value = replica.request(Method::GET, "/limits").send().await.unwrap().json().await.unwrap();
    assert_eq!(limits["max_characters"], 280);
    assert_eq!(
        (&limits["recommended_length"], &limits["current_active_broadcasts"]),
        (&json!(120), &json!(0))
    );
}

#[tokio::test]
async fn three_replicas_behave_like_one() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let mut clients = Vec::new();
    for (n, replica) in replicas.iter().enumerate() {
        for device in 0..2 {
            let mut client = replica.connect(&format!("u{n}-{device}")).await;
            client.greeted().await;
            clients.push(client);
        }
    }
    eventually("every replica counts all six", || async {
        let mut counts = Vec::new();
        for replica in &replicas {
            counts.push(replica.stats().await["connected_users"].clone());
        }
        counts == [6, 6, 6]
    })
    .await;

    // Posted on one, received by all.
    let answer = replicas[0].post_broadcast("to everyone").await;
    assert_eq!(answer["sent_to_users"], 6);
    let id = answer["id"].as_str().unwrap();
    for client in &mut clients {
        assert_eq!(client.expect("new_broadcast").await["broadcast"]["id"], id);
    }

    // Acknowledged on one replica, hidden on the user's other devices on every replica.
    let mut tablet = replicas[2].connect("u0-0").await;
    assert_eq!(tablet.greeted().await["id"], id);
    assert_eq!(clients[0].acknowledge(id).await["already"], false);
    assert_eq!(tablet.expect("broadcast_acknowledged").await["broadcast_id"], id);
    for replica in &replicas {
        eventually("every replica knows", || async { replica.active("u0-0").await == Value::Null }).await;
        assert_eq!(replica.active("u1-0").await["id"], id);
    }

    // Cleared on another one.
    replicas[1].clear().await;
    for client in &mut clients {
        assert_eq!(client.expect("broadcast_cleared").await["broadcast_id"], id);
    }
}

#[tokio::test]
async fn who_was_away_gets_it_on_the_next_connect_and_only_until_they_acknowledge() {
    let nats = Nats::start().await;
    let [one, two, _three] = Replica::three(&nats).await;
    let id = one.post_broadcast("while you were away").await["id"].as_str().unwrap().to_owned();

    let mut late = two.connect("late").await;
    eventually("the other replica has it", || async { two.active("late").await["id"] == id.as_str() }).await;
    late.expect("connected").await;
    late.send(json!({"type": "get_active_broadcast"})).await;
    let shown = late
        .until("the broadcast", |m| m["type"] != "connected" && m["broadcast"]["id"] == id.as_str())
        .await;
    assert!(shown["type"] == "active_broadcast" || shown["type"] == "new_broadcast");
    late.close().await;

    let mut again = one.connect("late").await;
    assert_eq!(again.greeted().await["id"], id, "not acknowledged: shown again, wherever");
    again.acknowledge(&id).await;
    again.close().await;
    eventually("acknowledged on every replica", || async { two.active("late").await == Value::Null }).await;
    assert_eq!(two.connect("late").await.greeted().await, Value::Null);
}

#[tokio::test]
async fn the_seeds_lines_work_without_any_header_and_roles_are_checked() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--channels", "creator,forum"])).await;
    let post = |user: &'static str, role: &'static str| {
        let request = replica.request(Method::POST, "").header("X-User-Id", user).header("X-User-Role", role);
        request.json(&json!({"message": "x"})).send()
    };
    assert_eq!(post("a", "user").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(post("a", "team").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(post("a", "creator").await.unwrap().status(), StatusCode::CREATED);

    // Channels do not see each other, and one that is not configured does not exist.
    let forum = replica.raw_request(Method::GET, "/api/forum/broadcast/active").send().await.unwrap();
    assert_eq!(forum.json::<Value>().await.unwrap(), json!({"broadcast": null}));
    let other = replica.raw_request(Method::GET, "/api/comments/broadcast/active").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
    assert_eq!(other.json::<Value>().await.unwrap()["code"], "unknown_channel");
}
