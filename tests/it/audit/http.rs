//! The log for auditors over HTTP: the same events as the command prints, page by page or as they come.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;
use tempfile::TempDir;
use tidings::log::EventLog as _;
use tokio::time::timeout;

use crate::support::log::{acknowledged, created};
use crate::support::{Nats, PATIENCE, Raw, Replica, Spec, eventually};

async fn ask(replica: &Replica, query: &str) -> Response {
    let request = replica.raw_request(Method::GET, &format!("/api/audit/events{query}"));
    request.header("X-User-Role", "auditor").send().await.unwrap()
}

async fn page(replica: &Replica, query: &str) -> String {
    let answer = ask(replica, query).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    answer.text().await.unwrap()
}

fn sequence(line: &str) -> u64 {
    let event: Value = serde_json::from_str(line).unwrap();
    event["sequence"].as_str().unwrap().parse().unwrap()
}

fn sequences(page: &str) -> Vec<u64> {
    page.lines().map(sequence).collect()
}

/// Lines as they come.
struct Following {
    response: Response,
    unread: String,
}

impl Following {
    async fn of(replica: &Replica, query: &str) -> Self {
        let response = ask(replica, query).await;
        assert_eq!(response.status(), 200);
        Self { response, unread: String::new() }
    }

    /// The sequence of the next event; `None` at an orderly end.
    async fn next(&mut self) -> Option<u64> {
        loop {
            if let Some((line, rest)) = self.unread.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.unread = rest;
                if line.is_empty() {
                    continue;
                }
                return Some(sequence(&line));
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("the next line in time");
            self.unread.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
        }
    }

    async fn up_to(&mut self, last: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.last() != Some(&last) {
            seen.push(self.next().await.expect("the stream goes on"));
        }
        seen
    }
}

#[tokio::test]
async fn pages_have_the_lines_of_the_command() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    assert_eq!(page(&replica, "").await, "", "an empty log");
    let log = nats.log().await;
    let announced = created("one");
    let id = announced.id;
    log.append(announced).await.unwrap();
    nats.jetstream().await.publish("broadcasts.creator.other", "hello".into()).await.unwrap().await.unwrap();
    for n in 3..=700 {
        log.append(acknowledged(id, &[&format!("user {n}")])).await.unwrap();
    }
    let printed = replica.tidings(&["audit", "replay"]).await;
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(page(&replica, "").await, printed);

    let (mut paged, mut from) = (String::new(), 1);
    loop {
        let next = page(&replica, &format!("?from_sequence={from}&limit=137")).await;
        let Some(last) = next.lines().last() else { break };
        assert!(next.lines().count() <= 137);
        from = sequence(last) + 1;
        paged.push_str(&next);
    }
    assert_eq!(paged, printed);
    for (query, expected) in [
        ("?limit=2", vec![1, 3]),
        ("?from_sequence=2&limit=1", vec![3]),
        ("?from_sequence=699", vec![699, 700]),
        ("?from_sequence=701", vec![]),
        ("?from_sequence=18446744073709551615", vec![]),
    ] {
        assert_eq!(sequences(&page(&replica, query).await), expected, "{query}");
    }
}

#[tokio::test]
async fn every_read_of_an_auditor_has_a_position_and_judges_the_one_that_is_asked_for() {
    let nats = Nats::start().await;
    let key = TempDir::new().unwrap();
    let spec = Spec::joining(nats.url()).with(&["--checkpoint-every-events", "1"]);
    let replica = Replica::start_with(spec.with(&[
        "--checkpoint-key",
        key.path().join("key").to_str().unwrap(),
        "--checkpoint-key-name",
        "tidings.local/test",
    ]))
    .await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let answered = async |path: &str, position: &str| {
        let request = replica.raw_request(Method::GET, path).header("X-User-Role", "auditor");
        let answer = request.header("Tidings-Min-Position", position).send().await.unwrap();
        let at = answer.headers().get("tidings-position").map(|at| at.to_str().unwrap().to_owned());
        (answer.status().as_u16(), at)
    };
    let active = replica.request(Method::GET, "/active").send().await.unwrap();
    let here = active.headers()["tidings-position"].to_str().unwrap().to_owned();
    let proof = format!("/api/audit/proof?broadcast={id}");
    eventually("it is signed", async || answered(&proof, &here).await.0 == 200).await;
    for path in ["/api/audit/events", "/api/audit/checkpoint", &proof] {
        assert_eq!(answered(path, &here).await, (200, Some(here.clone())), "{path}");
        assert_eq!(answered(path, "0000000000000001-1").await.0, 412, "{path}");
        assert_eq!(answered(path, "x").await.0, 400, "{path}");
    }
}

#[tokio::test]
async fn a_page_around_what_the_log_has_lost_has_the_rest() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for n in 1..=5 {
        replica.post_broadcast(&format!("message {n} of five")).await;
    }
    nats.stop();
    nats.damage("message 3 of five");
    nats.start_again().await;
    eventually("NATS is back", || async { ask(&replica, "?limit=1").await.status() == 200 }).await;
    assert_eq!(sequences(&page(&replica, "").await), [1, 2, 4, 5]);
    assert_eq!(sequences(&page(&replica, "?from_sequence=3").await), [4, 5]);
}

#[tokio::test]
async fn who_follows_gets_what_comes_until_the_replica_stops() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    let mut all = Following::of(&replica, "?follow=true").await;
    let mut later = Following::of(&replica, "?follow=true&from_sequence=3").await;
    let mut two = Following::of(&replica, "?follow=true&limit=2").await;
    assert_eq!(all.next().await, Some(1));
    for n in 2..=4 {
        replica.post_broadcast(&format!("number {n}")).await;
        assert_eq!(all.next().await, Some(n));
    }
    assert_eq!((later.next().await, later.next().await), (Some(3), Some(4)));
    assert_eq!((two.next().await, two.next().await, two.next().await), (Some(1), Some(2), None));

    nats.restart().await;
    replica.post_until_taken("after an outage").await;
    assert_eq!((all.next().await, later.next().await), (Some(5), Some(5)));

    assert!(replica.terminate().await.success());
    assert_eq!((all.next().await, later.next().await), (None, None), "an orderly end");
}

#[tokio::test]
async fn a_log_that_was_replaced_breaks_the_stream_off() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    let mut following = Following::of(&replica, "?follow=true").await;
    assert_eq!(following.next().await, Some(1));
    nats.jetstream().await.delete_stream(tidings::log::names::LOG_STREAM).await.unwrap();
    nats.log().await;
    let broken = timeout(PATIENCE, async {
        loop {
            match following.response.chunk().await {
                Ok(Some(chunk)) => assert_eq!(chunk.trim_ascii(), b"", "nothing of another log"),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    });
    assert!(broken.await.expect("the stream ends in time"), "it was cut off, and not finished");
}

#[tokio::test]
async fn who_does_not_read_holds_nobody_up() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url())).await;
    let id: uuid::Uuid = replica.post_broadcast("one").await["id"].as_str().unwrap().parse().unwrap();
    let host = replica.url().trim_start_matches("http://").to_owned();
    let mut asleep = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(&replica).await;
        let get = format!(
            "GET /api/audit/events?follow=true HTTP/1.1\r\nHost: {host}\r\nX-User-Role: auditor\r\n\r\n"
        );
        raw.send(get.as_bytes()).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200"));
        asleep.push(raw);
    }
    let mut awake = Following::of(&replica, "?follow=true").await;
    let log = nats.log().await;
    // More than the sockets' buffers and the queues between hold.
    let users: Vec<_> = (0..900).map(|n| format!("{n:0128}")).collect();
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    for _ in 2..=24 {
        log.append(acknowledged(id, &users)).await.unwrap();
    }
    assert_eq!(awake.up_to(24).await, (1..=24).collect::<Vec<_>>());
    assert_eq!(sequences(&page(&replica, "?from_sequence=23").await), [23, 24]);
    assert_eq!(replica.digest_at(24).await.len(), 32, "and the replica itself goes on");
    drop(asleep);
}

#[tokio::test]
async fn auditors_are_counted_and_let_go() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    let mut following = Vec::new();
    for _ in 0..16 {
        following.push(Following::of(&replica, "?follow=true").await);
    }
    let refused = ask(&replica, "").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "too_many_connections");
    following.pop();
    eventually("who has left makes room", || async { ask(&replica, "").await.status() == 200 }).await;
    assert_eq!(following[0].next().await, Some(1));
}

#[tokio::test]
async fn only_auditors_read_the_log_and_only_when_it_is_there() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let paths = ["events".to_owned(), "checkpoint".to_owned(), format!("proof?broadcast={id}")];
    let get = |path: &str| replica.raw_request(Method::GET, &format!("/api/audit/{path}"));
    for path in &paths {
        for role in ["creator", "team", "user"] {
            let (status, error) = replica.ask(get(path).header("X-User-Role", role)).await;
            assert_eq!((status, error["code"].as_str()), (403, Some("role_required")), "{path} {error}");
        }
    }
    for (path, code) in [
        ("events?from_sequence=0", "invalid_sequence"),
        ("events?limit=5001", "invalid_limit"),
        ("events?follow=yes", "invalid_follow"),
        ("proof", "invalid_broadcast_id"),
        ("proof?broadcast=x", "invalid_broadcast_id"),
        (&format!("proof?broadcast={id}&user="), "invalid_user"),
    ] {
        let (status, error) = replica.ask(get(path).header("X-User-Role", "auditor")).await;
        assert_eq!((status, error["code"].as_str()), (400, Some(code)), "{path} {error}");
    }
    nats.kill();
    eventually("the replica notices", || async { replica.readyz().await["mode"] == "local" }).await;
    for path in &paths {
        let asked = timeout(Duration::from_secs(10), replica.ask(get(path).header("X-User-Role", "auditor")));
        let (status, error) = asked.await.expect("an answer in time");
        assert_eq!((status, error["code"].as_str()), (503, Some("log_away")), "{path} {error}");
    }
}

#[tokio::test]
async fn a_channel_may_be_called_audit() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--channels", "audit"])).await;
    let request = replica.raw_request(Method::POST, "/api/audit/broadcast");
    let (status, _) = replica.ask(request.json(&serde_json::json!({"message": "one"}))).await;
    assert_eq!((status, sequences(&page(&replica, "").await)), (201, vec![1]));
}
