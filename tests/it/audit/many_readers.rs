//! Many auditors at once over HTTP: none of them costs the replica its place in the log, or another auditor theirs.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::EventLog as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::support::checkpoints::KeyFile;
use crate::support::issuer::Issuer;
use crate::support::log::{acknowledged, created};
use crate::support::{Nats, Replica, Spec, eventually};

/// Auditors that a replica serves at once.
const READERS: usize = 16;

/// A hundred megabytes, in events as large as a crowd's acknowledgements become.
const EVENTS: u64 = 850;
const USERS: usize = 900;

/// How long the auditors read.
const UNDER_LOAD: Duration = Duration::from_secs(8);

async fn large_log(nats: &Nats) {
    let log = nats.log().await;
    let announced = created("one");
    let id = announced.id;
    log.append(announced).await.unwrap();
    let users: Vec<_> = (0..USERS).map(|n| format!("{n:088}")).collect();
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    // Few at a time: in a debug build, encoding such an event takes a while, in which no acknowledgement is read.
    for _ in 0..EVENTS / 5 {
        let appended = join_all((0..5).map(|_| log.append(acknowledged(id, &users)))).await;
        for appended in appended {
            assert!(appended.unwrap().sequence > 0);
        }
    }
}

/// Follows the log from its start to its end as fast as it comes, again and again. Returns how many bytes came.
async fn read(host: String) -> std::io::Result<u64> {
    let (mut bytes, mut buffer) = (0, vec![0; 1 << 20]);
    let until = Instant::now() + UNDER_LOAD;
    while Instant::now() < until {
        let mut socket = ask(&host).await?;
        loop {
            match timeout_at(until, socket.read(&mut buffer)).await {
                Ok(Ok(0)) | Err(_) => break,
                Ok(read) => bytes += read? as u64,
            }
        }
    }
    Ok(bytes)
}

async fn ask(host: &str) -> std::io::Result<TcpStream> {
    let mut socket = TcpStream::connect(host).await?;
    let get = format!(
        "GET /api/audit/events?limit=5000 HTTP/1.1\r\nHost: {host}\r\nX-User-Role: auditor\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(get.as_bytes()).await?;
    Ok(socket)
}

/// Posts all the time until then. Every answer has to say that the log has it.
async fn post_until(replica: &Replica, end: Instant) {
    let mut posted = 0;
    while Instant::now() < end {
        let request =
            replica.request(Method::POST, "/").json(&json!({"message": format!("number {posted}")}));
        let (status, answer) = replica.ask(request).await;
        assert_eq!(status, 201, "after {posted}: {answer}");
        posted += 1;
        sleep(Duration::from_millis(100)).await;
    }
    assert!(posted > 10, "{posted}");
}

#[tokio::test]
async fn auditors_who_read_a_long_log_do_not_take_their_replica_off_it() {
    let nats = Nats::start().await;
    large_log(&nats).await;
    let replica = Replica::start(&nats).await;
    replica.digest_at(EVENTS + 1).await;
    let host = replica.url().trim_start_matches("http://").to_owned();

    let reading: Vec<_> = (0..READERS).map(|_| tokio::spawn(read(host.clone()))).collect();
    post_until(&replica, Instant::now() + UNDER_LOAD).await;
    let mut bytes = 0;
    for reader in reading {
        bytes += reader.await.unwrap().unwrap();
    }
    // However slow the machine is: each of them gets some large events, of 117 KB.
    assert!(bytes > 4 << 20, "sixteen readers got {bytes} bytes");

    let mut silent = Vec::new();
    for _ in 0..READERS {
        silent.push(ask(&host).await.unwrap());
    }
    post_until(&replica, Instant::now() + UNDER_LOAD).await;

    let said = replica.log();
    assert!(!said.contains("disconnected from NATS"), "{said}");
    assert!(!said.contains("delivered with a gap"), "{said}");
    assert!(!nats.said().contains("Slow Consumer"), "{}", nats.said());
    drop(silent);
}

/// A replica that asks for tokens.
async fn with_tokens(nats: &Nats) -> (Replica, Issuer) {
    let secret = "an auditor's test secret of 32 bytes or more";
    let replica = Replica::start_with(
        Spec::joining(nats.url()).with(&["--auth", "jwt"]).with_variable("TIDINGS_AUTH_SECRET", secret),
    )
    .await;
    (replica, Issuer::secret(secret))
}

#[tokio::test]
async fn one_user_cannot_use_up_what_all_auditors_share() {
    let nats = Nats::start().await;
    let (replica, issuer) = with_tokens(&nats).await;
    let follow = async |user: &str| {
        let token = issuer.token(user, &["auditor"]);
        let request = replica.raw_request(Method::GET, "/api/audit/events?follow=true");
        request.header("Authorization", format!("Bearer {token}")).send().await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(follow("ann").await);
    }
    assert!(held.iter().all(|answer| answer.status() == 200));
    let refused = follow("ann").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "too_many_connections_of_user");
    let other = follow("bob").await;
    assert_eq!(other.status(), 200, "another auditor is served");
    held.pop();
    eventually("a reader who leaves makes room", || async { follow("ann").await.status() == 200 }).await;
}

#[tokio::test]
async fn readers_of_events_leave_room_for_proofs() {
    let nats = Nats::start().await;
    let key = KeyFile::of("example.com/tidings", 1);
    let spec = Spec::joining(nats.url()).with(&["--checkpoint-key", &key.path().display().to_string()]);
    let replica = Replica::start_with(spec).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let get = |path: String| replica.raw_request(Method::GET, &path).header("X-User-Role", "auditor");
    let mut following = Vec::new();
    for _ in 0..READERS {
        following.push(get("/api/audit/events?follow=true".to_owned()).send().await.unwrap());
    }
    assert_eq!(get("/api/audit/events".to_owned()).send().await.unwrap().status(), 503);
    let proof = || get(format!("/api/audit/proof?broadcast={id}")).send();
    eventually("a proof is made", || async { proof().await.unwrap().status() == 200 }).await;
}
