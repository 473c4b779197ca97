//! Requests that come too slowly, are too large, or are none: each gets its answer, and what is in order goes on.

use reqwest::Method;
use serde_json::json;

use super::Calm;
use crate::support::contract::openapi::hold_anywhere;
use crate::support::{Events, Nats, Raw, Replica, Spec};

const GET: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!(
        "POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}\r\n{body}"
    )
}

async fn raw(replica: &Replica, bytes: impl AsRef<[u8]>) -> Raw {
    let mut raw = Raw::connect(replica).await;
    raw.send(bytes.as_ref()).await;
    raw
}

#[tokio::test]
async fn a_slow_head_is_told_and_silence_is_not_and_streams_are_neither() {
    let nats = Nats::start().await;
    let limits =
        ["--head-timeout-seconds", "1", "--request-timeout-seconds", "1", "--idle-timeout-seconds", "2"];
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&limits)).await;
    let mut events = Events::of(replica.request(Method::GET, "/events?user_id=e").send().await.unwrap());
    events.expect("connected").await;
    let follow = "/api/audit/events?follow=true";
    let followed = replica.raw_request(Method::GET, follow).header("X-User-Role", "auditor").send().await;
    let mut followed = followed.unwrap();
    let mut silent = Raw::connect(&replica).await;
    let mut served = raw(&replica, GET).await;
    assert_eq!(served.answer().await.status, 200);
    let mut slow = raw(&replica, "GET /livez HTTP/1.1\r\nHost: localhost\r\n").await;

    assert_eq!(slow.refusal().await, (408, "request_timeout".to_owned()));
    assert_eq!(silent.rest().await, b"", "who asked nothing gets no answer");
    // A connection that was of use has longer to ask again.
    served.send(GET).await;
    assert_eq!(served.answer().await.status, 200);
    assert_eq!(served.rest().await, b"", "then it is closed without a word");
    // Longer than all of these limits after they began.
    events.expect("active_broadcast").await;
    let id = replica.post_broadcast("streams go on").await["id"].clone();
    assert_eq!(events.expect("new_broadcast").await.data["broadcast"]["id"], id);
    let line = followed.chunk().await.unwrap().expect("the auditor's stream goes on");
    assert!(String::from_utf8_lossy(&line).contains("streams go on"));
}

#[tokio::test]
async fn a_head_has_a_size_and_so_many_fields() {
    let mut calm = Calm::with(&["--max-head-bytes", "2000", "--max-head-fields", "20"]).await;
    let long = |bytes: usize| {
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(bytes))
    };
    assert_eq!(raw(&calm.replica, long(1_900)).await.answer().await.status, 200);
    let fields = |n: usize| {
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Field: x\r\n".repeat(n - 1))
    };
    assert_eq!(raw(&calm.replica, fields(20)).await.answer().await.status, 200);
    let address = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(3_000));
    let endless = format!("GET /{}", "x".repeat(200_000));
    for large in [long(2_000), long(100_000), fields(21), fields(170), address, endless] {
        assert_eq!(raw(&calm.replica, &large).await.unparsable().await, 431, "{} bytes", large.len());
    }
    calm.is_as_before().await;
}

#[tokio::test]
async fn what_is_no_http_is_told_so() {
    let mut calm = Calm::with(&[]).await;
    let conflicting = post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}");
    let not_chunked = post("Transfer-Encoding: gzip\r\n", "{}");
    let table: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n Folded: x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX-Null: \x00\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        conflicting.as_bytes(),
        not_chunked.as_bytes(),
    ];
    for bytes in table {
        let status = raw(&calm.replica, bytes).await.unparsable().await;
        assert_eq!(status, 400, "{:?}", String::from_utf8_lossy(bytes));
    }
    let http2 = raw(&calm.replica, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.refusal().await;
    assert_eq!(http2, (400, "malformed_request".to_owned()));
    let refused = "tidings_http_requests_total{method=\"other\",route=\"\",status=\"400\"}";
    assert_eq!(calm.replica.count(refused).await, u64::try_from(table.len()).unwrap() + 1);
    calm.is_as_before().await;
}

#[tokio::test]
async fn a_request_says_once_for_whom_it_is() {
    let mut calm = Calm::with(&[]).await;
    for (path, status) in [("/livez", 200), ("/api/creator/broadcast/stats", 200), ("/nowhere", 404)] {
        let ask = |hosts: &'static str, version: &'static str| {
            raw(&calm.replica, format!("GET {path} HTTP/{version}\r\n{hosts}\r\n"))
        };
        for (hosts, version) in [("Host: localhost\r\n", "1.1"), ("Host: localhost\r\n", "1.0"), ("", "1.0")]
        {
            let status_line = ask(hosts, version).await.head().await;
            assert!(status_line.contains(&format!(" {status} ")), "{hosts} {version}: {status_line}");
        }
        for hosts in
            ["", "Host: localhost\r\nHost: localhost\r\n", "Host: a b\r\n", "Host: ann@localhost\r\n"]
        {
            let answer = ask(hosts, "1.1").await.answer().await;
            hold_anywhere(answer.status, &answer.headers, answer.body.to_string().as_bytes());
            assert_eq!((answer.status, &answer.body["code"]), (400, &json!("malformed_request")), "{hosts}");
        }
    }
    calm.is_as_before().await;
}

#[tokio::test]
async fn a_body_is_as_long_as_it_says_and_no_longer() {
    let mut calm = Calm::with(&["--request-timeout-seconds", "1"]).await;
    let big = "x".repeat(40_000);
    let chunks = format!("{:x}\r\n{big}\r\n0\r\n\r\n", big.len());
    let table = [
        (post("Transfer-Encoding: chunked\r\n", "zz\r\n"), 400, "unreadable_body"),
        (post("Transfer-Encoding: chunked\r\n", "2\r\n{}garbage\r\n"), 400, "unreadable_body"),
        (post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n{"), 408, "request_timeout"),
        (post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{"), 400, "unreadable_body"),
        (post("Transfer-Encoding: chunked\r\n", &chunks), 413, "body_too_large"),
        (post("Content-Length: 40000\r\n", &big), 413, "body_too_large"),
        (post("Content-Length: 3\r\n", "{}"), 408, "request_timeout"),
        (post("Content-Length: 0\r\n", ""), 422, "missing_field"),
    ];
    for (request, status, code) in table {
        let answer = raw(&calm.replica, &request).await.answer().await;
        let head = request.split("\r\n\r\n").next().unwrap();
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{head}");
    }
    // What comes after the body that was announced is the next request, or none.
    let mut longer = raw(&calm.replica, post("Content-Length: 2\r\n", "{}{}")).await;
    assert_eq!(longer.answer().await.body["code"], "missing_field");
    longer.send(b"\r\n\r\n").await;
    assert_eq!(longer.unparsable().await, 400);
    calm.is_as_before().await;
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row() {
    let mut calm = Calm::with(&[]).await;
    let body = json!({"message": "in a row"}).to_string();
    let expecting = post(&format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len()), "");
    let row = [GET, GET, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", expecting.as_bytes()].concat();
    let mut raw = raw(&calm.replica, row).await;
    for status in [200, 200, 404] {
        assert_eq!(raw.answer().await.status, status);
    }
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "), "now it wants the body");
    raw.send(&[body.as_bytes(), GET, b"rubbish\r\n\r\n"].concat()).await;
    let created = raw.answer().await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(calm.listener.expect("new_broadcast").await["broadcast"]["id"], created.body["id"]);
    calm.posted += 1;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(raw.unparsable().await, 400);

    // Refused before the body was asked for: it need not be sent.
    let fields = "X-User-Role: nobody\r\nContent-Length: 30000\r\nExpect: 100-continue\r\n";
    let mut refused = self::raw(&calm.replica, post(fields, "")).await;
    assert_eq!(refused.answer().await.status, 401);
    assert_eq!(refused.rest().await, b"");
    calm.is_as_before().await;
}
