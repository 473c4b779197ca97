//! The WebSocket and the event stream: greetings, heartbeats, closes, and nobody misses or doubles anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::Position;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::judge::clients::sequence_in;
use crate::support::raw::{CLOSE, PING, PONG, TEXT};
use crate::support::{Client, Events, Nats, Raw, Replica, Spec, eventually};

#[tokio::test]
async fn a_connection_is_greeted_and_asked_questions_are_answered() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut client = replica.connect("u").await;
    let hello = client.next().await;
    assert_eq!(hello["type"], "connected");
    assert_eq!(
        (&hello["mode"], &hello["heartbeat_seconds"], sequence_in(&hello)),
        (&json!("cluster"), &json!(30), Some(0))
    );
    assert_eq!(
        client.next().await,
        json!({"type": "active_broadcast", "broadcast": null, "position": hello["position"]})
    );

    let id = replica.post_broadcast("hello").await["id"].clone();
    let new = client.expect("new_broadcast").await;
    client.send(json!({"type": "get_active_broadcast"})).await;
    let active = client.expect("active_broadcast").await;
    assert_eq!((&active["broadcast"], &active["position"]), (&new["broadcast"], &new["position"]));
    client.acknowledge(id.as_str().unwrap()).await;
    client.send(json!({"type": "get_active_broadcast"})).await;
    assert_eq!(client.expect("active_broadcast").await["broadcast"], Value::Null, "acknowledged");
    client.send_text("ping").await;
    assert_eq!(client.next_text().await.unwrap(), "pong");
    client.send_text("pong").await;
    client.send_raw(Message::Ping("x".into())).await;
    client.send_text("ping").await;
    assert_eq!(client.next_text().await.unwrap(), "pong", "a pong needs no answer");
}

#[tokio::test]
async fn what_is_not_understood_is_answered_and_the_connection_lives() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut client = replica.connect("u").await;
    client.greeted().await;
    let deep = "[".repeat(4_000);
    let table = [
        ("{", "malformed_json"),
        ("", "malformed_json"),
        (&deep, "malformed_json"),
        ("[1]", "unknown_type"),
        (r#"{"type":null}"#, "unknown_type"),
        (r#"{"type":"shout"}"#, "unknown_type"),
        (r#"{"type":"refresh","token":"t"}"#, "not_supported"),
        (r#"{"type":"acknowledge_broadcast"}"#, "invalid_broadcast_id"),
        (r#"{"type":"acknowledge_broadcast","broadcast_id":"1"}"#, "invalid_broadcast_id"),
        (
            r#"{"type":"acknowledge_broadcast","broadcast_id":"0198c5a0-1111-7222-8333-444455556666"}"#,
            "unknown_broadcast",
        ),
    ];
    for (text, code) in table {
        client.send_text(text).await;
        let error = client.expect("error").await;
        assert_eq!(error["code"], code, "{text}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    replica.post_broadcast("still listening").await;
    assert_eq!(client.expect("new_broadcast").await["broadcast"]["message"], "still listening");
}

/// What it is, the frame's first byte, whether it is masked, its payload; the close code.
type Sends = (&'static str, u8, bool, &'static [u8], u16);

#[tokio::test]
async fn what_breaks_the_protocol_closes_with_its_code() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let big = "x".repeat(5_000);
    for (message, code) in [(Message::binary(vec![1, 2]), 1003), (Message::text(&*big), 1009)] {
        let mut client = replica.connect("u").await;
        client.greeted().await;
        client.send_raw(message).await;
        assert_eq!(client.closed().await.code, code);
    }

    let table: [Sends; 6] = [
        ("invalid UTF-8", TEXT, true, b"\xc3\x28", 1007),
        ("no mask", TEXT, false, b"ping", 1002),
        ("a reserved bit", TEXT | 0x40, true, b"ping", 1002),
        ("a reserved opcode", 0x83, true, b"ping", 1002),
        ("a control frame in pieces", PING & 0x7f, true, b"", 1002),
        ("a continuation of nothing", 0x80, true, b"x", 1002),
    ];
    for (what, first, masked, payload, code) in table {
        let mut raw = Raw::websocket(&replica, "?user_id=u").await;
        if masked {
            raw.send_frame(first, payload).await;
        } else {
            raw.send(&[&[first, u8::try_from(payload.len()).unwrap()], payload].concat()).await;
        }
        assert_eq!(raw.close_code().await, Some(code), "{what}");
    }
    let mut pieces = Raw::websocket(&replica, "?user_id=u").await;
    pieces.send_frame(TEXT & 0x7f, &[b'x'; 3_000]).await;
    pieces.send_frame(0x80, &[b'x'; 3_000]).await;
    assert_eq!(pieces.close_code().await, Some(1009), "a message in pieces has the same limit");

    let mut flooding = replica.connect("u").await;
    for _ in 0..60 {
        flooding.send_raw(Message::text("pong")).await;
    }
    assert_eq!(flooding.closed().await.code, 4029);
    eventually("none of them is counted any more", || async { replica.stats().await["connections"] == 0 })
        .await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_one_without_a_sign_of_life_is_closed() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--heartbeat-seconds", "1", "--liveness-seconds", "3"]);
    let replica = Replica::start_with(spec).await;
    let dead = async {
        let started = Instant::now();
        let mut raw = Raw::websocket(&replica, "?user_id=dead").await;
        let mut frames = Vec::new();
        while frames.last().is_none_or(|(first, _)| *first != CLOSE) {
            frames.push(raw.frame().await.expect("a close frame comes before the end"));
        }
        let age = started.elapsed();
        assert!(age >= Duration::from_millis(2_900), "after {age:?}");
        let after_greeting: Vec<_> = frames.drain(2..).collect();
        assert_eq!(after_greeting[..2], [(TEXT, b"ping".to_vec()), (PING, vec![])], "both kinds of ping");
        let (_, close) = after_greeting.last().unwrap();
        assert_eq!(close[..2], 4010_u16.to_be_bytes());
    };
    let polite = async {
        let started = Instant::now();
        let mut raw = Raw::websocket(&replica, "?user_id=polite").await;
        let mut pings = 0;
        while started.elapsed() < Duration::from_secs(5) {
            let (first, payload) = raw.frame().await.expect("it lives by pong frames alone");
            if first == PING {
                pings += 1;
                raw.send_frame(PONG, &payload).await;
            }
        }
        assert!(pings >= 3, "{pings} pings");
    };
    tokio::join!(dead, polite);
}

#[tokio::test]
async fn what_waits_for_a_client_goes_out_in_order_when_it_reads() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let waiting = || replica.count(r#"tidings_messages_waiting{channel="creator"}"#);
    let mut slow = Raw::narrow_websocket(&replica, "?user_id=u").await;
    let mut posted = Vec::new();
    while waiting().await < 3 {
        assert!(posted.len() < 5_000, "nothing waits for a client that does not read");
        posted.push(replica.post_broadcast(&"x".repeat(280)).await["id"].clone());
    }
    let mut heard = Vec::new();
    while heard.len() < posted.len() {
        let (first, payload) = slow.frame().await.expect("it is not closed");
        assert_eq!(first, TEXT);
        let message: Value = serde_json::from_slice(&payload).unwrap();
        if message["type"] == "new_broadcast" {
            heard.push(message["broadcast"]["id"].clone());
        }
    }
    assert_eq!(heard, posted);
    eventually("nothing waits any more", || async { waiting().await == 0 }).await;
}

#[tokio::test]
async fn a_client_that_comes_back_is_whole() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let first = replica.post_broadcast("first").await["id"].clone();
    let mut phone = replica.connect("u").await;
    assert_eq!(phone.greeted().await["id"], first);
    phone.close().await;

    let second = replica.post_broadcast("second").await["id"].clone();
    let mut phone = replica.connect("u").await;
    assert_eq!(phone.greeted().await["id"], second, "what came while it was away");
    phone.close().await;

    replica.acknowledge(second.as_str().unwrap(), "u").await;
    let mut phone = replica.connect("u").await;
    assert_eq!(phone.greeted().await, Value::Null, "acknowledged elsewhere while it was away");
    phone.close().await;

    replica.clear().await;
    assert_eq!(replica.connect("other").await.greeted().await, Value::Null, "cleared while it was away");
}

/// Greets, then listens until a broadcast that comes last; every `(sequence, id)` it was shown, the snapshot first.
async fn attach_and_listen(url: String) -> (u64, Vec<(u64, Value)>) {
    let mut client = Client::connect(&url).await;
    let hello = sequence_in(&client.expect("connected").await).unwrap();
    let snapshot = client.expect("active_broadcast").await;
    let shown = |message: &Value| (sequence_in(message).unwrap(), message["broadcast"]["id"].clone());
    assert_eq!(shown(&snapshot).0, hello);
    let mut all = vec![shown(&snapshot)];
    let mut heard = snapshot;
    while heard["broadcast"]["message"] != "last" {
        heard = client.expect("new_broadcast").await;
        all.push(shown(&heard));
    }
    (hello, all)
}

#[tokio::test]
async fn attaching_while_a_creator_posts_leaves_no_gap_and_no_double() {
    let nats = Nats::start().await;
    let replicas = [Replica::start(&nats).await, Replica::start(&nats).await];
    let mut log = BTreeMap::new();
    let mut clients = Vec::new();
    for n in 0..120 {
        // Two attach while the post is under way, on either replica.
        for replica in &replicas {
            let url = replica.url().replace("http", "ws");
            clients.push(tokio::spawn(attach_and_listen(format!(
                "{url}/api/creator/broadcast/ws?user_id=u{n}"
            ))));
        }
        let posted = replicas[n % 2].post_broadcast(if n == 119 { "last" } else { "more" }).await;
        log.insert(posted["sequence"].as_u64().unwrap(), posted["id"].clone());
    }
    let mut starts = std::collections::BTreeSet::new();
    for client in clients {
        let Ok(listened) = timeout(Duration::from_secs(20), client).await else {
            panic!("a client hears no end")
        };
        let (at, shown) = listened.unwrap();
        starts.insert(at);
        let active = log.range(..=at).next_back().map_or(Value::Null, |(_, id)| id.clone());
        assert_eq!(shown[0], (at, active), "the snapshot is what the log says there");
        let after: Vec<_> = log.range(at + 1..).map(|(sequence, id)| (*sequence, id.clone())).collect();
        assert_eq!(shown[1..], after, "and then everything after {at}, once, in order");
    }
    assert!(starts.len() > 20, "they attached all along: {starts:?}");
}

#[tokio::test]
async fn a_full_replica_sends_newcomers_elsewhere() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--max-connections", "2"])).await;
    let mut first = replica.connect("a").await;
    first.greeted().await;
    let mut second = Events::of(replica.request(Method::GET, "/events").send().await.unwrap());
    second.expect("connected").await;
    let url = format!("{}/api/creator/broadcast/ws", replica.url().replace("http", "ws"));
    match Client::try_connect(&url, None).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a third connection was taken"),
    }
    let listened = replica.request(Method::GET, "/events").send().await.unwrap();
    assert_eq!((listened.status().as_u16(), listened.headers().contains_key("retry-after")), (503, true));
    first.close().await;
    eventually("there is room again", || async { Client::try_connect(&url, None).await.is_ok() }).await;
}

#[tokio::test]
async fn the_event_stream_says_what_the_websocket_says() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let listen = || replica.request(Method::GET, "/events?user_id=u&role=creator");
    let mut events = Events::of(listen().send().await.unwrap());
    let mut client = replica.connect_with("?user_id=u&role=creator").await;
    let greeting = [events.expect("connected").await, events.expect("active_broadcast").await];
    assert_eq!(greeting.map(|event| event.data), [client.next().await, client.next().await]);

    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    replica.acknowledge(&id, "u").await;
    replica.clear().await;
    let mut last = None;
    for kind in ["new_broadcast", "broadcast_sent", "broadcast_acknowledged", "broadcast_cleared"] {
        let mut event = events.next().await.unwrap();
        while event.data["type"] == "stats_update" {
            assert_eq!(event.id, None, "not of the log");
            event = events.next().await.unwrap();
        }
        assert_eq!(event.data, client.expect(kind).await);
        let id = event.id.unwrap();
        assert_eq!(event.data["position"], id.to_string(), "the id is the position");
        assert!(Some(id.sequence) >= last.map(|last: Position| last.sequence));
        last = Some(id);
    }

    // Back with the last id, also with one of another log, which is not compared.
    let last = last.unwrap();
    for id in [last.to_string(), "00000000000000ff-999999999".to_owned(), "nonsense".to_owned()] {
        let mut again = Events::of(listen().header("Last-Event-ID", id).send().await.unwrap());
        let id = again.expect("connected").await.id.unwrap();
        assert!(id.epoch == last.epoch && id.sequence >= last.sequence);
        assert_eq!(again.expect("active_broadcast").await.data["broadcast"], Value::Null);
    }
    eventually("who hung up is not counted", || async { replica.stats().await["connections"] == 2 }).await;
    drop(events);
    eventually("one is left", || async { replica.stats().await["connections"] == 1 }).await;
}
