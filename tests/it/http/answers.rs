//! What every answer carries, and what is decided by the head of a request alone.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Nats, Raw, Replica, Spec, eventually};

#[tokio::test]
async fn the_answer_of_a_timeout_is_formed_as_any_other() {
    let nats = Nats::start().await;
    let limits = ["--request-timeout-seconds", "1", "--append-timeout-ms", "1"];
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&limits)).await;
    let stats = replica.request(Method::GET, "/stats").send().await.unwrap();
    let position = stats.headers()["tidings-position"].to_str().unwrap();
    let ahead = format!("{}-99999", position.split_once('-').unwrap().0);
    let late = replica.request(Method::GET, "/active").header("Tidings-Min-Position", ahead);
    let late = late.header("Accept", "application/problem+json").header("Origin", "http://localhost:3000");
    let answer = late.send().await.unwrap();
    assert_eq!(answer.status(), 503);
    let headers = answer.headers().clone();
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["access-control-allow-origin"], "http://localhost:3000");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["vary"], "origin, authorization, cookie, accept");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "answer_timeout");
    let counted =
        r#"tidings_http_requests_total{method="GET",route="/api/{channel}/broadcast/active",status="503"}"#;
    assert_eq!(replica.count(counted).await, 1);
}

#[tokio::test]
async fn what_is_personal_is_kept_by_no_cache_and_answers_end_with_a_newline() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for (method, path) in [
        (Method::GET, "/active"),
        (Method::GET, "/limits"),
        (Method::GET, "/history"),
        (Method::POST, ""),
        (Method::GET, "/nothing"),
    ] {
        let answer = replica.request(method, path).json(&json!({"message": "one"})).send().await.unwrap();
        let headers = answer.headers().clone();
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert!(headers["vary"].to_str().unwrap().starts_with("origin, authorization, cookie"), "{path}");
        assert_eq!(headers.get_all("vary").iter().count(), 1, "{path}");
        assert!(path == "/nothing" || headers.contains_key("tidings-position"), "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("}\n"), "{path}: {text:?}");
    }
    let ready = replica.raw_request(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(ready.headers()["x-content-type-options"], "nosniff");
    assert!(ready.text().await.unwrap().ends_with("}\n"));
}

fn handshake(method: &str, version: &str, key: &str) -> String {
    format!(
        "{method} /api/creator/broadcast/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_refused_handshake_says_what_would_be_accepted() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let plain = "GET /api/creator/broadcast/ws HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    for (request, status, version) in [
        (plain, 426, None),
        (handshake("GET", "8", key), 426, Some("13")),
        (handshake("GET", "13", "c2hvcnQ="), 400, None),
        (handshake("GET", "13", ""), 400, None),
    ] {
        let mut raw = Raw::connect(&replica).await;
        raw.send(request.as_bytes()).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{request}");
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("upgrade"), (status == 426).then_some("websocket"), "{request}");
        assert_eq!(header("sec-websocket-version"), version, "{request}");
        let connection = header("connection").unwrap_or_default().to_ascii_lowercase();
        assert_eq!(connection.contains("upgrade"), status == 426, "{request}");
    }
    let mut raw = Raw::connect(&replica).await;
    raw.send(handshake("HEAD", "13", key).as_bytes()).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 400 "), "only GET begins a WebSocket: {head}");
}

fn post(fields: &str) -> String {
    format!("POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

#[tokio::test]
async fn who_waits_for_100_continue_is_refused_by_the_head_alone() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let json = "Content-Type: application/json\r\n";
    for (fields, status) in [
        (format!("{json}Content-Length: 9000000\r\n"), 413),
        (format!("{json}Content-Length: 15\r\nX-User-Id: a\r\n"), 403),
        ("Content-Type: text/plain\r\nContent-Length: 15\r\n".to_owned(), 415),
        (format!("{json}Content-Length: 15\r\nContent-Encoding: gzip\r\n"), 415),
        (format!("{json}Content-Length: 15\r\nIf-Match: x\r\n"), 400),
    ] {
        let mut raw = Raw::connect(&replica).await;
        raw.send(post(&format!("Expect: 100-continue\r\n{fields}")).as_bytes()).await;
        assert_eq!(raw.answer().await.status, status, "{fields}");
    }
    let mut raw = Raw::connect(&replica).await;
    let body = r#"{"message":"x"}"#;
    let fields = format!("Expect: 100-continue\r\n{json}Content-Length: {}\r\n", body.len());
    raw.send(post(&fields).as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    raw.send(body.as_bytes()).await;
    assert_eq!(raw.answer().await.status, 201);
}

#[tokio::test]
async fn a_request_that_has_arrived_whole_is_carried_out_though_its_client_hangs_up() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for n in 1..=40 {
        let body = format!(r#"{{"message":"number {n}"}}"#);
        let length = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let mut raw = Raw::connect(&replica).await;
        raw.send(format!("{}{body}", post(&length)).as_bytes()).await;
        raw.finish().await;
        drop(raw);
    }
    eventually("all of them are in the log", || async { replica.readyz().await["sequence"] == 40 }).await;
}

#[tokio::test]
async fn a_byte_order_mark_is_ignored_and_ids_are_read_in_either_case() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let body = "\u{feff}{\"message\":\"from a file\"}";
    let mut raw = Raw::connect(&replica).await;
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    raw.send(format!("{}{body}", post(&fields)).as_bytes()).await;
    let answer = raw.answer().await;
    let posted = answer.body;
    assert_eq!(answer.status, 201, "{posted}");
    let id = posted["id"].as_str().unwrap().to_ascii_uppercase();
    let body = json!({"broadcast_id": id});
    let (status, _) = replica.ask(replica.request(Method::POST, "/acknowledge").json(&body)).await;
    assert_eq!(status, 200);
    let mut client = replica.connect("bob").await;
    client.greeted().await;
    client.send(json!({"type": "acknowledge_broadcast", "broadcast_id": id})).await;
    assert_eq!(
        client.expect("acknowledged").await["broadcast_id"],
        posted["id"],
        "answers have one spelling"
    );
    let (status, one) = replica.ask(replica.request(Method::GET, &format!("/{id}"))).await;
    assert_eq!((status, &one["broadcast"]["id"]), (200, &posted["id"]));
    let (status, _) = replica.ask(replica.request(Method::GET, &format!("/{id}/acks"))).await;
    assert_eq!(status, 200);
    let clear = replica.request(Method::POST, "/clear").header("If-Match", format!("\"{id}\""));
    assert_eq!(replica.ask(clear).await.0, 200);
}

#[tokio::test]
async fn a_target_in_absolute_form_counts_before_the_header_host() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for (target, host, status) in [
        ("http://evil.example/api/creator/broadcast/active", "localhost", 403),
        ("http://localhost/api/creator/broadcast/active", "evil.example", 200),
        ("/api/creator/broadcast/active", "localhost", 200),
    ] {
        let mut raw = Raw::connect(&replica).await;
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!(raw.answer().await.status, status, "{target} {host}");
    }
}
