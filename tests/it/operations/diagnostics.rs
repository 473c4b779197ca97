//! What a replica says on stderr: as JSON by option, and with the trace of a request on every replica that has its event.

use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::EventLog as _;

use crate::support::raw::{CLOSE, TEXT};
use crate::support::{Nats, Raw, Replica, Request, Spec, eventually, percent_encoded};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traceparent(trace: &str) -> String {
    format!("00-{trace}-00f067aa0ba902b7-01")
}

fn in_json(nats: &Nats) -> Spec {
    Spec::joining(nats.url())
        .with(&["--log-format", "json"])
        .with_variable("TIDINGS_LOG", "info,tidings=debug,sled=warn,async_nats=warn")
}

/// Every line that it has said, which has to be an object each. The last one may be half written.
fn lines(replica: &Replica) -> Vec<Value> {
    let log = replica.log();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// The messages of the lines about a trace.
fn about(replica: &Replica, trace: &str) -> Vec<String> {
    let lines = lines(replica);
    let about = lines.iter().filter(|line| line["trace.id"] == trace);
    about.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

async fn says(replica: &Replica, trace: &str, message: &str) {
    eventually(&format!("it says of {trace}: {message}"), || async {
        about(replica, trace).iter().any(|said| said == message)
    })
    .await;
}

async fn sequence(request: Request) -> u64 {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert!(status.is_success(), "{body}");
    body["sequence"].as_u64().unwrap()
}

/// The header in the log's message.
async fn stored(nats: &Nats, sequence: u64) -> Option<String> {
    nats.log().await.get(sequence).await.unwrap().unwrap().header("traceparent").map(str::to_owned)
}

#[tokio::test]
async fn json_is_an_object_a_line_with_the_fields_on_top() {
    let nats = Nats::start().await;
    let mut replica = Replica::start_with(in_json(&nats)).await;
    let id = replica.post_broadcast("XYZZY").await["id"].clone();
    let mut stranger = Raw::connect(&replica).await;
    // A token in the query is no way to say who asks here, and is in no line either.
    stranger.send(b"GET /api/creator/broadcast/active?token=XYZZY HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(stranger.head().await.starts_with("HTTP/1.1 400 "));
    let mut stranger = Raw::connect(&replica).await;
    stranger.send(b"GET /api/creator/broadcast/active HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(stranger.head().await.starts_with("HTTP/1.1 200 "));
    drop(stranger);
    assert!(replica.terminate().await.success());
    let lines = lines(&replica);
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {line}");
        }
        assert!(!line.to_string().contains("XYZZY"), "{line}");
    }
    let said = |message: &str| {
        let line = lines.iter().find(|line| line["message"] == message);
        line.unwrap_or_else(|| panic!("{message} was not said: {lines:#?}"))
    };
    let created = said("broadcast.created on creator");
    assert_eq!((&created["broadcast.id"], &created["log.sequence"]), (&id, &json!(1)));
    assert_eq!((&created["level"], &created["target"]), (&json!("INFO"), &json!("tidings::submit::attempt")));
    assert!(said("listening")["http.url"].is_string());
    said("stopped");
    let active = |line: &&Value| line["http.route"] == "/api/{channel}/broadcast/active";
    let request = lines.iter().filter(active).find(|line| line["http.response.status_code"] == 200).unwrap();
    assert_eq!((&request["http.request.method"], &request["level"]), (&json!("GET"), &json!("DEBUG")));
    assert_eq!(request["http.response.status_code"], 200);
    assert!(request["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{request}");
}

#[tokio::test]
async fn why_it_did_not_start_is_json_too() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nats = Nats::start().await;
    let replica = Replica::prepared(in_json(&nats));
    let mut spec = replica.command(&["serve", "--log-format", "json", "--listen", &address]);
    let refused = spec.output().await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    let line: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("in use"), "{line}");
}

/// What would be seen in diagnostics that say what came as it came.
const EVIL: &str = "XYZZY\u{1b}[31m\u{9b}31m\u{7}\u{202e}\r\n2026-11-26T00:00:00.000000Z ERROR FORGED";

#[tokio::test]
async fn whatever_is_sent_is_said_in_no_other_way_than_ours() {
    let nats = Nats::start().await;
    let spec =
        Spec::joining(nats.url()).with_variable("TIDINGS_LOG", "info,tidings=trace,hyper=trace,sled=warn");
    let mut replica = Replica::start_with(spec).await;
    let in_header: String = EVIL.chars().filter(|c| !c.is_ascii_control()).collect();
    for method in [Method::GET, Method::POST] {
        for path in ["", "/active", "/clear", "/acknowledge", "/events", "/ws", "/history"] {
            let query = format!("?user_id={0}&cursor={0}&min_position={0}", percent_encoded(EVIL));
            let mut requests = vec![
                replica.request(method.clone(), &format!("{path}{query}")),
                replica
                    .raw_request(method.clone(), &format!("/api/{}/broadcast{path}", percent_encoded(EVIL))),
                replica.request(method.clone(), path).body(EVIL),
                replica.request(method.clone(), path).json(&json!({"message": EVIL, "broadcast_id": EVIL})),
                replica.request(method.clone(), path).json(&json!({"message": "XYZZY", "type": EVIL})),
            ];
            for name in ["X-User-Id", "X-User-Role", "Origin", "If-Match", "Idempotency-Key", "traceparent"] {
                let value = http::HeaderValue::from_bytes(in_header.as_bytes()).unwrap();
                requests.push(replica.request(method.clone(), path).header(name, value));
            }
            for request in requests {
                let mut raw = Raw::connect(&replica).await;
                raw.send(&on_the_wire(request)).await;
                raw.head().await;
            }
        }
    }
    let mut socket =
        Raw::websocket(&replica, &format!("?user_id={}", percent_encoded("XYZZY\u{1b}[31m"))).await;
    for text in [EVIL.to_owned(), json!({"type": EVIL}).to_string()] {
        socket.send_frame(TEXT, text.as_bytes()).await;
    }
    let closing = [&1_000_u16.to_be_bytes()[..], &EVIL.as_bytes()[..100.min(EVIL.len())]].concat();
    socket.send_frame(CLOSE, &closing).await;
    socket.rest().await;
    let mut none = Raw::connect(&replica).await;
    none.send(EVIL.as_bytes()).await;
    assert_eq!(none.unparsable().await, 400);
    replica.post_broadcast("XYZZY").await;
    assert_eq!(replica.terminate().await.code(), Some(0));
    let log = replica.log();
    assert!(log.contains("answered a request"), "{log}");
    for evil in ["XYZZY", "FORGED", "\u{1b}", "\u{9b}", "\u{7}", "\u{202e}", "\r"] {
        assert!(!log.contains(evil), "{evil:?} in {log:?}");
    }
}

/// A request as a client sends it, which ends the connection with its answer.
fn on_the_wire(request: Request) -> Vec<u8> {
    let request = request.build().unwrap();
    let url = request.url();
    let target = format!("{}{}", url.path(), url.query().map(|q| format!("?{q}")).unwrap_or_default());
    let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
    let mut bytes =
        format!("{} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", request.method())
            .into_bytes();
    for (name, value) in request.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
    [&bytes, body].concat()
}

#[tokio::test]
async fn what_others_write_into_the_log_stays_in_its_line() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    let kind = percent_encoded("XYZZY\u{1b}[31m\u{202e}\r\nFORGED");
    headers.insert("ce-type", kind.as_str());
    headers.insert("ce-dataschema", format!("urn:tidings:schema:{kind}:9"));
    headers.insert("ce-source", "/elsewhere");
    let subject = "broadcasts.creator.lifecycle";
    nats.jetstream().await.publish_with_headers(subject, headers, "x".into()).await.unwrap().await.unwrap();
    eventually("it says what it skipped", || async { replica.log().contains("skipped") }).await;
    let log = replica.log();
    assert!(
        log.contains(r"XYZZY\u{1b}[31m\u{202e}\r\nFORGED:9"),
        "it says what, but not as it came: {log:?}"
    );
    assert!(!log.contains(['\u{1b}', '\u{202e}', '\r']), "{log:?}");
}

#[tokio::test]
async fn one_search_finds_a_request_and_what_came_of_it_on_every_replica() {
    let nats = Nats::start().await;
    let replicas = [Replica::start_with(in_json(&nats)).await, Replica::start_with(in_json(&nats)).await];
    let mut client = replicas[1].connect("ann").await;
    client.greeted().await;

    let post = replicas[0].request(Method::POST, "").json(&json!({"message": "hi"}));
    let created = sequence(post.header("traceparent", traceparent(TRACE))).await;
    assert_eq!(stored(&nats, created).await, Some(traceparent(TRACE)));
    let id = client.expect("new_broadcast").await["broadcast"]["id"].as_str().unwrap().to_owned();
    says(&replicas[0], TRACE, "broadcast.created on creator").await;
    says(&replicas[0], TRACE, "answered a request").await;
    for replica in &replicas {
        says(replica, TRACE, "pushed a new broadcast on creator").await;
    }
    assert_eq!(about(&replicas[1], TRACE).len(), 1, "{:?}", about(&replicas[1], TRACE));

    let (ack, clear) = ("a".repeat(32), "c".repeat(32));
    let request = replicas[1].request(Method::POST, "/acknowledge").json(&json!({"broadcast_id": id}));
    let acknowledged = sequence(request.header("traceparent", traceparent(&ack))).await;
    let request = replicas[1].request(Method::POST, "/clear").header("traceparent", traceparent(&clear));
    let cleared = sequence(request).await;
    for replica in &replicas {
        says(replica, &ack, "pushed acknowledgements on creator").await;
        says(replica, &clear, "pushed the end of a broadcast on creator").await;
    }
    let replayed = replicas[0].tidings(&["audit", "replay"]).await;
    let replayed = String::from_utf8(replayed.stdout).unwrap();
    let events: Vec<Value> = replayed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!([created, acknowledged, cleared], [1, 2, 3]);
    for (event, trace) in events.iter().zip([TRACE, &ack, &clear]) {
        assert_eq!(event["traceparent"], traceparent(trace), "{event}");
    }
}

#[tokio::test]
async fn a_trace_that_is_not_valid_is_ignored_and_none_changes_what_a_key_stands_for() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(in_json(&nats)).await;
    let post = |message: &str| replica.request(Method::POST, "").json(&json!({"message": message}));
    assert_eq!(stored(&nats, sequence(post("none")).await).await, None);
    for bad in [
        "",
        "00-0-0-0",
        &traceparent(TRACE).to_uppercase(),
        &traceparent(&"0".repeat(32)),
        &traceparent(TRACE).replacen("00", "ff", 1),
        &format!("{}-more", traceparent(TRACE)),
    ] {
        assert_eq!(
            stored(&nats, sequence(post("bad").header("traceparent", bad)).await).await,
            None,
            "{bad}"
        );
    }
    let twice =
        post("twice").header("traceparent", traceparent(TRACE)).header("traceparent", traceparent(TRACE));
    assert_eq!(stored(&nats, sequence(twice).await).await, None);
    assert_eq!(about(&replica, TRACE), Vec::<String>::new());

    let keyed =
        |trace: &str| post("keyed").header("Idempotency-Key", "k").header("traceparent", traceparent(trace));
    let first = sequence(keyed(TRACE)).await;
    assert_eq!(sequence(keyed(&"b".repeat(32))).await, first, "the same command, whatever trace it is of");
    assert_eq!(stored(&nats, first).await, Some(traceparent(TRACE)));
}
