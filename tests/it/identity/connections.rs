//! Tokens on connections: where they may be, that a connection ends with its token, and that another lets it live on.

use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::support::client::Closed;
use crate::support::contract::openapi::operations;
use crate::support::issuer::{SECRET, claims, in_seconds};
use crate::support::{Client, Events, Issuer, Nats, Raw, Replica, Request, Spec};

async fn start(nats: &Nats, more: &[&str]) -> Replica {
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt"]).with(more);
    Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await
}

fn lasting(seconds: i64, user: &str, roles: &[&str]) -> String {
    let mut claims = claims(user, roles);
    claims["exp"] = in_seconds(seconds).into();
    Issuer::secret(SECRET).sign(&claims)
}

/// The status and the code with which somebody is not let in.
fn refused(connected: Result<Client, Error>) -> (u16, String) {
    let Err(Error::Http(answer)) = connected else { panic!("it is let in, or there was no answer") };
    let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap()).unwrap();
    (answer.status().as_u16(), body["code"].as_str().unwrap().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn post(replica: &Replica, token: &str, message: &str) -> Request {
    let request = replica.request(Method::POST, "").header("Authorization", format!("Bearer {token}"));
    request.json(&json!({"message": message}))
}

#[tokio::test]
async fn a_connection_is_let_in_by_a_token_in_any_of_its_places() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--auth-query-token"]).await;
    let token = Issuer::secret(SECRET).token("1", &[]);
    let (bearer, cookie) = (format!("Bearer {token}"), format!("x=y; session={token}"));
    let (url, protocol) = (replica.url(), format!("bearer, {token}"));
    let elsewhere = format!("chat, {protocol}");
    for (query, headers, selected) in [
        ("", vec![("Authorization", &*bearer)], None),
        ("?user_id=1", vec![("Authorization", &*bearer)], None),
        // The old service's browser client, unchanged.
        ("?user_id=1", vec![("Cookie", &*cookie), ("Origin", &*url)], None),
        ("", vec![("Sec-WebSocket-Protocol", &*protocol), ("Origin", &*url)], Some("bearer")),
        ("?user_id=1", vec![("Sec-WebSocket-Protocol", &*elsewhere)], Some("bearer")),
        (&format!("?token={token}&role=creator"), vec![], None),
    ] {
        let mut client = replica.try_connect(query, &headers).await.unwrap();
        assert_eq!(client.greeted().await, Value::Null, "{query} {headers:?}");
        assert_eq!(client.protocol.as_deref(), selected);
    }
}

#[tokio::test]
async fn a_token_that_was_given_on_purpose_counts_before_a_cookie() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--auth-query-token"]).await;
    let good = Issuer::secret(SECRET).token("ann", &[]);
    let (protocol, query, url) = (format!("bearer, {good}"), format!("?token={good}"), replica.url());
    for stale in [
        "session=eyJfcGVybWFuZW50Ijp0cnVlfQ.ZxYabc.abc".to_owned(),
        format!("session={}", lasting(-300, "ann", &[])),
    ] {
        let page = [("Cookie", &*stale), ("Origin", &*url)];
        let with_protocol = [page[0], page[1], ("Sec-WebSocket-Protocol", &*protocol)];
        replica.try_connect("", &with_protocol).await.unwrap().greeted().await;
        replica.try_connect(&query, &page).await.unwrap().greeted().await;
        let events = replica.request(Method::GET, &format!("/events{query}")).header("Cookie", &*stale);
        assert_eq!(events.send().await.unwrap().status(), 200);
        assert_eq!(refused(replica.try_connect("", &page).await).0, 401, "alone it counts");
    }
    let emptied =
        replica.request(Method::GET, "/active").header("Cookie", format!("session=; session={good}"));
    assert_eq!(replica.ask(emptied).await.0, 200, "an application deletes a cookie by emptying it");
}

#[tokio::test]
async fn in_the_query_a_token_opens_connections_and_does_nothing_else() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--auth-query-token"]).await;
    let token = Issuer::secret(SECRET).token("ann", &["creator", "auditor"]);
    let query = format!("?token={token}");
    replica.try_connect(&query, &[]).await.unwrap().greeted().await;
    let events = replica.request(Method::GET, &format!("/events{query}")).send().await.unwrap();
    Events::of(events).expect("connected").await;
    let mut others = 0;
    for (method, path, operation) in operations().filter(|(_, path, _)| path.starts_with("/api/")) {
        if ["connectWebSocket", "listenToEvents"].contains(&operation["operationId"].as_str().unwrap()) {
            continue;
        }
        let path =
            path.replace("{channel}", "creator").replace("{id}", "0198c5a0-1111-7222-8333-444455556666");
        let (status, body) = replica.ask(replica.raw_request(method, &format!("{path}{query}"))).await;
        assert_eq!((status, &body["code"]), (401, &json!("no_identity")), "{path}");
        others += 1;
    }
    assert!(others > 10, "{others}");
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let token = Issuer::secret(SECRET).token("ann", &["creator"]);
    let (bearer, cookie, url) = (format!("Bearer {token}"), format!("session={token}"), replica.url());
    let expired = format!("Bearer {}", lasting(-15, "ann", &[]));
    for (query, headers, answer) in [
        ("?user_id=ann&role=creator", vec![("X-User-Id", "ann")], is(401, "no_identity")),
        (&*format!("?token={token}"), vec![], is(401, "no_identity")),
        ("", vec![("Authorization", "Bearer x")], is(401, "invalid_token")),
        ("", vec![("Sec-WebSocket-Protocol", "bearer")], is(401, "invalid_token")),
        ("", vec![("Sec-WebSocket-Protocol", "bearer, a.b.c")], is(401, "invalid_token")),
        // Good for a request yet, by the leeway; a connection would end at once.
        ("", vec![("Authorization", &*expired)], is(401, "token_expired")),
        ("?user_id=bob", vec![("Authorization", &*bearer)], is(403, "other_user")),
        ("?user_id=", vec![("Authorization", &*bearer)], is(403, "other_user")),
        ("?user_id=bob", vec![("Cookie", &*cookie), ("Origin", &*url)], is(403, "other_user")),
        // A page elsewhere has the browser send the cookie.
        (
            "",
            vec![("Cookie", &*cookie), ("Origin", "https://evil.example.org")],
            is(403, "origin_not_allowed"),
        ),
        ("", vec![("Cookie", &*cookie), ("Origin", "null")], is(403, "origin_not_allowed")),
        ("", vec![("Cookie", &*cookie)], is(403, "origin_not_allowed")),
        // Nor does it help to have a token of one's own.
        (
            "",
            vec![("Authorization", &*bearer), ("Origin", "https://evil.example.org")],
            is(403, "origin_not_allowed"),
        ),
    ] {
        assert_eq!(refused(replica.try_connect(query, &headers).await), answer, "{query} {headers:?}");
    }
    // On a WebSocket alone, a token may be behind the subprotocol.
    let rest =
        replica.request(Method::GET, "/active").header("Sec-WebSocket-Protocol", format!("bearer, {token}"));
    assert_eq!(replica.ask(rest).await.0, 401);
    for odd in [&b"bearer, \xff\xfe"[..], b"bearer,\x01", b"\x80", b"bearer, a b c, \xc3\xa9"] {
        let mut raw = Raw::connect(&replica).await;
        raw.send(
            b"GET /api/creator/broadcast/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: ",
        )
        .await;
        raw.send(odd).await;
        raw.send(b"\r\n\r\n").await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 40"), "{odd:?}: {head}");
    }
    assert!(!replica.log().contains(&token), "the token is in the log");
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let token = lasting(6, "ann", &["team"]);
    let mut client = replica.connect_as(&token).await;
    let events = replica.request(Method::GET, "/events").header("Authorization", format!("Bearer {token}"));
    let mut events = Events::of(events.send().await.unwrap());
    client.greeted().await;
    let left = client.expect("expiring").await["in_seconds"].as_u64().unwrap();
    assert!((1..=6).contains(&left), "{left}");
    // What comes meanwhile still comes, and talking does not help.
    let creator = Issuer::secret(SECRET).token("carl", &["creator"]);
    assert_eq!(post(&replica, &creator, "x").send().await.unwrap().status(), 201);
    client.until("the news", |m| m["type"] == "new_broadcast").await;
    client.send_text("ping").await;
    assert_eq!(client.closed().await, Closed { code: 4401, reason: "expired".to_owned() });
    assert!(client.heard.iter().filter(|m| m["type"] == "expiring").count() == 1, "{:?}", client.heard);

    let mut heard = Vec::new();
    while let Some(event) = events.next().await {
        assert_eq!(event.retry_ms, None, "it is no restart");
        heard.push(event.data["type"].as_str().unwrap().to_owned());
    }
    assert!(
        heard.contains(&"expiring".to_owned()) && heard.contains(&"new_broadcast".to_owned()),
        "{heard:?}"
    );
    let closed = r#"tidings_websocket_closes_total{code="4401"}"#;
    assert_eq!(replica.count(closed).await, 1);
}

#[tokio::test]
async fn a_refreshed_connection_lives_on_with_the_roles_of_the_new_token() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let issuer = Issuer::secret(SECRET);
    let creator = issuer.token("carl", &["creator"]);
    let mut client = replica.connect_as(&lasting(8, "ann", &["team"])).await;
    let mut watching = replica.connect_as(&lasting(3_600, "ann", &["user"])).await;
    client.greeted().await;
    watching.greeted().await;
    client.until("numbers, which team learns", |m| m["type"] == "stats_update").await;

    // What is not right changes nothing, and does not end the connection.
    for (token, code) in [
        (issuer.token("bob", &["team"]), "other_user"),
        (lasting(-5, "ann", &["team"]), "token_expired"),
        (lasting(-300, "ann", &["team"]), "token_expired"),
        (Issuer::secret("another secret that is also long enough").token("ann", &["team"]), "invalid_token"),
        ("x".to_owned(), "invalid_token"),
        (String::new(), "invalid_token"),
    ] {
        client.send(json!({"type": "refresh", "token": token})).await;
        let answer = client.until("an answer", |m| m["type"] == "error").await;
        assert_eq!(answer["code"], code, "{answer}");
        assert!(token.len() < 9 || !answer.to_string().contains(&token), "{answer}");
    }
    client.send(json!({"type": "refresh"})).await;
    assert_eq!(client.until("an answer", |m| m["type"] == "error").await["code"], "invalid_token");

    // It takes the role away: from its answer on, nothing comes that only team learns.
    client.send(json!({"type": "refresh", "token": lasting(3_600, "ann", &[])})).await;
    let left = client.until("its answer", |m| m["type"] == "refreshed").await["in_seconds"].as_u64().unwrap();
    assert!((3_590..=3_600).contains(&left), "{left}");
    let known = client.heard.len();
    // And gives it to another.
    watching.send(json!({"type": "refresh", "token": lasting(3_600, "ann", &["team"])})).await;
    watching.expect("refreshed").await;
    assert_eq!(post(&replica, &creator, "one").send().await.unwrap().status(), 201);
    watching.until("that it was sent", |m| m["type"] == "broadcast_sent").await;
    watching.until("numbers", |m| m["type"] == "stats_update").await;

    // Past the end of its first token it is still there.
    let mut short = replica.connect_as(&lasting(8, "late", &[])).await;
    assert_eq!(short.closed().await.code, 4401);
    assert_eq!(post(&replica, &creator, "two").send().await.unwrap().status(), 201);
    client.until("the second", |m| m["broadcast"]["message"] == "two").await;
    let since: Vec<_> = client.heard[known..].iter().map(|m| m["type"].as_str().unwrap()).collect();
    assert_eq!(since, ["new_broadcast", "new_broadcast"]);
}

#[tokio::test]
async fn an_auditor_follows_the_log_as_long_as_their_token_lasts() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let creator = Issuer::secret(SECRET).token("carl", &["creator"]);
    assert_eq!(post(&replica, &creator, "x").send().await.unwrap().status(), 201);
    let follow = replica.raw_request(Method::GET, "/api/audit/events?follow=true");
    let token = lasting(3, "audrey", &["auditor"]);
    let followed = follow.header("Authorization", format!("Bearer {token}")).send().await.unwrap();
    // It ends in good order, and has told what there was.
    let text = followed.text().await.unwrap();
    assert_eq!(text.lines().filter(|line| !line.is_empty()).count(), 1, "{text}");
}

#[tokio::test]
async fn in_dev_auth_there_is_nothing_to_refresh() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut client = replica.connect("ann").await;
    client.greeted().await;
    client.send(json!({"type": "refresh", "token": Issuer::secret(SECRET).token("ann", &["creator"])})).await;
    assert_eq!(client.expect("error").await["code"], "not_supported");
}
