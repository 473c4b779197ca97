//! Positions: a place in one log, which is never compared with a place in another, and event streams as they are sent.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::names::LOG_STREAM;

use crate::support::{Events, Nats, Replica, Spec, eventually, percent_encoded};

async fn position(replica: &Replica) -> String {
    let answer = replica.request(Method::GET, "/stats").send().await.unwrap();
    answer.headers()["tidings-position"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_position_of_another_log_is_never_waited_for() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for n in 0..5 {
        replica.post_broadcast(&format!("number {n}")).await;
    }
    let before = position(&replica).await;
    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    eventually("another log is noticed", || async {
        replica.count("tidings_projection_epoch_changes_total").await > 0 && replica.is_ready().await
    })
    .await;
    replica.post_until_taken("in the new log").await;
    let started = Instant::now();
    let asked = replica.request(Method::GET, "/active").header("Tidings-Min-Position", &before);
    let (status, body) = replica.ask(asked).await;
    assert_eq!((status, &body["code"]), (412, &json!("other_log")), "{body}");
    assert!(started.elapsed() < Duration::from_secs(2), "there is nothing to wait for");
    assert_eq!(body["log_position"], position(&replica).await);
    // A connection begins with the state.
    let listen = replica.request(Method::GET, "/events?user_id=u").header("Last-Event-ID", &before);
    let mut events = Events::of(listen.send().await.unwrap());
    assert_ne!(events.expect("connected").await.id.unwrap().to_string(), before);
    assert_eq!(events.expect("active_broadcast").await.data["broadcast"]["message"], "in the new log");
    let mut client = replica.connect_with(&format!("?user_id=u&min_position={before}")).await;
    assert_eq!(client.greeted().await["message"], "in the new log");
}

#[tokio::test]
async fn a_replica_that_is_behind_the_last_event_id_shows_no_older_state() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("old").await;
    let (epoch, _) =
        position(&replica).await.split_once('-').map(|(e, s)| (e.to_owned(), s.to_owned())).unwrap();
    let ahead = format!("{epoch}-1000");
    // It cannot ask the log whether it has got so far.
    nats.freeze();
    let listen = || replica.request(Method::GET, "/events?user_id=u").header("Last-Event-ID", &ahead);
    assert_eq!(listen().send().await.unwrap().status(), 503);
    // A browser never comes back after another status than 200.
    let answer = listen().header("Accept", "text/event-stream").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "retry: 1000\n".to_owned()));
    nats.thaw();
}

#[tokio::test]
async fn an_event_source_that_is_refused_for_a_moment_is_told_when_to_come_back_and_for_good_is_refused() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--max-connections-per-user", "1"]);
    let replica = Replica::start_with(spec).await;
    let listen = |query: &str| {
        let request = replica.request(Method::GET, &format!("/events{query}"));
        request.header("Accept", "text/event-stream")
    };
    let mut first = Events::of(listen("?user_id=u").send().await.unwrap());
    first.expect("connected").await;
    let second = listen("?user_id=u").send().await.unwrap();
    assert_eq!(second.status(), 200);
    let told = second.text().await.unwrap();
    // No empty line follows, which some readers take for an event without data.
    let after_ms = told.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix('\n')?.parse::<u64>().ok());
    assert!(after_ms.is_some(), "{told:?}");
    let elsewhere = replica.raw_request(Method::GET, "/api/nowhere/broadcast/events");
    let elsewhere = elsewhere.header("Accept", "text/event-stream").send().await.unwrap();
    assert_eq!(elsewhere.status(), 404);
}

/// Reads a stream as it comes until it has these words.
async fn read_until(answer: &mut reqwest::Response, words: &str) -> String {
    let mut text = String::new();
    let read = async {
        while !text.contains(words) {
            text.push_str(std::str::from_utf8(&answer.chunk().await.unwrap().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap_or_else(|_| panic!("{words} did not come"));
    text
}

#[tokio::test]
async fn what_is_sent_has_no_line_separators_but_its_own_and_keep_alives_are_no_messages() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--heartbeat-seconds", "1"])).await;
    let message = "one\u{2028}two\u{2029}three";
    replica.post_broadcast(message).await;
    let mut events = replica.request(Method::GET, "/events?user_id=u").send().await.unwrap();
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache, no-transform"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(events.headers()[name], value);
    }
    let streamed = read_until(&mut events, "\n:\n").await;
    assert!(streamed.contains("one\\u2028two\\u2029three"), "{streamed}");
    assert!(!streamed.contains(":\n\n") && !streamed.contains(['\u{2028}', '\u{2029}']), "{streamed:?}");
    for request in [
        replica.request(Method::GET, "/active"),
        replica.request(Method::GET, "/history"),
        replica.request(Method::POST, "").json(&json!({"message": "x", "type": message})),
        replica.raw_request(Method::GET, "/api/audit/events").header("X-User-Role", "auditor"),
    ] {
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(!text.contains(['\u{2028}', '\u{2029}']), "{text:?}");
    }
    assert_eq!(replica.active("u").await["message"], Value::from(message));
    assert_eq!(replica.connect(&percent_encoded("u")).await.greeted().await["message"], message);
}
