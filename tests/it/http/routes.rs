//! Every address and every kind of wrong request: the answer is in the one form, and described.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use reqwest::header::HeaderMap;
use tidings::http::routes::Route;

use super::Calm;
use crate::support::contract::openapi::{Answer, Asked, hold};
use crate::support::{Raw, Replica};

const ID: &str = "0198c5a0-1111-7222-8333-444455556666";

/// A request of somebody who may do it, until something is changed about it.
#[derive(Clone)]
struct Wrong {
    what: String,
    method: String,
    target: String,
    fields: Vec<Vec<u8>>,
    body: Vec<u8>,
    /// The only status that this may get; else any that is nobody's fault but the client's.
    status: Option<u16>,
}

impl Wrong {
    fn of((method, path): &Route, what: &str) -> Self {
        let role = if path.starts_with("/api/audit/") { "auditor" } else { "creator" };
        let target = path.replace("{channel}", "creator").replace("{id}", ID).replace("{file}", "style.css");
        Self {
            what: what.to_owned(),
            method: method.to_string(),
            target,
            fields: vec![format!("X-User-Role: {role}").into_bytes()],
            body: Vec::new(),
            status: None,
        }
    }

    fn is(self, status: u16) -> Self {
        Self { status: Some(status), ..self }
    }

    fn field(mut self, field: &[u8]) -> Self {
        self.fields.push(field.to_vec());
        self
    }

    fn json(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self.field(b"Content-Type: application/json") }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.method,
            self.target,
            self.body.len()
        );
        let fields = self.fields.iter().flat_map(|field| [field, &b"\r\n"[..]].concat());
        head.into_bytes().into_iter().chain(fields).chain(*b"\r\n").chain(self.body.clone()).collect()
    }
}

fn methods(route: &Route, served: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Wrong> {
    let all = ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "BREW", "get"];
    let others = all.into_iter().filter(|method| !served[route.1.as_str()].contains(method));
    others.map(|method| Wrong { method: method.to_owned(), ..Wrong::of(route, method).is(405) }).collect()
}

/// Names in the path that nothing has.
fn paths(route: &Route) -> Vec<Wrong> {
    let long = "x".repeat(3_000);
    let names = [
        "nowhere",
        "CREATOR",
        "%2e%2e%2fx",
        "a%2fb",
        "%00",
        "%1b%5b31m",
        "%e2%80%ae",
        "%ff%fe",
        "%zz",
        &long,
    ];
    let parts = ["{channel}", "{id}", "{file}"].into_iter().filter(|part| route.1.contains(part));
    let hostile = |(part, name): (&str, &str)| {
        let path = route.1.replace(part, name);
        Wrong::of(&(route.0.clone(), path), &format!("{part} is {name}")).is(404)
    };
    parts.flat_map(|part| names.map(|name| hostile((part, name)))).collect()
}

fn queries(route: &Route) -> Vec<Wrong> {
    let long = format!("x={}", "x".repeat(8_000));
    let queries = [
        "%ff=%fe",
        "&&==&%",
        "user_id=%00",
        "user_id=",
        "role=root",
        "min_position=-1",
        "min_position=1e3",
        "min_position=99999999999999999999",
        "limit=-1",
        "limit=0",
        "limit=%ff",
        "cursor=%00",
        "cursor[]=1",
        "follow=2",
        "from_sequence=x",
        "broadcast=%ff",
        "user=",
        &long,
    ];
    let wrong = |query: &str| {
        let mut wrong = Wrong::of(route, query);
        wrong.target = format!("{}?{query}", wrong.target);
        wrong
    };
    queries.map(wrong).into()
}

fn fields(route: &Route) -> Vec<Wrong> {
    let long = [b"X-User-Id: ", "x".repeat(8_000).as_bytes()].concat();
    let fields: [&[u8]; 14] = [
        b"X-User-Id: \xff",
        b"X-User-Id: ",
        b"X-User-Role: \xff",
        b"If-Match: \xff",
        b"If-Match: *",
        b"Idempotency-Key: \xff",
        b"Idempotency-Key: ",
        b"Tidings-Min-Position: \xff",
        b"Last-Event-ID: \xff",
        b"Content-Type: \xff",
        b"Accept: \xff",
        b"Upgrade: websocket",
        b"traceparent: \xff",
        &long,
    ];
    fields.map(|field| Wrong::of(route, &String::from_utf8_lossy(field)).field(field)).into()
}

fn bodies(route: &Route) -> Vec<Wrong> {
    if route.0 != Method::POST {
        // A body that nobody asked for changes nothing.
        return vec![Wrong { body: b"hello".to_vec(), ..Wrong::of(route, "a body") }];
    }
    let deep = format!("{{\"message\":{}", "[".repeat(10_000));
    let closed = format!("{{\"message\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let large = format!("{{\"message\":\"{}\"}}", "x".repeat(32 * 1024));
    let unreadable: [&[u8]; 12] = [
        b"{",
        b"[]",
        b"null",
        b"\"x\"",
        b"1",
        b"{\"message\":\"\xff\"}",
        b"{\"message\":1e999}",
        b"{\"message\":NaN}",
        b"{'message':'x'}",
        b"{\"message\":\"x\"}{}",
        deep.as_bytes(),
        closed.as_bytes(),
    ];
    let wrong =
        |body: &[u8]| Wrong::of(route, &String::from_utf8_lossy(&body[..body.len().min(30)])).json(body);
    let mut all: Vec<_> = unreadable.map(|body| wrong(body).is(400)).into();
    all.push(wrong(large.as_bytes()).is(413));
    all.push(Wrong { body: b"{}".to_vec(), ..Wrong::of(route, "no content type").is(415) });
    let known =
        ["message", "type", "broadcast_id", "target_user_ids", "expires_at", "link", "\\u0000", "__proto__"];
    let values = ["null", "true", "-1", "1.5", "1e308", "\"\"", "[]", "[[[]]]", "{}", "{\"a\":{\"b\":[1]}}"];
    for (field, value) in known.into_iter().flat_map(|field| values.map(|value| (field, value))) {
        all.push(wrong(format!("{{\"{field}\":{value},\"{field}\":{value}}}").as_bytes()));
    }
    all
}

/// Sends it and holds the answer to the description; returns its status and, of an error, the code.
async fn answer(replica: &Replica, wrong: &Wrong) -> (u16, Option<String>) {
    let mut raw = Raw::connect(replica).await;
    raw.send(&wrong.bytes()).await;
    let head = raw.head().await;
    let status: u16 = head.get(9..12).unwrap_or_else(|| panic!("{}: no answer", wrong.what)).parse().unwrap();
    if status < 400 {
        return (status, None);
    }
    let body = raw.rest().await;
    let named = head.lines().filter_map(|line| line.split_once(": "));
    let headers: HeaderMap =
        named.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let asked = Asked {
        method: wrong.method.parse().unwrap(),
        url: format!("{}{}", replica.url(), wrong.target).parse().unwrap(),
        headers: HeaderMap::new(),
        body: wrong.body.clone(),
    };
    let what = format!("{} {}: {}", wrong.method, wrong.target, wrong.what);
    assert_eq!(headers["content-type"], "application/json", "{what}: {}", String::from_utf8_lossy(&body));
    hold(&asked, &Answer { status: status.try_into().unwrap(), headers: &headers, body: Some(&body) });
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (status, Some(body["code"].as_str().unwrap().to_owned()))
}

#[tokio::test]
async fn every_wrong_request_to_every_address_is_answered_in_the_one_form() {
    let calm = Calm::with(&[]).await;
    let routes = tidings::http::routes(&["creator".parse().unwrap()]);
    let mut served: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (method, path) in routes.list() {
        served.entry(path).or_default().insert(method.as_str());
    }
    assert!(served.len() > 15, "{served:?}");
    let mut seen: BTreeMap<(u16, String), u32> = BTreeMap::new();
    for route in routes.list() {
        let all = [methods(route, &served), paths(route), queries(route), fields(route), bodies(route)];
        for wrong in all.concat() {
            let (status, code) = answer(&calm.replica, &wrong).await;
            let what = format!("{} {}: {} got {status} {code:?}", wrong.method, wrong.target, wrong.what);
            assert!(status < 500 && wrong.status.is_none_or(|expected| status == expected), "{what}");
            *seen.entry((status, code.unwrap_or_default())).or_default() += 1;
        }
    }
    for (status, code) in [
        (400, "malformed_json"),
        (400, "invalid_sequence"),
        (400, "invalid_position"),
        (400, "invalid_limit"),
        (400, "invalid_cursor"),
        (400, "invalid_if_match"),
        (400, "invalid_idempotency_key"),
        (401, "no_identity"),
        (404, "not_found"),
        (404, "unknown_channel"),
        (404, "unknown_broadcast"),
        (405, "method_not_allowed"),
        (413, "body_too_large"),
        (415, "unsupported_media_type"),
        (422, "missing_field"),
        (422, "invalid_field"),
        (422, "not_supported"),
        (422, "message_empty"),
        (422, "invalid_broadcast_id"),
        (426, "upgrade_required"),
    ] {
        assert!(seen.contains_key(&(status, code.to_owned())), "no {status} {code} among {seen:?}");
    }
    assert!(calm.replica.is_ready().await);
    calm.replica.post_broadcast("still here").await;
    assert!(!calm.replica.log().contains("panicked"), "{}", calm.replica.log());
}
