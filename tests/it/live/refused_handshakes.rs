//! Refused WebSockets: a client that asks with `?v=2` learns the reason from the close code, any other from the HTTP answer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::support::browser::Browser;
use crate::support::issuer::{SECRET, claims, in_seconds};
use crate::support::raw::CLOSE;
use crate::support::{Client, Issuer, Nats, Raw, Replica, Spec, eventually};

async fn start(nats: &Nats, more: &[&str]) -> Replica {
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt"]).with(more);
    Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await
}

/// The status, the error code and the delay of a refusal by HTTP.
fn by_http(connected: Result<Client, Error>) -> (u16, Value, Option<u64>) {
    let Err(Error::Http(answer)) = connected else { panic!("it was let in, or there was no answer") };
    let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap()).unwrap();
    let retry_after = answer.headers().get("Retry-After");
    let seconds = retry_after.map(|seconds| seconds.to_str().unwrap().parse::<u64>().unwrap());
    (answer.status().as_u16(), body["code"].clone(), seconds)
}

/// The same of a refusal by a close code; nothing else may have been said.
async fn by_close(connected: Result<Client, Error>) -> (u16, Value, Option<u64>) {
    let mut client = connected.unwrap();
    let closed = client.closed().await;
    assert_eq!(client.heard, Vec::<Value>::new());
    let reason: Value = serde_json::from_str(&closed.reason).unwrap();
    (closed.code, reason["code"].clone(), reason["retry_after_ms"].as_u64().map(|ms| ms / 1_000))
}

#[tokio::test]
async fn with_v_2_a_refused_handshake_is_a_close_code_and_without_it_an_http_answer() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--max-connections-per-user", "1"]).await;
    let issuer = Issuer::secret(SECRET);
    let good = format!("Bearer {}", issuer.token("ann", &[]));
    let mut old = claims("ann", &[]);
    old["exp"] = in_seconds(-300).into();
    let expired = format!("Bearer {}", issuer.sign(&old));
    let mut first = replica.connect_as(&issuer.token("ann", &[])).await;
    first.greeted().await;
    for (query, headers, status, code) in [
        ("", vec![], 401, "no_identity"),
        ("", vec![("Authorization", "Bearer x")], 401, "invalid_token"),
        ("", vec![("Authorization", &*expired)], 401, "token_expired"),
        ("", vec![("Sec-WebSocket-Protocol", "bearer, a.b.c")], 401, "invalid_token"),
        ("&user_id=bob", vec![("Authorization", &*good)], 403, "other_user"),
        (
            "",
            vec![("Authorization", &*good), ("Origin", "https://evil.example.org")],
            403,
            "origin_not_allowed",
        ),
        ("", vec![("Authorization", &*good)], 429, "too_many_connections_of_user"),
    ] {
        let what = format!("{query} {headers:?}");
        let (answered, said, delay) = by_http(replica.try_connect(&format!("?v=1{query}"), &headers).await);
        assert_eq!((answered, &said), (status, &json!(code)), "{what}");
        assert_eq!(delay.is_some(), status == 429, "{what}");
        let closed = by_close(replica.try_connect(&format!("?v=2{query}"), &headers).await).await;
        assert_eq!(closed, (4_000 + status, said, delay), "{what}");
    }
    first.send_text("ping").await;
    assert_eq!(first.next_text().await.unwrap(), "pong", "the connection that was there is unharmed");
    let refused = r#"tidings_connections_refused_total{reason="too_many_connections_of_user"}"#;
    assert_eq!(replica.count(refused).await, 2, "both forms are counted by their error");
    first.close().await;
    eventually("the place is free again", || async {
        replica.try_connect("?v=2", &[("Authorization", &good)]).await.unwrap().next_text().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn with_v_2_a_full_replica_and_one_that_is_asked_too_often_say_so_by_a_close_code() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--max-connections", "1", "--connects-per-minute", "4"]);
    let replica = Replica::start_with(spec).await;
    let mut first = replica.connect("ann").await;
    first.greeted().await;
    let full = by_close(replica.try_connect("?user_id=bob&v=2", &[]).await).await;
    assert_eq!(full, (4503, json!("too_many_connections"), Some(1)));
    let mut last = full;
    for _ in 0..4 {
        last = by_close(replica.try_connect("?user_id=bob&v=2", &[]).await).await;
    }
    assert_eq!((last.0, last.1), (4429, json!("too_many_requests")));
    assert!(last.2.is_some_and(|seconds| seconds > 0));
}

#[tokio::test]
async fn with_v_2_a_replica_that_has_nothing_true_to_show_yet_says_so_by_a_close_code() {
    let mut nats = Nats::start().await;
    nats.kill();
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.spawn();
    eventually("it listens", || async { !replica.url().is_empty() && !replica.is_ready().await }).await;
    let closed = by_close(replica.try_connect("?user_id=ann&v=2", &[]).await).await;
    assert_eq!(closed, (4503, json!("catching_up"), Some(1)));
    nats.start_again().await;
    eventually("it serves", || replica.is_ready()).await;
    replica.try_connect("?user_id=ann&v=2", &[]).await.unwrap().greeted().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_handshake_itself_is_an_http_answer_with_v_2_too() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let (upgrade, version, key) = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    let page = "Origin: https://evil.example.org\r\n";
    for (path, head, status, code) in [
        ("creator/broadcast/ws?v=2", version.to_owned() + key, 426, "upgrade_required"),
        (
            "creator/broadcast/ws?v=2",
            upgrade.to_owned() + "Sec-WebSocket-Version: 8\r\n" + key,
            426,
            "upgrade_required",
        ),
        ("creator/broadcast/ws?v=2", upgrade.to_owned() + version, 400, "malformed_handshake"),
        // Refused, and no handshake either: there is nothing that a close frame could follow.
        ("creator/broadcast/ws?v=2", upgrade.to_owned() + version + page, 403, "origin_not_allowed"),
        ("nowhere/broadcast/ws?v=2", upgrade.to_owned() + version + key, 404, "unknown_channel"),
        ("creator/broadcast/ws?v=3", upgrade.to_owned() + version + key, 400, "invalid_version"),
        ("creator/broadcast/ws?v=2&v=2", upgrade.to_owned() + version + key, 400, "malformed_query"),
        // A route that is none of WebSockets.
        ("creator/broadcast/active?v=2", upgrade.to_owned() + version + key, 400, "unknown_parameter"),
    ] {
        let mut raw = Raw::connect(&replica).await;
        raw.send(format!("GET /api/{path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n").as_bytes()).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{path} {head}");
    }
}

#[tokio::test]
async fn a_refused_socket_is_closed_at_once_whatever_its_client_does_and_takes_no_place() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--refusals-per-minute", "0"]).await;
    let sockets = replica.count("tidings_sockets").await;
    let began = Instant::now();
    let mut mute = Vec::new();
    for _ in 0..50 {
        // It answers nothing, and does not close.
        let mut raw = Raw::websocket(&replica, "?v=2").await;
        let (first, payload) = raw.frame().await.expect("a close frame");
        assert_eq!((first, &payload[..2]), (CLOSE, &4401_u16.to_be_bytes()[..]));
        assert_eq!(raw.rest().await, b"", "nothing follows the close frame");
        mute.push(raw);
    }
    assert_eq!(replica.count(r#"tidings_connections{channel="creator"}"#).await, 0, "none was a connection");
    eventually("their TCP connections are closed", || async {
        replica.count("tidings_sockets").await == sockets
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(mute);

    // One that sends without end gets its close frame as well, and is not read for ever.
    let mut loud = Raw::websocket(&replica, "?v=2").await;
    loud.send(&vec![0x89; 1 << 20]).await;
    assert_eq!(replica.count(r#"tidings_connections_refused_total{reason="no_identity"}"#).await, 51);
    eventually("it is closed", || async { replica.count("tidings_sockets").await == sockets }).await;
}

#[tokio::test]
async fn a_browser_shows_its_page_why_a_handshake_was_refused() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--max-connections-per-user", "1"]);
    let replica = Replica::start_with(spec).await;
    let browser = Browser::start().await;
    let log = "return document.getElementById('device-log').textContent.includes(arguments[0])";
    browser.open(&replica, "?user=ann").await;

    // One connection too many: the page waits, and tries again.
    let second = browser.visit(&format!("{}/?user=ann", replica.url())).await;
    second.shows("device-phase", "Reconnecting").await;
    let reason = r#"closed: 4429 {"code":"too_many_connections_of_user","retry_after_ms":30000}"#;
    assert_eq!(second.evaluate(log, reason).await, true);

    // A user id that is none: nothing that would pass by itself, so the page does not try again.
    let nobody = browser.visit(&format!("{}/?user={}", replica.url(), "x".repeat(129))).await;
    nobody.shows("device-phase", "Refused").await;
    assert_eq!(nobody.evaluate(log, "closed: 4401 ").await, true);
}
