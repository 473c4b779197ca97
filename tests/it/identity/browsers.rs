//! Pages of browsers: which may change something, which may read, and that a cookie alone is not enough.

use reqwest::Method;
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use crate::support::contract::openapi::operations;
use crate::support::issuer::SECRET;
use crate::support::{Issuer, Nats, Raw, Replica, Request, Spec};

async fn start(nats: &Nats, more: &[&str]) -> Replica {
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt"]).with(more);
    Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await
}

fn clear(replica: &Replica, origin: &str) -> Request {
    let request = replica.request(Method::POST, "/clear");
    if origin.is_empty() { request } else { request.header("Origin", origin) }
}

async fn said(replica: &Replica, request: Request) -> (u16, String) {
    let (status, body) = replica.ask(request).await;
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn with_a_cookie_only_a_page_that_is_allowed_changes_anything() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let token = Issuer::secret(SECRET).token("carl", &["creator"]);
    let refused = is(403, "origin_not_allowed");
    let by_cookie = |origin: &str| clear(&replica, origin).header("Cookie", format!("session={token}"));
    let by_header = |origin: &str| clear(&replica, origin).header("Authorization", format!("Bearer {token}"));
    assert_eq!(said(&replica, by_cookie(&replica.url())).await, is(200, ""), "the same host");
    assert_eq!(said(&replica, by_header("")).await, is(200, ""), "a program");
    assert_eq!(said(&replica, by_cookie("")).await, refused, "a form of an old browser, or a program");
    for origin in ["https://evil.example.org", "null", "http://127.0.0.1", "http://localhost:1", "x"] {
        assert_eq!(said(&replica, by_cookie(origin)).await, refused, "{origin}");
        assert_eq!(said(&replica, by_header(origin)).await, refused, "{origin}");
    }
    // A form can post without a body, and any text with one.
    let form = |path: &str| {
        let request = replica.request(Method::POST, path).header("Cookie", format!("session={token}"));
        request.header("Origin", "https://evil.example.org").header("Content-Type", "text/plain")
    };
    assert_eq!(said(&replica, form("").body(r#"{"message":"x"}"#)).await, refused);
    // With both, the token that was put there on purpose counts, and the cookie does no harm.
    let both = by_header("").header("Cookie", format!("session={token}"));
    assert_eq!(said(&replica, both).await, is(200, ""));
    assert_eq!(replica.readyz().await["sequence"], 0, "nothing was ever written");
}

#[tokio::test]
async fn pages_that_are_listed_may_ask_and_read_and_others_may_not() {
    let nats = Nats::start().await;
    let list = ["--allowed-origins", "https://app.example.com,https://*.example.org"];
    let replica = start(&nats, &list).await;
    let token = Issuer::secret(SECRET).token("carl", &["creator"]);
    let ask = |origin: &str| {
        let request = replica.request(Method::GET, "/stats").header("Origin", origin);
        request.header("Cookie", format!("session={token}"))
    };
    for origin in ["https://app.example.com", "https://a.example.org", "https://b.a.example.org"] {
        let answer = ask(origin).send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("access-control-allow-origin").as_deref(), Some(origin), "never *");
        assert_eq!(header("access-control-allow-credentials").as_deref(), Some("true"));
        assert!(header("access-control-expose-headers").unwrap().contains("Tidings-Position"));
        assert_eq!(header("vary").as_deref(), Some("origin, authorization, cookie"));
        let change = clear(&replica, origin).header("Cookie", format!("session={token}"));
        assert_eq!(said(&replica, change).await, is(200, ""), "{origin}");
    }
    let own = replica.url();
    for origin in [&*own, "https://example.org", "https://evilexample.org", "http://app.example.com", "null"]
    {
        let answer = ask(origin).send().await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
        assert_eq!(answer.headers()["vary"], "origin, authorization, cookie", "{origin}");
        let change = clear(&replica, origin).header("Cookie", format!("session={token}"));
        assert_eq!(said(&replica, change).await, is(403, "origin_not_allowed"), "{origin}");
    }
    // Errors can be read, too.
    let refused = replica.request(Method::GET, "/stats").header("Origin", "https://app.example.com");
    let answer = refused.send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example.com");
}

/// The head of the answer to the question that a browser asks first.
async fn asked_first(replica: &Replica, origin: &str) -> String {
    let mut raw = Raw::connect(replica).await;
    let head = format!(
        "OPTIONS /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\
         Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, content-type\r\n\r\n"
    );
    raw.send(head.as_bytes()).await;
    raw.head().await.to_ascii_lowercase()
}

#[tokio::test]
async fn a_browser_that_asks_first_is_told() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--allowed-origins", "https://app.example.com"]).await;
    let head = asked_first(&replica, "https://app.example.com").await;
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    for line in [
        "access-control-allow-origin: https://app.example.com",
        "access-control-allow-credentials: true",
        "access-control-allow-methods: get, head, post",
        "access-control-max-age: 600",
        "vary: origin, authorization, cookie",
    ] {
        assert!(head.lines().any(|given| given == line), "{line}: {head}");
    }
    let headers = head.lines().find(|line| line.starts_with("access-control-allow-headers: ")).unwrap();
    for name in [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "tidings-min-position",
    ] {
        assert!(headers.contains(name), "{headers}");
    }
    let stranger = asked_first(&replica, "https://evil.example.org").await;
    assert!(stranger.starts_with("http/1.1 403 ") && !stranger.contains("allow-origin"), "{stranger}");
    // Who just sends OPTIONS has no question.
    let plain = replica.request(Method::OPTIONS, "").send().await.unwrap();
    assert_eq!(plain.status(), 405);
}

/// Every address that answers a `GET`, as the interface describes it.
fn addresses() -> Vec<String> {
    let id = "0198c5a0-1111-7222-8333-444455556666";
    let gets = operations().filter(|(method, ..)| *method == Method::GET);
    gets.map(|(_, path, _)| {
        path.replace("{channel}", "creator").replace("{id}", id).replace("{file}", "app.js")
    })
    .collect()
}

#[tokio::test]
async fn in_dev_auth_a_name_that_somebody_made_lead_here_is_refused_at_every_address() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url());
    let active = |replica: &Replica, host: &str| replica.request(Method::GET, "/active").header("Host", host);
    let own = Replica::start_with(spec.clone()).await;
    let anywhere = ["--auth-dev-anywhere", "--allowed-hosts", "tidings.internal"];
    let anywhere = Replica::start_with(spec.with(&anywhere)).await;
    for (replica, more, strangers) in [
        (&own, &[][..], &["10.0.0.1"][..]),
        // No DNS answer can make an address mean another machine.
        (&anywhere, &["10.0.0.1:8000", "[2001:db8::1]", "tidings.internal:8000"], &["tidings.example.org"]),
    ] {
        for host in ["localhost:8000", "127.0.0.1", "[::1]"].iter().chain(more) {
            assert_eq!(said(replica, active(replica, host)).await, is(200, ""), "{host}");
        }
        for host in ["rebound.example.org:8000", "localhost.example.org"].iter().chain(strangers) {
            for path in addresses() {
                let request = replica.raw_request(Method::GET, &path).header("Host", *host);
                assert_eq!(said(replica, request).await, is(403, "host_not_allowed"), "{host} {path}");
            }
            let change = clear(replica, &format!("http://{host}")).header("Host", *host);
            assert_eq!(said(replica, change).await.0, 403, "{host}");
        }
        let create = replica.request(Method::POST, "").header("Host", "rebound.example.org");
        assert_eq!(said(replica, create.json(&json!({"message": "x"}))).await, is(403, "host_not_allowed"));
        assert!(replica.log().contains("--allowed-hosts"), "who runs it learns what helps");
    }
}

#[tokio::test]
async fn in_dev_auth_the_page_of_a_host_that_is_known_may_talk_to_its_own_service() {
    let nats = Nats::start().await;
    let options = ["--auth-dev-anywhere", "--allowed-hosts", "myhost"];
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&options)).await;
    for host in ["myhost:8000", "192.0.2.7:8000"] {
        let page = replica.raw_request(Method::GET, "/").header("Host", host).send().await.unwrap();
        assert_eq!(page.status(), 200, "{host}");
        let from = |origin: String| clear(&replica, &origin).header("Host", host);
        assert_eq!(said(&replica, from(format!("http://{host}"))).await, is(200, ""), "{host}");
        let elsewhere = from("http://elsewhere:8000".to_owned());
        let (status, refused) = replica.ask(elsewhere).await;
        assert_eq!((status, refused["code"].as_str()), (403, Some("origin_not_allowed")), "{host}");
        assert!(refused["message"].as_str().unwrap().contains("--allowed-origins"), "{refused}");
    }
}

#[tokio::test]
async fn a_page_without_an_origin_of_its_own_may_nothing_unless_that_is_asked_for() {
    let nats = Nats::start().await;
    let dev = Spec::joining(nats.url());
    let closed = Replica::start_with(dev.clone()).await;
    let open = Replica::start_with(dev.with(&["--allowed-origins", "null"])).await;
    for (replica, answer) in [(&closed, is(403, "origin_not_allowed")), (&open, is(200, ""))] {
        assert_eq!(said(replica, clear(replica, "null")).await, answer);
        let events = replica.request(Method::GET, "/events").header("Origin", "null").send().await.unwrap();
        assert_eq!(events.status(), answer.0);
        match replica.try_connect("", &[("Origin", "null")]).await {
            Ok(_) => assert_eq!(answer.0, 200),
            Err(Error::Http(refused)) => assert_eq!(refused.status().as_u16(), answer.0),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn with_a_public_url_a_page_of_the_same_host_and_another_scheme_is_refused() {
    let nats = Nats::start().await;
    let replica =
        start(&nats, &["--public-url", "https://tidings.example.com,https://other.example.com:8443"]).await;
    let token = Issuer::secret(SECRET).token("carl", &["creator"]);
    let by_cookie = |origin: &str| {
        clear(&replica, origin)
            .header("Host", "tidings.example.com")
            .header("Cookie", format!("session={token}"))
    };
    for origin in ["https://tidings.example.com", "https://other.example.com:8443"] {
        assert_eq!(said(&replica, by_cookie(origin)).await, is(200, ""), "{origin}");
    }
    for origin in ["http://tidings.example.com", "https://other.example.com", "http://other.example.com:8443"]
    {
        let (status, refused) = replica.ask(by_cookie(origin)).await;
        assert_eq!((status, refused["code"].as_str()), (403, Some("origin_not_allowed")), "{origin}");
        assert!(refused["message"].as_str().unwrap().contains("https://tidings.example.com"), "{refused}");
    }
}

#[tokio::test]
async fn the_origin_of_an_application_can_be_allowed() {
    let nats = Nats::start().await;
    let replica =
        start(&nats, &["--allowed-origins", "capacitor://localhost,tauri://localhost,app://-"]).await;
    let token = Issuer::secret(SECRET).token("carl", &["creator"]);
    let protocol = format!("Bearer, {token}");
    for origin in ["capacitor://localhost", "tauri://localhost", "app://-"] {
        let request = clear(&replica, origin).header("Authorization", format!("Bearer {token}"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{origin}");
        assert_eq!(answer.headers()["access-control-allow-origin"], origin);
        let headers = [("Origin", origin), ("Sec-WebSocket-Protocol", &*protocol)];
        let mut client = replica.try_connect("", &headers).await.unwrap();
        client.greeted().await;
        assert_eq!(client.protocol.as_deref(), Some("Bearer"), "in the spelling that was offered");
    }
    let other = clear(&replica, "ionic://localhost").header("Authorization", format!("Bearer {token}"));
    assert_eq!(said(&replica, other).await, is(403, "origin_not_allowed"));
}

#[tokio::test]
async fn a_page_elsewhere_uses_up_no_connections_of_a_user() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--max-connections-per-user", "1"]).await;
    let token = Issuer::secret(SECRET).token("ann", &["auditor"]);
    let by_cookie =
        |path: &str| replica.raw_request(Method::GET, path).header("Cookie", format!("session={token}"));
    for path in ["/api/creator/broadcast/events", "/api/audit/events?follow=true"] {
        let with_origin = by_cookie(path).header("Origin", "https://evil.example.com");
        assert_eq!(said(&replica, with_origin).await, is(403, "origin_not_allowed"), "{path}");
        // `fetch` without CORS, and images, have no `Origin`.
        for site in ["cross-site", "same-site"] {
            let without = by_cookie(path).header("Sec-Fetch-Site", site);
            assert_eq!(said(&replica, without).await, is(403, "origin_not_allowed"), "{path} {site}");
        }
    }
    // To its own origin a browser sends none either.
    let own = by_cookie("/api/creator/broadcast/events")
        .header("Sec-Fetch-Site", "same-origin")
        .send()
        .await
        .unwrap();
    assert_eq!(own.status(), 200);
}
