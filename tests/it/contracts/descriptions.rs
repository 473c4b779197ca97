//! The interface descriptions against a running replica, in both directions: nothing is missing, and nothing is promised
//! that is not so. That each answer and message is as described, the harness holds in every test.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use futures_util::future::join_all;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use strum::{IntoEnumIterator as _, VariantNames as _};
use tidings::domain::Event;
use tidings::log::merkle::Frontier;
use tidings::log::names::{CHECKPOINT_SUBJECT, LOG_STREAM};
use tidings::log::{EventLog as _, RawMessage};
use tidings::notary::checkpoint::Checkpoint;
use tidings::notary::note::{Note, SecretKey};
use tidings::push::wire::{ClientMessage, Close, ServerMessage};

use crate::support::contract::asyncapi::{ASYNCAPI, close_codes, messages_of};
use crate::support::contract::openapi::{OPENAPI, answered_by, operations};
use crate::support::issuer::{SECRET, claims, in_seconds};
use crate::support::log::{acknowledged, everything};
use crate::support::{Client, Events, Issuer, Nats, Replica, Request, Spec, eventually};

#[test]
fn every_route_is_described_and_every_description_has_a_route() {
    let plain = |path: &str| match path.strip_suffix('/') {
        Some(rest) if rest.ends_with("/broadcast") => rest.to_owned(),
        _ => path.to_owned(),
    };
    let routes = tidings::http::routes(&[]);
    let served: BTreeSet<_> =
        routes.list().iter().map(|(method, path)| (plain(path), method.to_string())).collect();
    let described: BTreeSet<_> =
        operations().map(|(method, path, _)| (path.to_owned(), method.to_string())).collect();
    assert_eq!(served, described);
}

#[test]
fn every_message_is_described_and_every_description_has_a_message() {
    let told: BTreeSet<_> = ServerMessage::VARIANTS.iter().copied().chain(["ping", "pong"]).collect();
    assert_eq!(messages_of("tell"), told);
    assert_eq!(messages_of("hear"), ClientMessage::VARIANTS.iter().copied().collect());
    // What answers a client's message has no place on a stream, which has no such messages.
    let answers = ["acknowledged", "refreshed", "error", "ping", "pong"];
    let streamed = told.into_iter().filter(|name| !answers.contains(name)).collect();
    assert_eq!(messages_of("stream"), streamed);
    let kinds: BTreeSet<_> = tidings::domain::Event::TYPES.iter().map(|kind| kind.name).collect();
    let logged = messages_of("appendLifecycle").into_iter().chain(messages_of("appendAcknowledgements"));
    assert_eq!(logged.collect::<BTreeSet<_>>(), kinds);
    assert_eq!(messages_of("appendLate"), messages_of("appendLifecycle"));
}

#[test]
fn every_close_code_is_described() {
    // What breaks the protocol is closed by the WebSocket's own rules.
    let protocol = [1002, 1007, 1009];
    let refused = tidings::http::layers::websocket_close::close_codes().map(u64::from);
    let ours: BTreeSet<_> =
        Close::iter().map(|close| u64::from(close.code())).chain(protocol).chain(refused).collect();
    assert_eq!(close_codes(), ours);
    let description = ASYNCAPI.json["channels"]["webSocket"]["description"].as_str().unwrap();
    let table: BTreeSet<u64> = description
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next()?.parse().ok())
        .collect();
    assert_eq!(table, ours);
}

#[test]
fn the_descriptions_are_whole() {
    for document in [&*OPENAPI, &*ASYNCAPI] {
        let text = document.json.to_string();
        let references: Vec<_> = text.split(r#""$ref":""#).skip(1).collect();
        assert!(references.len() > 50);
        for reference in references {
            let target = reference.split('"').next().unwrap();
            let pointer = target.strip_prefix('#').unwrap_or_else(|| panic!("{target} is elsewhere"));
            assert!(document.json.pointer(pointer).is_some(), "{target} leads nowhere");
        }
    }
}

#[tokio::test]
async fn a_stock_validator_reads_what_is_served_from_its_address_alone() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for (path, printed) in
        [("openapi", tidings::contract::OPENAPI), ("asyncapi", tidings::contract::ASYNCAPI)]
    {
        let answer = replica.raw_request(Method::GET, &format!("/{path}.yaml")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), printed);
        let command = Command::new(env!("CARGO_BIN_EXE_tidings")).args(["contract", path]).output().unwrap();
        assert_eq!(String::from_utf8(command.stdout).unwrap(), printed);
    }
    let valid = validated(&format!("{}/openapi.yaml", replica.url())).await;
    assert!(valid.status.success(), "{}", String::from_utf8_lossy(&valid.stderr));
    let other = validated(&format!("{}/asyncapi.yaml", replica.url())).await;
    assert!(!other.status.success(), "it reads what is there");
}

/// What `openapi-spec-validator` says of the document at an address.
async fn validated(url: &str) -> Output {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/tools.sh");
    let installed = tokio::process::Command::new(tools).arg("python").output().await.unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let validate = "import sys, openapi_spec_validator as v; v.validate_url(sys.argv[1])";
    let mut python = tokio::process::Command::new("python3");
    python.env("PYTHONPATH", String::from_utf8(installed.stdout).unwrap().trim());
    python.args(["-c", validate, url]).output().await.unwrap()
}

/// Has clients hear every kind of message, and returns the names of all that they heard.
async fn every_message(nats: &Nats, replica: &Replica) -> BTreeSet<String> {
    let mut staff = replica.connect_with("?user_id=s&role=team").await;
    let mut clients: Vec<Client> = vec![replica.connect("u").await, replica.connect("u").await];
    for client in &mut clients {
        client.greeted().await;
    }
    let mut events = Events::of(replica.request(Method::GET, "/events").send().await.unwrap());
    let id = replica.post_broadcast("x").await["id"].as_str().unwrap().to_owned();
    clients[0].acknowledge(&id).await;
    clients[0].acknowledge(&id).await;
    clients[0].acknowledge("0198c5a0-1111-7222-8333-444455556666").await;
    clients[1].until("the news", |m| m["type"] == "broadcast_acknowledged").await;
    staff.until("counts", |m| m["type"] == "stats_update").await;
    replica.clear().await;
    let last = replica.post_broadcast("y").await["id"].clone();
    clients.push(replica.connect("late").await);
    clients[2].until("what is active", |m| m["broadcast"]["id"] == last).await;

    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    nats.log().await;
    clients.push(staff);
    for client in &mut clients {
        client.until("a new start", |m| m["type"] == "resync").await;
        client.until("its end", |m| m["type"] == "broadcast_cleared").await;
    }
    while events.next().await.expect("the stream goes on").data["type"] != "resync" {}
    let heard = clients.into_iter().flat_map(|client| client.heard);
    heard.map(|message| message["type"].as_str().unwrap().to_owned()).collect()
}

/// What only those hear who have a token.
async fn messages_about_tokens() -> [String; 2] {
    let nats = Nats::start().await;
    let spec =
        Spec::joining(nats.url()).with(&["--auth", "jwt"]).with_variable("TIDINGS_AUTH_SECRET", SECRET);
    let replica = Replica::start_with(spec).await;
    let issuer = Issuer::secret(SECRET);
    let mut soon_over = claims("u", &[]);
    soon_over["exp"] = in_seconds(25).into();
    let mut client = replica.connect_as(&issuer.sign(&soon_over)).await;
    client.until("that it ends soon", |m| m["type"] == "expiring").await;
    client.send(json!({"type": "refresh", "token": issuer.token("u", &[])})).await;
    client.until("that it does not", |m| m["type"] == "refreshed").await;
    ["expiring", "refreshed"].map(str::to_owned)
}

#[tokio::test]
async fn every_described_message_is_sent() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut heard = every_message(&nats, &replica).await;
    let mut client = replica.connect("u").await;
    nats.kill();
    client.until("that the log is away", |m| m["type"] == "mode").await;
    heard.insert("mode".to_owned());
    heard.extend(messages_about_tokens().await);
    assert_eq!(heard, ServerMessage::VARIANTS.iter().map(|name| (*name).to_owned()).collect());
}

/// Described answers that no test can have a replica give, and why.
const NOT_PRODUCED: [(&str, u16, &str); 1] = [(
    "getMetrics",
    500,
    "counts are always written; the code has an answer for a library that says they cannot be",
)];

#[tokio::test]
async fn every_described_answer_is_given() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--append-timeout-ms", "300", "--drain-grace-seconds", "60"]);
    let mut replica = Replica::start_with(spec).await;
    accept_everything(&replica).await;
    serve_auditors(&nats, &replica).await;
    let accepted = answered_by(&replica.url());
    refuse_everything(&replica).await;
    replica.signal(Signal::TERM);
    eventually("it is not ready any more", || async { !replica.is_ready().await }).await;
    let mut answered = answered_by(&replica.url());
    replica.kill();
    answered.extend(log_is_away().await);
    answered.extend(connected_often(&nats).await);
    answered.extend(too_often(&nats).await);

    let described: BTreeSet<_> = operations()
        .flat_map(|(_, _, operation)| {
            let statuses = operation["responses"].as_object().unwrap().keys();
            statuses.map(|status| (text(&operation["operationId"]), status.parse::<u16>().unwrap()))
        })
        .collect();
    for (operation, status, why) in NOT_PRODUCED {
        let answer = (operation.to_owned(), status);
        assert!(described.contains(&answer) && answered.insert(answer), "{operation} {status}: {why}?");
    }
    assert_eq!(answered, described);
    assert!(accepted.len() > 10, "{accepted:?}");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

async fn send(requests: impl IntoIterator<Item = Request>) {
    for answer in join_all(requests.into_iter().map(Request::send)).await {
        answer.unwrap();
    }
}

async fn accept_everything(replica: &Replica) {
    let get = |path: &str| replica.request(Method::GET, path);
    let created = replica.post_broadcast("Grüße").await;
    let id = text(&created["id"]);
    replica.acknowledge(&id, "名前").await;
    replica.connect("u").await;
    let reads = ["/active", "/limits", "/stats", "/history?limit=1", "/events?user_id=u&role=team"];
    send(reads.map(get)).await;
    send([get(&format!("/{id}")), get(&format!("/{id}/acks?limit=1"))]).await;
    send([get("/active").header("X-User-Id", "ann").header("If-None-Match", "*")]).await;
    replica.clear().await;
    let documents = ["/livez", "/readyz", "/metrics", "/openapi.yaml", "/asyncapi.yaml"];
    let page = ["/", "/page/client.js", "/page/style.css", "/page/icon.svg"];
    let others = || documents.into_iter().chain(page);
    send(others().map(|path| replica.raw_request(Method::GET, path))).await;
    send(others().map(|path| replica.raw_request(Method::HEAD, path))).await;
    send(page.map(|path| replica.raw_request(Method::GET, path).header("If-None-Match", "*"))).await;
}

/// What auditors ask for: before anything is signed, and after.
async fn serve_auditors(nats: &Nats, replica: &Replica) {
    let get = |path: &str| {
        replica.raw_request(Method::GET, &format!("/api/audit/{path}")).header("X-User-Role", "auditor")
    };
    send([get("events"), get("events?follow=true&limit=1"), get("checkpoint")]).await;
    let id = text(&replica.post_broadcast("signed").await["id"]);
    let log = nats.log().await;
    let mut unsalted = acknowledged(id.parse().unwrap(), &["ann"]);
    if let Event::Acknowledged(acknowledged) = &mut unsalted.event {
        acknowledged.salt = None;
    }
    let size = log.append(unsalted).await.unwrap().sequence;
    let mut tree = Frontier::default();
    tree.extend(everything(&log).await.iter().map(RawMessage::leaf));
    let epoch = log.info().await.unwrap().epoch;
    let key = SecretKey::new("example.com/tidings".parse().unwrap(), &[1; 32]);
    let checkpoint = Checkpoint { log: key.public().name().clone(), epoch, size, root: tree.root() };
    let note = Note::sign(checkpoint.to_string(), &[key]).to_string();
    nats.jetstream().await.publish(CHECKPOINT_SUBJECT, note.into()).await.unwrap().await.unwrap();
    send([get("checkpoint"), get(&format!("proof?broadcast={id}"))]).await;
    send([get(&format!("proof?broadcast={id}&user=nobody")), get(&format!("proof?broadcast={id}&user=ann"))])
        .await;
}

async fn refuse_everything(replica: &Replica) {
    let id = "0198c5a0-1111-7222-8333-444455556666";
    let mut requests = Vec::new();
    for (method, path, _) in operations().filter(|(_, path, _)| path.starts_with("/api/")) {
        let path = path.replace("{id}", id);
        let elsewhere = replica.raw_request(method.clone(), &path.replace("{channel}", "nowhere"));
        let path = path.replace("{channel}", "creator");
        let ask = || replica.raw_request(method.clone(), &path);
        requests.extend([
            elsewhere,
            ask(),
            ask().header("X-User-Role", "nobody"),
            ask().header("X-User-Id", "u"),
            ask().header("Host", "example.org"),
        ]);
        let of_its_kind = if method == Method::POST {
            vec![
                ask().header("Content-Type", "application/json").body("{"),
                ask().body("x"),
                ask().json(&json!({"message": "x".repeat(40_000)})),
                ask().json(&json!({"broadcast_id": "x"})),
                ask().header("Origin", "https://example.org"),
            ]
        } else {
            // Of those who have the role.
            let role = if path.starts_with("/api/audit/") { "auditor" } else { "creator" };
            let wanting =
                |position: &str| ask().header("X-User-Role", role).header("Tidings-Min-Position", position);
            Vec::from(["x", "00000000000000ff-1"].map(wanting))
        };
        requests.extend(of_its_kind);
    }
    requests.push(replica.raw_request(Method::GET, "/page/none"));
    let others = operations().filter(|(_, path, _)| !path.starts_with("/api/"));
    let misnamed = |path: String| replica.raw_request(Method::GET, &path).header("Host", "example.org");
    requests.extend(others.map(|(_, path, _)| misnamed(path.replace("{file}", "app.js"))));
    let unreadable = replica.raw_request(Method::GET, "/api/audit/events?limit=0");
    requests.push(unreadable.header("X-User-Role", "auditor"));
    send(requests).await;

    let post = |path: &str| replica.request(Method::POST, path);
    let other = format!("\"{id}\"");
    for request in [
        post("").json(&json!({"message": "x"})).header("If-Match", &other),
        post("/clear").header("If-Match", &other),
        post("/acknowledge").json(&json!({"broadcast_id": id})),
        // The key that cleared one thing cannot clear another.
        post("").json(&json!({"message": "x"})),
        post("/clear").header("Idempotency-Key", "k"),
        post("/clear").header("Idempotency-Key", "k").header("If-Match", &other),
    ] {
        send([request]).await;
    }
    let url = format!("{}/api/creator/broadcast/ws", replica.url().replace("http", "ws"));
    assert!(Client::try_connect(&url, Some("https://example.org")).await.is_err());
}

/// What somebody is answered who has as many connections as one user may have.
async fn connected_often(nats: &Nats) -> BTreeSet<(String, u16)> {
    let spec = Spec::joining(nats.url()).with(&["--max-connections-per-user", "1"]);
    let replica = Replica::start_with(spec).await;
    let _first = replica.connect("u").await;
    send([replica.request(Method::GET, "/events?user_id=u")]).await;
    let url = format!("{}/api/creator/broadcast/ws?user_id=u", replica.url().replace("http", "ws"));
    assert!(Client::try_connect(&url, None).await.is_err());
    answered_by(&replica.url())
}

/// Whoever has no token hears that, and soon that it is too often.
async fn too_often(nats: &Nats) -> BTreeSet<(String, u16)> {
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--refusals-per-minute", "1"]);
    let replica = Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await;
    let id = "0198c5a0-1111-7222-8333-444455556666";
    for (method, path, _) in operations().filter(|(_, path, _)| path.starts_with("/api/")) {
        let path = path.replace("{id}", id).replace("{channel}", "creator");
        send([replica.raw_request(method.clone(), &path), replica.raw_request(method, &path)]).await;
    }
    answered_by(&replica.url())
}

/// What writes answer while the log does not: accepted, or refused where a replica may accept nothing alone.
async fn log_is_away() -> BTreeSet<(String, u16)> {
    let mut nats = Nats::start().await;
    let mut replicas = Vec::new();
    for choice in ["accept", "reject"] {
        let spec = Spec::joining(nats.url()).with(&["--append-timeout-ms", "300", "--on-outage", choice]);
        replicas.push(Replica::start_with(spec).await);
    }
    let id = text(&replicas[0].post_broadcast("x").await["id"]);
    let epoch = text(&replicas[0].readyz().await["epoch"]);
    nats.kill();
    // How far the log has got meanwhile, nobody knows.
    let reads = operations().filter(|(method, path, _)| {
        *method == Method::GET && path.starts_with("/api/") && !path.ends_with("/audit/events")
    });
    let ahead = |(_, path, _): (Method, &str, &Value)| {
        let role = if path.starts_with("/api/audit/") { "auditor" } else { "creator" };
        let path = path.replace("{channel}", "creator").replace("{id}", &id);
        let read = replicas[0].raw_request(Method::GET, &path).header("X-User-Role", role);
        read.header("Tidings-Min-Position", format!("{epoch}-4000000"))
    };
    send(reads.map(ahead)).await;
    for replica in &replicas {
        let post = |path: &str| replica.request(Method::POST, path);
        send([
            post("").json(&json!({"message": "y"})),
            post("/clear"),
            post("/acknowledge").json(&json!({"broadcast_id": id})),
            replica.raw_request(Method::GET, "/api/audit/events").header("X-User-Role", "auditor"),
        ])
        .await;
    }
    replicas.iter().flat_map(|replica| answered_by(&replica.url())).collect()
}
