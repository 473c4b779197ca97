//! Pages of browsers: which may change something, which may read, and that a cookie alone is not enough.

use reqwest::Method;
use serde_json::json;

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
        assert!(header("access-control-expose-headers").unwrap().contains("Tidings-Sequence"));
        assert_eq!(header("vary").as_deref(), Some("origin"));
        let change = clear(&replica, origin).header("Cookie", format!("session={token}"));
        assert_eq!(said(&replica, change).await, is(200, ""), "{origin}");
    }
    let own = replica.url();
    for origin in [&*own, "https://example.org", "https://evilexample.org", "http://app.example.com", "null"]
    {
        let answer = ask(origin).send().await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
        assert_eq!(answer.headers()["vary"], "origin", "{origin}");
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
        "vary: origin",
    ] {
        assert!(head.lines().any(|given| given == line), "{line}: {head}");
    }
    let headers = head.lines().find(|line| line.starts_with("access-control-allow-headers: ")).unwrap();
    for name in ["authorization", "content-type", "idempotency-key", "if-match", "tidings-min-sequence"] {
        assert!(headers.contains(name), "{headers}");
    }
    let stranger = asked_first(&replica, "https://evil.example.org").await;
    assert!(stranger.starts_with("http/1.1 403 ") && !stranger.contains("allow-origin"), "{stranger}");
    // Who just sends OPTIONS has no question.
    let plain = replica.request(Method::OPTIONS, "").send().await.unwrap();
    assert_eq!(plain.status(), 405);
}

#[tokio::test]
async fn in_dev_auth_a_name_that_somebody_made_lead_here_is_refused() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url());
    let replica = Replica::start_with(spec.clone()).await;
    let active = |replica: &Replica, host: &str| replica.request(Method::GET, "/active").header("Host", host);
    for host in ["localhost:8000", "127.0.0.1", "[::1]"] {
        assert_eq!(said(&replica, active(&replica, host)).await, is(200, ""), "{host}");
    }
    for host in ["rebound.example.org:8000", "10.0.0.1", "localhost.example.org"] {
        assert_eq!(said(&replica, active(&replica, host)).await, is(403, "host_not_allowed"), "{host}");
        let change = clear(&replica, &format!("http://{host}")).header("Host", host);
        assert_eq!(said(&replica, change).await.0, 403, "{host}");
    }
    let create = replica.request(Method::POST, "").header("Host", "rebound.example.org");
    assert_eq!(said(&replica, create.json(&json!({"message": "x"}))).await, is(403, "host_not_allowed"));
    // Where something else limits who asks, names are its business.
    let anywhere = Replica::start_with(spec.with(&["--auth-dev-anywhere"])).await;
    assert_eq!(said(&anywhere, active(&anywhere, "tidings.internal")).await, is(200, ""));
}
