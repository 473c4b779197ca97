//! What was sent and how it was received: the history, one broadcast, and who acknowledged it, page by page.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Nats, Replica, Spec};

async fn get(replica: &Replica, path: &str) -> Value {
    let answer = replica.request(Method::GET, path).send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

async fn refused(replica: &Replica, path: &str) -> (StatusCode, String) {
    let answer = replica.request(Method::GET, path).send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    (status, body["code"].as_str().unwrap().to_owned())
}

/// Every page of a list, each as long as `limit` says.
async fn pages(replica: &Replica, path: &str, list: &str, limit: usize) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get(replica, &format!("{path}?limit={limit}{cursor}")).await;
        pages.push(page[list].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn the_history_is_newest_first_and_says_what_became_of_each() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    assert_eq!(get(&replica, "/history").await, json!({"broadcasts": [], "next_cursor": null}));
    for n in 0..5 {
        replica.post_broadcast(&format!("number {n}")).await;
        if n == 3 {
            replica.clear().await;
        }
    }
    let page = get(&replica, "/history").await;
    let seen: Vec<_> =
        page["broadcasts"].as_array().unwrap().iter().map(|b| (&b["message"], &b["status"])).collect();
    let expected = [
        ("number 4", "active"),
        ("number 3", "cleared"),
        ("number 2", "superseded"),
        ("number 1", "superseded"),
        ("number 0", "superseded"),
    ];
    let expected: Vec<_> = expected.map(|(message, status)| (json!(message), json!(status))).to_vec();
    assert_eq!(seen, expected.iter().map(|(message, status)| (message, status)).collect::<Vec<_>>());
    let (newest, cleared) = (&page["broadcasts"][0], &page["broadcasts"][1]);
    assert_eq!(newest["ended_at"], Value::Null);
    assert!(cleared["ended_at"].as_str() >= cleared["recorded_at"].as_str());

    let pages = pages(&replica, "/history", "broadcasts", 2).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(json!(pages.concat()), page["broadcasts"], "the pages together are the whole");
}

#[tokio::test]
async fn a_page_goes_on_where_the_one_before_ended_whatever_was_sent_meanwhile() {
    let nats = Nats::start().await;
    let [one, two] = [Replica::start(&nats).await, Replica::start(&nats).await];
    for n in 0..4 {
        one.post_broadcast(&format!("number {n}")).await;
    }
    let first = get(&one, "/history?limit=2").await;
    let sent = two.post_broadcast("meanwhile").await["sequence"].clone();
    let sent = format!("{}-{sent}", two.readyz().await["epoch"].as_str().unwrap());
    let next = first["next_cursor"].as_str().unwrap();
    let second = get(&two, &format!("/history?limit=2&cursor={next}&min_position={sent}")).await;
    let messages: Vec<_> = second["broadcasts"].as_array().unwrap().iter().map(|b| &b["message"]).collect();
    assert_eq!(messages, ["number 1", "number 0"]);
}

#[tokio::test]
async fn one_broadcast_tells_who_acknowledged_it_and_how_long_that_took() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--channels", "creator,forum"])).await;
    let id = replica.post_broadcast("please confirm").await["id"].as_str().unwrap().to_owned();
    let fresh = get(&replica, &format!("/{id}")).await;
    assert_eq!(fresh["broadcast"]["acknowledged"], 0);
    assert_eq!(fresh["broadcast"]["time_to_acknowledge_ms"], json!({"p50": null, "p95": null}));

    let users: Vec<_> = (0..7).map(|n| format!("u{n}")).collect();
    for user in &users {
        replica.acknowledge(&id, user).await;
        replica.acknowledge(&id, user).await;
    }
    let known = get(&replica, &format!("/{id}")).await["broadcast"].clone();
    assert_eq!((&known["id"], &known["acknowledged"]), (&json!(id), &json!(7)));
    let time = &known["time_to_acknowledge_ms"];
    let (p50, p95) = (time["p50"].as_u64().unwrap(), time["p95"].as_u64().unwrap());
    assert!(p50 <= p95 && p95 < 60_000, "{time}");

    let pages = pages(&replica, &format!("/{id}/acks"), "acknowledgements", 3).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let all = pages.concat();
    assert_eq!(all.iter().map(|ack| ack["user"].as_str().unwrap()).collect::<Vec<_>>(), users);
    assert!(all.is_sorted_by_key(|ack| ack["sequence"].as_u64()));

    let elsewhere =
        replica.raw_request(Method::GET, &format!("/api/forum/broadcast/{id}")).send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND, "it belongs to another channel");
}

#[tokio::test]
async fn pages_survive_a_rebuild_and_acknowledgements_that_came_in_one_event() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("many at once").await["id"].as_str().unwrap().to_owned();
    let users: Vec<_> = (0..60).map(|n| format!("u{n:02}")).collect();
    futures_util::future::join_all(users.iter().map(|user| replica.acknowledge(&id, user))).await;
    let path = format!("/{id}/acks");
    let before = pages(&replica, &path, "acknowledgements", 7).await.concat();
    let mut named: Vec<_> = before.iter().map(|ack| ack["user"].as_str().unwrap().to_owned()).collect();
    named.sort();
    assert_eq!(named, users, "each once, over pages that end in the middle of an event");

    let history = get(&replica, "/history").await;
    replica.kill();
    std::fs::remove_dir_all(replica.data_dir().join("projection")).unwrap();
    replica.start_again().await;
    assert_eq!(pages(&replica, &path, "acknowledgements", 200).await.concat(), before);
    assert_eq!(get(&replica, "/history").await, history, "a function of the log, percentiles too");
}

#[tokio::test]
async fn odd_pages_and_strangers_are_refused() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("x").await["id"].as_str().unwrap().to_owned();
    let other = "0198c5a0-1111-7222-8333-444455556666";
    let bad = StatusCode::BAD_REQUEST;
    for (path, expected) in [
        ("/history?limit=0".to_owned(), (bad, "invalid_limit")),
        ("/history?limit=201".to_owned(), (bad, "invalid_limit")),
        ("/history?cursor=x".to_owned(), (bad, "invalid_cursor")),
        (format!("/{id}/acks?cursor=7"), (bad, "invalid_cursor")),
        (format!("/{other}"), (StatusCode::NOT_FOUND, "unknown_broadcast")),
        (format!("/{other}/acks"), (StatusCode::NOT_FOUND, "unknown_broadcast")),
        ("/nothing".to_owned(), (StatusCode::NOT_FOUND, "unknown_broadcast")),
        (format!("/{}", id.replace('-', "")), (StatusCode::NOT_FOUND, "unknown_broadcast")),
    ] {
        assert_eq!(refused(&replica, &path).await, (expected.0, expected.1.to_owned()), "{path}");
    }
    for path in ["/history".to_owned(), format!("/{id}"), format!("/{id}/acks")] {
        let as_user = replica.request(Method::GET, &path).header("X-User-Id", "u").send().await.unwrap();
        assert_eq!(as_user.status(), StatusCode::FORBIDDEN, "{path}");
        let team = replica.request(Method::GET, &path).header("X-User-Role", "team").send().await.unwrap();
        assert_eq!(team.status(), StatusCode::OK, "{path}");
    }
}
