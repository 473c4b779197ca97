//! The REST interface: every mistake has its answer, in one form, and what is accepted is kept as it was said.

use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
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
        assert_eq!(headers["tidings-sequence"], sequence.to_string());
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
async fn a_broadcast_that_breaks_a_rule_is_refused_with_its_code_and_nothing_is_written() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(281));
    let huge = format!(r#"{{"message":"{}"}}"#, "x".repeat(40_000));
    let deep = format!(r#"{{"message":{}"#, "[".repeat(5_000));
    let table: &[(&[u8], u16, &str)] = &[
        (b"{", 400, "malformed_json"),
        (b"[]", 400, "malformed_json"),
        (b"\"x\"", 400, "malformed_json"),
        (b"{\"message\":\"\xff\"}", 400, "malformed_json"),
        (deep.as_bytes(), 400, "malformed_json"),
        (b"", 422, "missing_field"),
        (b"{}", 422, "missing_field"),
        (br#"{"message":null}"#, 422, "missing_field"),
        (br#"{"message":7}"#, 422, "invalid_field"),
        (br#"{"message":["x"]}"#, 422, "invalid_field"),
        (br#"{"message":{"text":"x"}}"#, 422, "invalid_field"),
        (br#"{"message":"x","type":1}"#, 422, "invalid_field"),
        (br#"{"message":""}"#, 422, "message_empty"),
        (br#"{"message":" \r\n\t "}"#, 422, "message_empty"),
        (long.as_bytes(), 422, "message_too_long"),
        (br#"{"message":"a\u0000b"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"a\u001b[2Jb"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"evil\u202Egpj.exe"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"a\u2066b"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"\ud800"}"#, 400, "malformed_json"),
        (br#"{"message":"x","type":"urgent"}"#, 422, "unknown_type"),
        (br#"{"message":"x","type":"INFO"}"#, 422, "unknown_type"),
        (br#"{"message":"x","target_user_ids":["1"]}"#, 422, "not_supported"),
        (br#"{"message":"x","target_roles":[]}"#, 422, "not_supported"),
        (br#"{"message":"x","expires_at":"2030-01-01T00:00:00Z"}"#, 422, "not_supported"),
        (br#"{"message":"x","publish_at":"2030-01-01T00:00:00Z"}"#, 422, "not_supported"),
        (br#"{"message":"x","link":"https://example.org"}"#, 422, "not_supported"),
        (huge.as_bytes(), 413, "body_too_large"),
    ];
    for (body, status, code) in table {
        let what = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        refused(json_body(replica.request(Method::POST, ""), body.to_vec()), &what, *status, code).await;
    }

    let too_long =
        refused(json_body(replica.request(Method::POST, ""), long), "281", 422, "message_too_long").await;
    assert_eq!(
        too_long["message"],
        "Broadcast message too long. Maximum 280 characters allowed. Current: 281"
    );
    assert_eq!((&too_long["character_count"], &too_long["max_characters"]), (&json!(281), &json!(280)));
    let body = r#"{"message":" invoice\u202egpj.exe"}"#;
    let forbidden =
        refused(json_body(replica.request(Method::POST, ""), body), body, 422, "message_forbidden_character")
            .await;
    assert_eq!((&forbidden["character"], &forbidden["position"]), (&json!("U+202E"), &json!(8)));
    assert!(forbidden["message"].as_str().unwrap().contains("the character U+202E at position 8"));
    let body = r#"{"message":"x","type":"urgent"}"#;
    let unknown =
        refused(json_body(replica.request(Method::POST, ""), body), body, 422, "unknown_type").await;
    assert_eq!(unknown["allowed"], json!(["info", "warning", "alert"]));
    let body = r#"{"message":"x","target_roles":["a"]}"#;
    let targeted =
        refused(json_body(replica.request(Method::POST, ""), body), body, 422, "not_supported").await;
    assert_eq!(targeted["field"], "target_roles");
    log_is_empty(&replica).await;
}

/// Method, path, headers, body; status and code of the answer.
type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a [u8])], &'a str, u16, &'a str);

#[tokio::test]
async fn every_endpoint_says_what_is_wrong_with_a_request() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = "0198c5a0-1111-7222-8333-444455556666";
    let acknowledge = |id: &str| format!(r#"{{"broadcast_id":"{id}"}}"#);
    let (known_form, other_form) = (acknowledge(id), acknowledge(&id.replace('-', "")));
    let quoted = format!("\"{id}\"");
    let (long_user, long_key) = ("u".repeat(129), "k".repeat(129));
    let json: (&str, &[u8]) = ("content-type", b"application/json");
    let table: &[Row] = &[
        ("POST", "", &[("content-type", b"text/plain")], "{}", 415, "unsupported_media_type"),
        (
            "POST",
            "",
            &[("content-type", b"application/x-www-form-urlencoded")],
            "a=b",
            415,
            "unsupported_media_type",
        ),
        ("POST", "", &[], r#"{"message":"x"}"#, 415, "unsupported_media_type"),
        ("POST", "/clear", &[("content-type", b"text/plain")], "x", 415, "unsupported_media_type"),
        ("POST", "/clear", &[json], "{", 400, "malformed_json"),
        ("POST", "/acknowledge", &[], "", 422, "missing_field"),
        ("POST", "/acknowledge", &[json], r#"{"broadcast_id":7}"#, 422, "invalid_field"),
        ("POST", "/acknowledge", &[json], r#"{"broadcast_id":"7"}"#, 422, "invalid_broadcast_id"),
        ("POST", "/acknowledge", &[json], &other_form, 422, "invalid_broadcast_id"),
        ("POST", "/acknowledge", &[json], &known_form, 404, "unknown_broadcast"),
        ("GET", "", &[], "", 405, "method_not_allowed"),
        ("GET", "/clear", &[], "", 405, "method_not_allowed"),
        ("DELETE", "/acknowledge", &[], "", 405, "method_not_allowed"),
        ("POST", "/active", &[], "", 405, "method_not_allowed"),
        ("PATCH", "/stats", &[], "", 405, "method_not_allowed"),
        ("BREW", "/limits", &[], "", 405, "method_not_allowed"),
        ("POST", "/ws", &[], "", 405, "method_not_allowed"),
        ("GET", "/nothing", &[], "", 404, "not_found"),
        ("GET", "/active/", &[], "", 404, "not_found"),
        ("GET", "/../../nowhere/broadcast/active", &[], "", 404, "unknown_channel"),
        ("GET", "/../../Creator/broadcast/active", &[], "", 404, "unknown_channel"),
        ("GET", "/../../%ff/broadcast/active", &[], "", 404, "not_found"),
        ("GET", "/..", &[], "", 404, "not_found"),
        ("GET", "/ws", &[], "", 426, "upgrade_required"),
        ("GET", "/active", &[("x-user-role", b"root")], "", 401, "no_identity"),
        ("GET", "/active", &[("x-user-id", b"")], "", 401, "no_identity"),
        ("GET", "/active", &[("x-user-id", b"\xff\xfe")], "", 401, "no_identity"),
        ("GET", "/active", &[("x-user-id", long_user.as_bytes())], "", 401, "no_identity"),
        ("POST", "", &[json, ("x-user-id", b"a")], r#"{"message":"x"}"#, 403, "role_required"),
        ("POST", "", &[json, ("x-user-role", b"auditor")], r#"{"message":"x"}"#, 403, "role_required"),
        ("POST", "/clear", &[("x-user-role", b"team")], "", 403, "role_required"),
        ("GET", "/stats", &[("x-user-role", b"user")], "", 403, "role_required"),
        ("GET", "/limits", &[("x-user-role", b"team")], "", 403, "role_required"),
        ("POST", "/clear", &[("if-match", b"*")], "", 400, "invalid_if_match"),
        ("POST", "/clear", &[("if-match", id.as_bytes())], "", 400, "invalid_if_match"),
        ("POST", "", &[json, ("if-match", b"W/\"x\"")], r#"{"message":"x"}"#, 400, "invalid_if_match"),
        ("POST", "", &[json, ("if-match", quoted.as_bytes())], r#"{"message":"x"}"#, 412, "not_active"),
        ("POST", "/clear", &[("if-match", quoted.as_bytes())], "", 412, "not_active"),
        ("POST", "/clear", &[("idempotency-key", b"")], "", 400, "invalid_idempotency_key"),
        ("POST", "/clear", &[("idempotency-key", long_key.as_bytes())], "", 400, "invalid_idempotency_key"),
        (
            "POST",
            "/clear",
            &[("idempotency-key", "schlüssel".as_bytes())],
            "",
            400,
            "invalid_idempotency_key",
        ),
        ("GET", "/active", &[("tidings-min-sequence", b"x")], "", 400, "invalid_sequence"),
        ("GET", "/active", &[("tidings-min-sequence", b"-1")], "", 400, "invalid_sequence"),
        ("GET", "/stats", &[("tidings-min-sequence", b"99999999999999999999")], "", 400, "invalid_sequence"),
        ("GET", "/limits?min_sequence=1.5", &[], "", 400, "invalid_sequence"),
        ("GET", "/ws?min_sequence=x", &[], "", 400, "invalid_sequence"),
    ];
    for (method, path, headers, body, status, code) in table {
        let mut request = replica.request(method.parse().unwrap(), path).body((*body).to_owned());
        for (name, value) in *headers {
            let name: HeaderName = name.parse().unwrap();
            request = request.header(name, HeaderValue::from_bytes(value).unwrap());
        }
        let body = refused(request, &format!("{method} {path} {headers:?}"), *status, code).await;
        assert!(*status != 412 || body["active"].is_null(), "{body}");
    }
    log_is_empty(&replica).await;

    let allowed = sent(replica.request(Method::DELETE, "/clear")).await.1;
    assert_eq!(allowed["allow"], "POST");
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
        ("e\u{301}\u{fffd}\u{10ffff}", "e\u{301}\u{fffd}\u{10ffff}"),
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

    // Lenient where it is safe: a slash more, fields it does not know, absent as null, a clear without anything.
    let body = r#"{"message":"x","type":null,"target_user_ids":null,"later":{"is":["fine"]}}"#;
    for (path, kind) in [("", "application/json; charset=utf-8"), ("/", "application/vnd.example+json")] {
        let request = replica.request(Method::POST, path).header("Content-Type", kind).body(body);
        assert_eq!(accepted(request).await["status"], "success");
    }
    assert_eq!(replica.active("somebody").await["message_type"], "info");
    let cleared = accepted(replica.request(Method::POST, "/clear")).await;
    assert!(cleared["sequence"].is_u64());
    let again = accepted(json_body(replica.request(Method::POST, "/clear"), r#"{"why":"again"}"#)).await;
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
        let body = format!(r#"{{"broadcast_id":"{id}"}}"#);
        let (path, condition) = [("/acknowledge", ""), ("/clear", ""), ("/clear", "If-Match")][round % 3];
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
    let sequence = posted["sequence"].as_u64().unwrap().to_string();
    for path in ["/active", "/stats"] {
        let (status, headers, _) =
            sent(replica.request(Method::GET, path).header("Tidings-Min-Sequence", &sequence)).await;
        assert_eq!(
            (status, headers["tidings-sequence"].to_str().unwrap()),
            (200, sequence.as_str()),
            "{path}"
        );
    }
    let in_query = replica.request(Method::GET, &format!("/limits?min_sequence={sequence}"));
    assert_eq!(accepted(in_query).await["current_active_broadcasts"], 1);

    let started = Instant::now();
    let far = replica.request(Method::GET, "/active").header("Tidings-Min-Sequence", "4000000");
    let (status, headers, body) = sent(far).await;
    assert_eq!((status, body["code"].as_str()), (503, Some("behind")), "{body}");
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().is_ok_and(|seconds| seconds > 0));
    assert!(started.elapsed() >= Duration::from_millis(1_900), "it was awaited: {:?}", started.elapsed());
}

#[tokio::test]
async fn pages_of_other_origins_may_read_nothing_in_secret_and_change_nothing() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for origin in ["https://evil.example", "http://localhost.evil.example", "not an origin", "file://"] {
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
        // The browser keeps the answer from the page, since nothing allows it.
        let read = replica.request(Method::GET, "/active").header("Origin", origin).send().await.unwrap();
        assert_eq!(read.status(), 200, "{origin}");
        assert!(!read.headers().contains_key("access-control-allow-origin"));
    }
    log_is_empty(&replica).await;
    for origin in ["null", "http://localhost:5173", "http://127.0.0.1:8000", "http://[::1]:3000"] {
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

#[tokio::test]
async fn errors_are_problems_where_that_is_asked_for() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let asking = |request: Request, accept: &'static str| request.header("Accept", accept).send();
    let long = || replica.request(Method::POST, "").json(&json!({"message": "x".repeat(281)}));
    let problem = asking(long(), "application/json;q=0.5, application/problem+json").await.unwrap();
    assert_eq!(problem.headers()["content-type"], "application/problem+json");
    assert_eq!(problem.headers()["vary"], "accept");
    let expected = json!({
        "type": "urn:tidings:error:message_too_long",
        "title": "Message too long",
        "status": 422,
        "detail": "Broadcast message too long. Maximum 280 characters allowed. Current: 281",
        "code": "message_too_long",
        "character_count": 281,
        "max_characters": 280,
    });
    assert_eq!(problem.json::<Value>().await.unwrap(), expected);
    // Whatever refuses: no address, no method, a page elsewhere, and what says when to come back.
    let nowhere = replica.raw_request(Method::GET, "/nowhere");
    let method = replica.request(Method::PUT, "/stats");
    let page = replica.request(Method::POST, "/clear").header("Origin", "https://example.org");
    let behind = replica.request(Method::GET, "/active").header("Tidings-Min-Sequence", "7");
    for (request, status, code) in [
        (nowhere, 404, "not_found"),
        (method, 405, "method_not_allowed"),
        (page, 403, "origin_not_allowed"),
        (behind, 503, "behind"),
    ] {
        let answer = asking(request, "application/problem+json").await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
        let body: Value = answer.json().await.unwrap();
        assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)), "{body}");
        assert_eq!(body["retry_after_seconds"].is_u64(), status == 503, "{body}");
    }
    let plain = asking(long(), "*/*").await.unwrap();
    assert_eq!(plain.headers()["content-type"], "application/json");
    let fine = asking(replica.request(Method::GET, "/active"), "application/problem+json").await.unwrap();
    assert_eq!(fine.headers()["content-type"], "application/json");
}
