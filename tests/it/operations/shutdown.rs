//! Stopping: who is connected is sent elsewhere in good order, what is under way is finished, and nobody can prevent the end.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv::Store;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::raw::TEXT;
use crate::support::{Client, Events, Nats, Raw, Replica, Spec, eventually};

/// The hint in the reason of a close for a restart.
fn retry_after_ms(closed: &crate::support::client::Closed) -> u64 {
    assert_eq!(closed.code, 1012, "{closed:?}");
    let reason: Value = serde_json::from_str(&closed.reason).unwrap();
    reason["retry_after_ms"].as_u64().unwrap()
}

async fn greeted(replica: &Replica, user: &str) -> Client {
    let mut client = replica.connect(user).await;
    client.greeted().await;
    client
}

async fn stopped_accepting(replica: &Replica) {
    let address = replica.url().trim_start_matches("http://").to_owned();
    eventually("it does not accept any more", || async {
        tokio::net::TcpStream::connect(&address).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn clients_are_told_when_to_come_back_spread_over_the_time() {
    let nats = Nats::start().await;
    let mut replica = Replica::start_with(Spec::joining(nats.url()).with(&["--drain-seconds", "2"])).await;
    let mut clients = Vec::new();
    for n in 0..200 {
        clients.push(greeted(&replica, &format!("u{n}")).await);
    }
    let mut events = Events::of(replica.request(Method::GET, "/events?user_id=e").send().await.unwrap());
    events.expect("connected").await;
    let began = Instant::now();
    replica.signal(Signal::TERM);
    let mut hints = Vec::new();
    for client in &mut clients {
        hints.push(retry_after_ms(&client.closed().await));
    }
    hints.sort_unstable();
    hints.dedup();
    assert!(hints.len() > 100 && *hints.last().unwrap() < 60_000, "spread: {hints:?}");
    let mut told = None;
    while let Some(event) = events.next().await {
        told = told.or(event.retry_ms);
    }
    assert!(told.is_some(), "an event stream is told, too");
    assert_eq!(replica.ended().await.code(), Some(0));
    // A slow machine can only make it longer. The last of 201 is closed shortly before the time is over.
    assert!(began.elapsed() > Duration::from_millis(1_900), "all at once: {:?}", began.elapsed());
}

#[tokio::test]
async fn during_the_grace_it_is_not_ready_and_serves_as_ever_and_a_second_signal_ends_it_at_once() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--drain-grace-seconds", "600"]);
    let mut replica = Replica::start_with(spec).await;
    let mut before = greeted(&replica, "before").await;
    replica.signal(Signal::TERM);
    eventually("it is not ready any more", || async { !replica.is_ready().await }).await;
    assert_eq!(replica.readyz().await["reason"], "stopping");

    let mut during = greeted(&replica, "during").await;
    let listened = replica.request(Method::GET, "/events?user_id=e").send().await.unwrap();
    let mut events = Events::of(listened);
    events.expect("connected").await;
    events.expect("active_broadcast").await;
    let id = replica.post_broadcast("still here").await["id"].as_str().unwrap().to_owned();
    for client in [&mut before, &mut during] {
        assert_eq!(client.expect("new_broadcast").await["broadcast"]["id"], id.as_str());
        assert_eq!(client.acknowledge(&id).await["type"], "acknowledged");
    }
    assert_eq!(events.expect("new_broadcast").await.data["broadcast"]["id"], id.as_str());

    replica.signal(Signal::TERM);
    assert_eq!(replica.ended().await.code(), Some(1), "{}", replica.log());
    assert_eq!(before.closed().await.code, 1006, "there was no time for a goodbye");
}

#[tokio::test]
async fn signals_that_ask_for_no_end_leave_a_replica_running() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut client = greeted(&replica, "1").await;
    for (signal, line) in [
        (Signal::HUP, "SIGHUP: dev auth has no keys to read again"),
        (Signal::USR1, "SIGUSR1 has no effect"),
        (Signal::USR2, "SIGUSR2 has no effect"),
    ] {
        replica.signal(signal);
        eventually(line, || async { replica.log().contains(line) }).await;
    }
    assert!(replica.is_ready().await);
    replica.post_broadcast("still here").await;
    client.expect("new_broadcast").await;
}

#[tokio::test]
async fn an_acknowledgement_under_way_is_answered_before_the_close() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--append-timeout-ms", "20000"]);
    let mut replica = Replica::start_with(spec).await;
    let id = replica.post_broadcast("acknowledge me").await["id"].as_str().unwrap().to_owned();
    let (mut client, mut idle) = (greeted(&replica, "u").await, greeted(&replica, "idle").await);
    nats.freeze();
    client.send(json!({"type": "acknowledge_broadcast", "broadcast_id": id})).await;
    client.send_text("ping").await;
    assert_eq!(client.next_text().await, Ok("pong".to_owned()), "what was sent before is taken in");
    replica.signal(Signal::TERM);
    // Both are told to close at the same moment.
    retry_after_ms(&idle.closed().await);
    nats.thaw();
    let answer = client.expect("acknowledged").await;
    assert_eq!((&answer["broadcast_id"], &answer["already"]), (&json!(id), &json!(false)));
    retry_after_ms(&client.closed().await);
    assert_eq!(replica.ended().await.code(), Some(0));
    replica.start_again().await;
    assert_eq!(replica.active("u").await, Value::Null, "it is acknowledged");
}

#[tokio::test]
async fn a_request_under_way_is_answered_though_nobody_else_is_let_in() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let body = r#"{"message": "just in time"}"#;
    let mut request = Raw::connect(&replica).await;
    let head = format!(
        "POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    request.send(head.as_bytes()).await;
    let go_on = request.head().await;
    assert!(go_on.starts_with("HTTP/1.1 100 "), "the replica waits for the body: {go_on}");
    replica.signal(Signal::TERM);
    stopped_accepting(&replica).await;
    request.send(body.as_bytes()).await;
    let answer = request.head().await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(String::from_utf8_lossy(&request.rest().await).contains("\"sequence\":1"));
    assert_eq!(replica.ended().await.code(), Some(0));
}

#[tokio::test]
async fn clients_that_neither_answer_nor_finish_do_not_hold_up_the_end() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let mut mute = Raw::websocket(&replica, "?user_id=mute").await;
    mute.frame().await.expect("it is greeted");
    let mut half = Raw::connect(&replica).await;
    let head =
        "POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    half.send(format!("{head}Content-Length: 9\r\n\r\n{{").as_bytes()).await;
    replica.signal(Signal::TERM);
    assert_eq!(mute.close_code().await, Some(1012));
    mute.send_frame(TEXT, b"ping").await;
    assert_eq!(replica.ended().await.code(), Some(0));
    let log = replica.log();
    assert!(log.contains("did not finish within 10 s") && log.contains("stopped"), "{log}");
}

/// The bucket of heartbeats and of the mirror's lease.
async fn replicas(nats: &Nats) -> Store {
    nats.jetstream().await.get_key_value("broadcast_replicas").await.unwrap()
}

#[tokio::test]
async fn heartbeat_and_lease_are_given_up_with_the_end() {
    let nats = Nats::start().await;
    let spec = |name| Spec::joining(nats.url()).with(&["--replica", name]);
    let mut first = Replica::start_with(spec("first")).await;
    let kv = replicas(&nats).await;
    let lease = || async { kv.get("mirror").await.unwrap() };
    eventually("the first one mirrors", || async { lease().await.is_some() }).await;
    let held = lease().await;
    let second = Replica::start_with(spec("second")).await;
    eventually("both are counted", || async { second.stats().await["replicas"] == 2 }).await;

    assert_eq!(first.terminate().await.code(), Some(0));
    assert_eq!(kv.get("first").await.unwrap(), None, "its heartbeat is gone with it");
    assert_ne!(lease().await, held, "and so is its lease");
    eventually("it is not counted", || async { second.stats().await["replicas"] == 1 }).await;
    eventually("the second one mirrors", || async { second.count("tidings_mirroring").await == 1 }).await;
}
