//! Tokens on REST: who is believed, what they may do, and every way to be believed wrongly that we know.

mod commands;

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::issuer::{SECRET, claims, in_seconds, unsigned};
use crate::support::{Issuer, Nats, Raw, Replica, Request, Spec};

/// A replica that takes tokens under the tests' secret.
fn spec(nats: &Nats) -> Spec {
    Spec::joining(nats.url()).with(&["--auth", "jwt"]).with_variable("TIDINGS_AUTH_SECRET", SECRET)
}

fn bearer(request: Request, token: &str) -> Request {
    request.header("Authorization", format!("Bearer {token}"))
}

fn get(replica: &Replica, path: &str, token: &str) -> Request {
    bearer(replica.request(Method::GET, path), token)
}

fn post(replica: &Replica, path: &str, token: &str) -> Request {
    bearer(replica.request(Method::POST, path), token)
}

/// The status and the code of the answer.
async fn said(replica: &Replica, request: Request) -> (u16, String) {
    let (status, body) = replica.ask(request).await;
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn each_role_may_do_what_is_its_own() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(spec(&nats)).await;
    let issuer = Issuer::secret(SECRET);
    let creator = issuer.token("carl", &["creator"]);
    let created = replica.ask(post(&replica, "", &creator).json(&json!({"message": "x"}))).await;
    assert_eq!(created.0, 201, "{}", created.1);
    let id = created.1["id"].as_str().unwrap().to_owned();

    let reads = ["/stats".to_owned(), "/history".to_owned(), format!("/{id}"), format!("/{id}/acks")];
    for (roles, writes, staff, audits) in [
        (&["creator"][..], 201, 200, 403),
        (&["team"], 403, 200, 403),
        (&["user"], 403, 403, 403),
        (&[], 403, 403, 403),
        (&["auditor"], 403, 403, 200),
        (&["auditor", "admin", "creator"], 201, 200, 200),
        (&["Creator", "root", "*"], 403, 403, 403),
    ] {
        let token = issuer.token("ann", roles);
        let status = async |request: Request| request.send().await.unwrap().status().as_u16();
        assert_eq!(
            status(post(&replica, "", &token).json(&json!({"message": "x"}))).await,
            writes,
            "{roles:?}"
        );
        let cleared = status(post(&replica, "/clear", &token)).await;
        assert_eq!(cleared, if writes == 201 { 200 } else { 403 }, "{roles:?}");
        for path in &reads {
            assert_eq!(status(get(&replica, path, &token)).await, staff, "{path} {roles:?}");
        }
        let audit = bearer(replica.raw_request(Method::GET, "/api/audit/events"), &token);
        assert_eq!(status(audit).await, audits, "{roles:?}");
        assert_eq!(status(get(&replica, "/active", &token)).await, 200, "everybody: {roles:?}");
    }
}

#[tokio::test]
async fn everybody_acknowledges_for_themselves_and_for_nobody_else() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(spec(&nats)).await;
    let issuer = Issuer::secret(SECRET);
    let creator = issuer.token("carl", &["creator"]);
    let created = replica.ask(post(&replica, "", &creator).json(&json!({"message": "x"}))).await.1;
    let id = created["id"].as_str().unwrap();
    let ann = issuer.token("ann", &[]);

    // What else she says of herself has no weight, or is refused.
    let request = post(&replica, "/acknowledge", &ann);
    let for_bob = post(&replica, "/acknowledge", &ann).json(&json!({"broadcast_id": id, "user": "bob"}));
    assert_eq!(said(&replica, for_bob).await, is(422, "unknown_field"));
    let body = json!({"broadcast_id": id});
    let done =
        replica.ask(request.header("X-User-Id", "bob").header("X-User-Role", "creator").json(&body)).await;
    assert_eq!(done, (200, json!({"status": "success", "sequence": 2, "already": false})));
    let lie = post(&replica, "/acknowledge?user_id=bob", &ann).json(&json!({"broadcast_id": id}));
    assert_eq!(said(&replica, lie).await, is(403, "other_user"));
    let (_, acks) = replica.ask(get(&replica, &format!("/{id}/acks"), &creator)).await;
    let users: Vec<_> = acks["acknowledgements"].as_array().unwrap().iter().map(|ack| &ack["user"]).collect();
    assert_eq!(users, ["ann"]);
    let active = |token: &str| get(&replica, "/active", token);
    assert_eq!(replica.ask(active(&ann)).await.1["broadcast"], Value::Null);
    assert_eq!(replica.ask(active(&issuer.token("bob", &[]))).await.1["broadcast"]["id"], id);
    assert_eq!(replica.ask(active(&creator)).await.1["broadcast"]["created_by"], "carl");
}

#[tokio::test]
async fn without_a_token_nobody_is_asking() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(spec(&nats)).await;
    for (name, value) in [
        ("X-User-Id", "carl"),
        ("X-User-Role", "creator"),
        ("Authorization", "Basic Y2FybDp4"),
        ("Cookie", "other=x; session="),
        ("Sec-WebSocket-Protocol", "chat"),
    ] {
        let answer = replica.request(Method::GET, "/active").header(name, value).send().await.unwrap();
        assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{name}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], "no_identity", "{name}: {body}");
    }
    let token = Issuer::secret(SECRET).token("carl", &["creator"]);
    let queried = replica.request(Method::GET, &format!("/active?token={token}")).send().await.unwrap();
    assert_eq!(queried.status(), 401, "not in the query");
    // What is for whoever runs it asks nobody. The page is for dev auth.
    for path in ["/livez", "/readyz", "/metrics", "/openapi.yaml"] {
        let answer = replica.raw_request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let mut raw = Raw::connect(&replica).await;
    raw.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_token_that_is_not_right_in_every_way_is_refused_and_says_why() {
    let nats = Nats::start().await;
    let with = ["--auth-audience", "tidings,news", "--auth-issuer", "https://id.example.com"];
    let replica = Replica::start_with(spec(&nats).with(&with)).await;
    let issuer = Issuer::secret(SECRET);
    let right = json!({
        "sub": "ann", "exp": in_seconds(60), "nbf": in_seconds(-60), "aud": ["other", "news"],
        "iss": "https://id.example.com", "roles": "user  creator",
    });
    let changed = |claim: &str, value: Value| {
        let mut claims = right.clone();
        claims[claim] = value;
        claims
    };
    let without = |claim: &str| {
        let mut claims = right.clone();
        claims.as_object_mut().unwrap().remove(claim);
        claims
    };
    for right in [
        right.clone(),
        changed("aud", "tidings".into()),
        // Clocks differ, by up to 30 seconds.
        changed("exp", in_seconds(-15).into()),
        changed("nbf", in_seconds(15).into()),
        changed("exp", json!(2_000_000_000.5)),
        without("nbf"),
    ] {
        let answer = replica.ask(get(&replica, "/stats", &issuer.sign(&right))).await;
        assert_eq!(answer.0, 200, "{right}: {}", answer.1);
    }
    for (wrong, why) in [
        (changed("exp", in_seconds(-45).into()), "expired"),
        (changed("exp", 0.into()), "expired"),
        (changed("exp", "tomorrow".into()), "`exp`"),
        (changed("exp", Value::Null), "`exp`"),
        (without("exp"), "`exp`"),
        (changed("nbf", in_seconds(45).into()), "not valid yet"),
        (changed("nbf", "now".into()), "`nbf`"),
        (changed("aud", "others".into()), "`aud`"),
        (changed("aud", json!(["others"])), "`aud`"),
        (changed("aud", json!([])), "`aud`"),
        (changed("aud", json!({"tidings": 1})), "`aud`"),
        (without("aud"), "`aud`"),
        (changed("iss", "https://id.example.com.evil.org".into()), "`iss`"),
        (changed("iss", 7.into()), "`iss`"),
        (without("iss"), "`iss`"),
        (without("sub"), "`sub`"),
        (changed("sub", 7.into()), "`sub`"),
        (changed("sub", "".into()), "`sub`"),
        (changed("sub", "x".repeat(129).into()), "`sub`"),
    ] {
        let answer = get(&replica, "/stats", &issuer.sign(&wrong)).send().await.unwrap();
        assert_eq!(answer.headers()["www-authenticate"], r#"Bearer error="invalid_token""#, "{wrong}");
        let body: Value = answer.json().await.unwrap();
        let code = if why == "expired" { "token_expired" } else { "invalid_token" };
        assert!(body["code"] == code && body["message"].as_str().unwrap().contains(why), "{wrong}: {body}");
    }
}

#[tokio::test]
async fn attacks_on_the_signature_fail() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(spec(&nats)).await;
    let issuer = Issuer::secret(SECRET);
    let good = issuer.token("ann", &["creator"]);
    assert_eq!(said(&replica, get(&replica, "/stats", &good)).await, is(200, ""));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let mut forged = Vec::new();
    // No signature, under every spelling of that.
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let plain = unsigned(&json!({"alg": none, "typ": "JWT"}), &claims("ann", &["creator"]));
        forged.extend([format!("{plain}."), plain.clone(), format!("{plain}.{signature}")]);
    }
    // Other claims under a signature; another algorithm; a key that comes along.
    let other = unsigned(&json!({"alg": "HS256", "typ": "JWT"}), &claims("eve", &["creator"]));
    forged.push(format!("{other}.{signature}"));
    forged.push(Issuer::secret("another secret that is also long enough").token("ann", &["creator"]));
    forged.push(Issuer::secret("").token("ann", &["creator"]));
    for algorithm in ["HS384", "HS512", "RS256", "ES256", "EdDSA", "HS256 "] {
        forged.push(issuer.sign_with(&json!({"alg": algorithm}), &claims("ann", &["creator"])));
    }
    let mine = Issuer::edwards("mine");
    for header in [
        json!({"alg": "EdDSA", "jwk": mine.jwk()}),
        json!({"alg": "EdDSA", "jku": "http://127.0.0.1:1/keys"}),
        json!({"alg": "EdDSA", "kid": "../../../../dev/null"}),
    ] {
        forged.push(mine.sign_with(&header, &claims("ann", &["creator"])));
    }
    // What has to be understood and is not.
    let critical = json!({"alg": "HS256", "crit": ["exp2"], "exp2": 1});
    forged.push(issuer.sign_with(&critical, &claims("ann", &["creator"])));
    // The signature cut, doubled, in another alphabet, or one bit off.
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[0] ^= 1;
    forged.push(format!("{head}.{}", URL_SAFE_NO_PAD.encode(&bytes)));
    forged.extend([format!("{head}.{}", &signature[..20]), format!("{good}{signature}"), format!("{good}=")]);
    forged.extend([format!("{good}.{signature}"), format!("{head}."), head.to_owned(), ".".repeat(3)]);
    for token in &forged {
        assert_eq!(said(&replica, get(&replica, "/stats", token)).await, is(401, "invalid_token"), "{token}");
    }
    // None of them, right or wrong, is ever shown.
    for token in forged.iter().chain([&good]).filter(|token| token.len() > 40) {
        assert!(!replica.log().contains(token.as_str()), "a token is in the log");
    }
}

#[tokio::test]
async fn what_is_huge_or_garbage_is_refused_and_harms_nobody() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(spec(&nats).with_variable("TIDINGS_LOG", "debug")).await;
    let issuer = Issuer::secret(SECRET);
    let mut long = claims("ann", &["creator"]);
    long["more"] = "x".repeat(9_000).into();
    let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    for token in [
        issuer.sign(&long),
        format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode(deep)),
        format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode([0xff, 0xfe])),
        "x".to_owned(),
        "a.b.c".to_owned(),
        "null".to_owned(),
        "e30.e30.e30".to_owned(),
        String::new(),
    ] {
        assert_eq!(
            said(&replica, get(&replica, "/stats", &token)).await,
            is(401, "invalid_token"),
            "{token}"
        );
    }
    // Bytes that no client library sends; and a header beyond all measure.
    for header in [
        &b"Authorization: Bearer \xff\xfe\x80"[..],
        b"Cookie: session=\xff",
        b"Authorization: Bearer\xc2\xa0x",
        b"Authorization: ",
        b"Sec-WebSocket-Protocol: bearer, \xff",
    ] {
        let mut raw = Raw::connect(&replica).await;
        raw.send(b"GET /api/creator/broadcast/active HTTP/1.1\r\nHost: localhost\r\n").await;
        raw.send(header).await;
        raw.send(b"\r\n\r\n").await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    }
    let mut raw = Raw::connect(&replica).await;
    let huge = "x".repeat(1 << 20);
    raw.send(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nCookie: session={huge}\r\n\r\n").as_bytes())
        .await;
    let head = raw.head().await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 431 "), "{head}");
    assert_eq!(said(&replica, get(&replica, "/stats", &issuer.token("ann", &["team"]))).await, is(200, ""));
    assert!(!replica.log().contains(SECRET), "the secret is in the log");
}

#[tokio::test]
async fn the_header_counts_before_the_cookie() {
    let nats = Nats::start().await;
    let replica =
        Replica::start_with(spec(&nats).with(&["--auth-cookie", "app", "--auth-query-token"])).await;
    let issuer = Issuer::secret(SECRET);
    let (ann, bob) = (issuer.token("ann", &["creator"]), issuer.token("bob", &["user"]));
    let cookie = |request: Request, token: &str| request.header("Cookie", format!("a=b; app={token}"));
    let stats = || replica.request(Method::GET, "/stats");
    assert_eq!(said(&replica, cookie(stats(), &ann)).await, is(200, ""));
    assert_eq!(said(&replica, cookie(stats(), &bob)).await, is(403, "role_required"));
    assert_eq!(said(&replica, bearer(cookie(stats(), &bob), &ann)).await, is(200, ""), "the header wins");
    assert_eq!(said(&replica, bearer(cookie(stats(), &ann), &bob)).await, is(403, "role_required"));
    // One that is wrong is not made good by another.
    assert_eq!(said(&replica, bearer(cookie(stats(), &ann), "x")).await, is(401, "invalid_token"));
    let twice = stats().header("Cookie", format!("app={ann}; app={bob}"));
    assert_eq!(said(&replica, twice).await, is(401, "invalid_token"), "which one?");
    let other = stats().header("Cookie", format!("session={ann}"));
    assert_eq!(said(&replica, other).await, is(401, "no_identity"));
    let events =
        replica.request(Method::GET, &format!("/events?token={ann}&user_id=ann")).send().await.unwrap();
    assert_eq!(events.status(), 200, "where the query is a place");
}

#[tokio::test]
async fn roles_are_where_the_issuer_has_them() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(spec(&nats).with(&["--auth-roles-claim", "realm_access.roles"])).await;
    let issuer = Issuer::secret(SECRET);
    let mut inside = claims("ann", &["creator"]);
    assert_eq!(
        said(&replica, get(&replica, "/stats", &issuer.sign(&inside))).await,
        is(403, "role_required")
    );
    for (roles, status) in [
        (json!({"roles": ["offline_access", "team"]}), 200),
        (json!({"roles": "offline_access team"}), 200),
        (json!({"roles": [["team"], {"team": 1}, 7]}), 403),
        (json!({"roles": {"team": true}}), 403),
        (json!(["team"]), 403),
        (json!("team"), 403),
    ] {
        inside["realm_access"] = roles.clone();
        let answer = get(&replica, "/stats", &issuer.sign(&inside)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{roles}");
    }
}
