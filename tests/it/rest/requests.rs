//! The REST interface: every mistake has its answer, in one form, and what is accepted is kept as it was said.

mod refusals;

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::support::{Client, Nats, Raw, Replica, Request, Spec, eventually};

/// `(status, headers, body)` of an answer that is JSON; an error must have the one form that errors have.
async fn answer(response: Response) -> (u16, HeaderMap, Value) {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    assert_eq!(headers["content-type"], "application/json", "{status}");
    let body: Value = response.json().await.unwrap();
    if status >= 400 {
        assert_eq!(body["status"], "error", "{body}");
        assert!(body["code"].as_str().is_some_and(|code| !code.is_empty()), "{body}");
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        assert_eq!(headers.contains_key("retry-after"), status == 503 || status == 429, "{body}");
    }
    (status, headers, body)
}

async fn sent(request: Request) -> (u16, HeaderMap, Value) {
    answer(request.send().await.unwrap()).await
}

async fn refused(request: Request, what: &str, status: u16, code: &str) -> Value {
    let (found, _, body) = sent(request).await;
    assert_eq!((found, body["code"].as_str()), (status, Some(code)), "{what}: {body}");
    body
}

async fn accepted(request: Request) -> Value {
    let (status, headers, body) = sent(request).await;
    assert!((200..300).contains(&status), "{status}: {body}");
    if let Some(sequence) = body["sequence"].as_u64() {
        assert!(headers["tidings-position"].to_str().unwrap().ends_with(&format!("-{sequence}")));
    }
    body
}

/// A JSON body as text, so that it may also be none.
fn json_body(request: Request, body: impl Into<reqwest::Body>) -> Request {
    request.header("Content-Type", "application/json").body(body)
}

async fn log_is_empty(replica: &Replica) {
    let ready = replica.readyz().await;
    assert_eq!((&ready["sequence"], &ready["head"]), (&json!(0), &json!(0)), "nothing was written");
}

#[tokio::test]
async fn what_is_accepted_is_kept_as_it_was_said() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let emoji = "🦀".repeat(280);
    let table = [
        ("Grüße, 世界! 👩‍👩‍👧", "Grüße, 世界! 👩‍👩‍👧"),
        ("  trimmed\r\nand two lines \n", "trimmed\nand two lines"),
        ("שלום \u{200f}עולם", "שלום \u{200f}עולם"),
        ("e\u{301}\u{fffd}\u{10fffd}", "e\u{301}\u{fffd}\u{10fffd}"),
        ("<script>alert('x')</script> \\ \" {}", "<script>alert('x')</script> \\ \" {}"),
        (&emoji, &emoji),
    ];
    let mut client = replica.connect("reader").await;
    client.greeted().await;
    for (said, kept) in table {
        let posted =
            accepted(replica.request(Method::POST, "").json(&json!({"message": said, "type": "alert"})))
                .await;
        assert_eq!(posted["character_count"], kept.chars().count());
        let heard = client.expect("new_broadcast").await["broadcast"].clone();
        assert_eq!((&heard["message"], &heard["type"]), (&json!(kept), &json!("alert")));
        assert_eq!(replica.active("somebody").await, heard);
    }

    // Lenient where it is safe: a slash more, absent as null, a clear without anything.
    let body = r#"{"message":"x","type":null}"#;
    for (path, kind) in [("", "application/json; charset=utf-8"), ("/", "application/vnd.example+json")] {
        let request = replica.request(Method::POST, path).header("Content-Type", kind).body(body);
        assert_eq!(accepted(request).await["status"], "success");
    }
    assert_eq!(replica.active("somebody").await["message_type"], "info");
    let cleared = accepted(replica.request(Method::POST, "/clear")).await;
    assert!(cleared["sequence"].is_u64());
    let again = accepted(json_body(replica.request(Method::POST, "/clear"), r"{}")).await;
    assert_eq!((&again["cleared_for_users"], &again["sequence"]), (&json!(0), &Value::Null));
}

#[tokio::test]
async fn conditions_and_keys_hold() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let post = |message: &str| replica.request(Method::POST, "").json(&json!({"message": message}));
    let quoted = |id: &Value| format!("\"{}\"", id.as_str().unwrap());
    let first = accepted(post("first").header("Idempotency-Key", "k1")).await;
    let second = accepted(post("second").header("If-Match", quoted(&first["id"]))).await;
    for request in [post("third"), replica.request(Method::POST, "/clear")] {
        let body =
            refused(request.header("If-Match", quoted(&first["id"])), "a stale condition", 412, "not_active")
                .await;
        assert_eq!(body["active"], second["id"]);
    }

    // The same key: the first answer, however much happened since; another command under it is refused.
    let again = accepted(post("first").header("Idempotency-Key", "k1")).await;
    assert_eq!((&again["id"], &again["sequence"]), (&first["id"], &first["sequence"]));
    assert_eq!(replica.active("u").await["id"], second["id"], "a retry activates nothing");
    refused(post("other").header("Idempotency-Key", "k1"), "a key again", 422, "idempotency_key_reused")
        .await;
    let somebody = post("first")
        .header("Idempotency-Key", "k1")
        .header("X-User-Id", "ann")
        .header("X-User-Role", "creator");
    assert_ne!(accepted(somebody).await["id"], first["id"], "keys are a user's own");

    let clear = || replica.request(Method::POST, "/clear").header("Idempotency-Key", "k1");
    let cleared = accepted(clear()).await;
    accepted(post("after the clear")).await;
    assert_eq!(accepted(clear()).await["sequence"], cleared["sequence"]);
    assert_eq!(
        replica.active("u").await["message"],
        "after the clear",
        "a repeated clear clears nothing more"
    );
}

#[tokio::test]
async fn a_replica_that_is_behind_does_not_say_no_nor_nothing_to_do() {
    let nats = Nats::start().await;
    let [ahead, behind] = [Replica::start(&nats).await, Replica::start(&nats).await];
    for round in 0..6 {
        behind.signal(Signal::STOP);
        let mut id = String::new();
        for _ in 0..50 {
            id = ahead.post_broadcast("x").await["id"].as_str().unwrap().to_owned();
        }
        // The request is there before it can read on.
        let (path, condition) = [("/acknowledge", ""), ("/clear", ""), ("/clear", "If-Match")][round % 3];
        let acknowledge = format!(r#"{{"broadcast_id":"{id}"}}"#);
        let body = if path == "/clear" { "{}" } else { acknowledge.as_str() };
        let header = if condition.is_empty() { String::new() } else { format!("{condition}: \"{id}\"\r\n") };
        let mut raw = Raw::connect(&behind).await;
        let request = format!(
            "POST /api/creator/broadcast{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        raw.send(request.as_bytes()).await;
        behind.signal(Signal::CONT);
        let head = raw.head().await;
        let answer: Value = serde_json::from_slice(&raw.rest().await).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{path} {condition}: {answer}");
        let took_effect =
            if path == "/clear" { answer["broadcast_id"] == *id } else { answer["already"] == false };
        assert!(took_effect, "{path} {condition}: {answer}");
    }
}

#[tokio::test]
async fn answers_say_how_far_they_are_and_reads_wait_for_it() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let posted = replica.post_broadcast("x").await;
    let epoch = replica.readyz().await["epoch"].as_str().unwrap().to_owned();
    let position = format!("{epoch}-{}", posted["sequence"]);
    for path in ["/active", "/stats"] {
        let (status, headers, _) =
            sent(replica.request(Method::GET, path).header("Tidings-Min-Position", &position)).await;
        assert_eq!(
            (status, headers["tidings-position"].to_str().unwrap()),
            (200, position.as_str()),
            "{path}"
        );
    }
    let in_query = replica.request(Method::GET, &format!("/limits?min_position={position}"));
    assert_eq!(accepted(in_query).await["current_active_broadcasts"], 1);

    let far =
        || replica.request(Method::GET, "/active").header("Tidings-Min-Position", format!("{epoch}-4000000"));
    eventually("the log, asked meanwhile, is known to end before", || async {
        let (status, _, body) = sent(far()).await;
        status == 412 && body["code"] == "other_log"
    })
    .await;
    // How far the log is, a replica cannot know that does not reach it.
    nats.freeze();
    let started = Instant::now();
    let (status, headers, body) = sent(far()).await;
    nats.thaw();
    assert_eq!((status, body["code"].as_str()), (503, Some("behind")), "{body}");
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().is_ok_and(|seconds| seconds > 0));
    assert!(started.elapsed() >= Duration::from_millis(1_900), "it was awaited: {:?}", started.elapsed());
}

#[tokio::test]
async fn pages_of_other_origins_may_read_nothing_in_secret_and_change_nothing() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for origin in
        ["https://evil.example", "http://localhost.evil.example", "not an origin", "file://", "null"]
    {
        for path in ["", "/clear", "/acknowledge"] {
            let request = replica.request(Method::POST, path).header("Origin", origin);
            refused(request, &format!("{origin} {path}"), 403, "origin_not_allowed").await;
        }
        let url = format!("{}/api/creator/broadcast/ws", replica.url().replace("http", "ws"));
        match Client::try_connect(&url, Some(origin)).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 403, "{origin}"),
            Err(other) => panic!("{origin}: {other}"),
            Ok(_) => panic!("{origin} got a WebSocket"),
        }
        let stream = replica.request(Method::GET, "/events").header("Origin", origin);
        refused(stream, &format!("{origin} event stream"), 403, "origin_not_allowed").await;
        // The browser keeps the answer from the page, since nothing allows it.
        let read = replica.request(Method::GET, "/active").header("Origin", origin).send().await.unwrap();
        assert_eq!(read.status(), 200, "{origin}");
        assert!(!read.headers().contains_key("access-control-allow-origin"));
    }
    log_is_empty(&replica).await;
    let refusals = replica.log().matches("refused a request: Pages of the origin").count();
    assert_eq!(refusals, 1, "who runs it sees why, and a caller cannot fill the disk");
    for origin in ["http://localhost:5173", "http://127.0.0.1:8000", "http://[::1]:3000"] {
        accepted(
            replica.request(Method::POST, "").header("Origin", origin).json(&json!({"message": origin})),
        )
        .await;
        let url = format!("{}/api/creator/broadcast/ws", replica.url().replace("http", "ws"));
        let mut client = Client::try_connect(&url, Some(origin)).await.unwrap();
        assert_eq!(client.greeted().await["message"], origin);
    }
}

#[tokio::test]
async fn with_nats_away_nothing_is_promised_and_a_retry_takes_effect_once() {
    let mut nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--on-outage", "reject"])).await;
    let before = replica.post_broadcast("before").await;
    let mut client = replica.connect("u").await;
    client.greeted().await;
    nats.kill();

    let post =
        || replica.request(Method::POST, "").header("Idempotency-Key", "k").json(&json!({"message": "once"}));
    let unknown = refused(post(), "a post", 503, "log_unavailable").await;
    assert_eq!(unknown["outcome"], "unknown");
    let id = unknown["id"].as_str().unwrap().to_owned();
    let acknowledge =
        replica.request(Method::POST, "/acknowledge").json(&json!({"broadcast_id": before["id"]}));
    replica.in_mode("local").await;
    tokio::join!(
        refused(replica.request(Method::POST, "/clear"), "a clear", 503, "log_away"),
        refused(acknowledge, "an acknowledgement", 503, "log_away"),
    );
    for path in ["/active", "/stats", "/limits"] {
        assert_eq!(sent(replica.request(Method::GET, path)).await.0, 200, "reads go on");
    }
    client.until("the mode", |m| m["mode"] == "local").await;
    client.send_text("ping").await;
    assert_eq!(client.next_text().await.unwrap(), "pong", "connections stay");
    assert!(replica.is_ready().await);

    nats.start_again().await;
    eventually("a retry gets through", || async {
        let (status, _, body) = sent(post()).await;
        assert!(status == 201 || status == 503, "{body}");
        if status == 201 {
            assert_eq!(body["id"], id.as_str(), "the id that was given is the id for good");
        }
        status == 201
    })
    .await;
    accepted(post()).await;
    let log = replica.tidings(&["audit", "replay", "--type", "broadcast.created"]).await;
    assert!(log.status.success());
    let told = String::from_utf8(log.stdout).unwrap();
    assert_eq!(
        told.lines().filter(|line| line.contains(&format!("\"id\":\"{id}\",\"type\""))).count(),
        1,
        "{told}"
    );
    client.until("the broadcast, after all", |m| m["broadcast"]["id"] == id.as_str()).await;
}
