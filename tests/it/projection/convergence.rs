//! Convergence: whatever happens to NATS, to the stream or to a replica's disk, every replica ends up right by itself.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use fastrand::Rng;
use futures_util::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tidings::log::EventLog as _;
use tidings::log::names::LOG_STREAM;

use crate::support::log::acknowledged;
use crate::support::nats::files_below;
use crate::support::{Client, Nats, Replica, Spec, eventually};

async fn one_client_each(replicas: &[Replica]) -> Vec<Client> {
    let mut clients = Vec::new();
    for replica in replicas {
        let mut client = replica.connect("ann").await;
        client.greeted().await;
        clients.push(client);
    }
    clients
}

/// All of them have read up to the log's head, and have folded the same.
async fn agree(nats: &Nats, replicas: &[&Replica]) -> String {
    let head = nats.log().await.info().await.unwrap().last_sequence;
    let digest = replicas[0].digest_at(head).await;
    for replica in &replicas[1..] {
        assert_eq!(replica.digest_at(head).await, digest);
    }
    digest
}

async fn hear(clients: &mut [Client], posted: &Value) {
    for client in clients {
        let is_it = |m: &Value| m["type"] == "new_broadcast" && m["broadcast"]["id"] == posted["id"];
        client.until("the new broadcast", is_it).await;
    }
}

#[tokio::test]
async fn nothing_is_lost_when_nats_restarts_under_idle_readers() {
    let mut nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let mut clients = one_client_each(&replicas).await;
    let mut posted = vec![replicas[0].post_broadcast("before").await];
    hear(&mut clients, &posted[0]).await;
    for n in 1..=2 {
        nats.restart().await;
        posted.push(replicas[n].post_until_taken(&format!("after restart {n}")).await);
        hear(&mut clients, &posted[n]).await;
    }
    for client in &clients {
        let ids: Vec<_> = posted.iter().map(|p| p["id"].as_str().unwrap()).collect();
        assert_eq!(client.broadcasts(), ids, "each once, in order, and nobody was disconnected");
    }
    assert_eq!(posted[2]["sequence"], 3);
    agree(&nats, &replicas.each_ref()).await;
}

/// What everybody goes through when the log turns out to be a new, empty one.
async fn everybody_begins_anew(nats: &Nats, replicas: &[Replica; 3], clients: &mut [Client], old: &Value) {
    for client in &mut *clients {
        client.until("a resync", |m| m["type"] == "resync").await;
        client
            .until("that nothing is active", |m| m["type"] == "active_broadcast" && m["broadcast"].is_null())
            .await;
    }
    for replica in replicas {
        eventually("it is ready on the new log", || async {
            let ready = replica.readyz().await;
            ready["status"] == "ok" && ready["sequence"] == 0
        })
        .await;
        assert_eq!(replica.active("bob").await, Value::Null);
        assert_eq!(replica.count("tidings_projection_epoch_changes_total").await, 1);
        let rebuilds = r#"tidings_projection_rebuilds_total{reason="other_log"}"#;
        assert_eq!(replica.count(rebuilds).await, 1);
    }
    let posted = replicas[1].post_until_taken("on the new log").await;
    assert_eq!(posted["sequence"], 1);
    assert_ne!(posted["id"], old["id"]);
    hear(clients, &posted).await;
    agree(nats, &replicas.each_ref()).await;
    assert_eq!(replicas[2].acknowledge(posted["id"].as_str().unwrap(), "ann").await["already"], false);
    agree(nats, &replicas.each_ref()).await;
}

#[tokio::test]
async fn a_deleted_stream_is_made_anew_and_everybody_begins_with_it() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let mut clients = one_client_each(&replicas).await;
    let old = replicas[0].post_broadcast("gone soon").await;
    hear(&mut clients, &old).await;
    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    everybody_begins_anew(&nats, &replicas, &mut clients, &old).await;
}

#[tokio::test]
async fn a_nats_that_lost_all_of_its_data_is_begun_with_anew() {
    let mut nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let mut clients = one_client_each(&replicas).await;
    let old = replicas[0].post_broadcast("gone soon").await;
    hear(&mut clients, &old).await;
    nats.kill();
    nats.wipe();
    nats.start_again().await;
    everybody_begins_anew(&nats, &replicas, &mut clients, &old).await;
}

/// A log with a past: broadcasts that were superseded, cleared and acknowledged. Returns ids and who acknowledged.
async fn with_a_past(replica: &Replica) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for n in 0..30 {
        let id = replica.post_broadcast(&format!("number {n}")).await["id"].as_str().unwrap().to_owned();
        for user in 0..n % 4 {
            let user = format!("user-{user}");
            replica.acknowledge(&id, &user).await;
            acknowledged.push((id.clone(), user));
        }
        if n % 7 == 3 {
            replica.clear().await;
        }
    }
    acknowledged
}

/// Nothing that was acknowledged is new to this replica, and it shows what the other one shows.
async fn knows_the_past(replica: &Replica, other: &Replica, acknowledged: &[(String, String)]) {
    for (id, user) in acknowledged {
        assert_eq!(replica.acknowledge(id, user).await["already"], true, "{id} by {user}");
    }
    let active = replica.active("nobody yet").await;
    assert!(!active.is_null());
    assert_eq!(active, other.active("nobody yet").await);
}

#[tokio::test]
async fn a_replica_with_an_empty_or_a_wiped_disk_comes_up_right() {
    let nats = Nats::start().await;
    let first = Replica::start(&nats).await;
    let acknowledged = with_a_past(&first).await;
    let mut second = Replica::start(&nats).await;
    agree(&nats, &[&first, &second]).await;
    knows_the_past(&second, &first, &acknowledged).await;

    second.kill();
    first.post_broadcast("while it was away").await;
    fs::remove_dir_all(second.data_dir().join("projection")).unwrap();
    second.start_again().await;
    agree(&nats, &[&first, &second]).await;
    knows_the_past(&second, &first, &acknowledged).await;

    assert!(second.terminate().await.success());
    fs::remove_dir_all(second.data_dir()).unwrap();
    second.start_again().await;
    agree(&nats, &[&first, &second]).await;
    knows_the_past(&second, &first, &acknowledged).await;
}

#[tokio::test]
async fn a_replica_that_was_away_is_not_ready_before_it_has_read_what_it_missed() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let posted = replica.post_broadcast("before").await;
    let id = posted["id"].as_str().unwrap().parse().unwrap();
    assert!(replica.terminate().await.success());

    let log = nats.log().await;
    let users: Vec<_> = (0..2_000).map(|n| format!("user-{n}")).collect();
    let appends = users.iter().map(|user| log.append(acknowledged(id, &[user.as_str()])));
    let appended: Vec<_> = stream::iter(appends).buffer_unordered(64).collect().await;
    assert!(appended.iter().all(Result::is_ok));
    replica.spawn();
    let first = Mutex::new(Value::Null);
    eventually("it is ready", || async {
        *first.lock().unwrap() = replica.readyz().await;
        first.lock().unwrap()["status"] == "ok"
    })
    .await;
    let first = first.into_inner().unwrap();
    assert_eq!((&first["sequence"], &first["head"]), (&json!(2_001), &json!(2_001)));
    // Its words name places of the log.
    assert!(
        replica.log().contains("the projection has caught up with the log log.sequence=2001"),
        "{}",
        replica.log()
    );
}

/// Damages one file of a folder in one of five ways, and says how.
fn damage(folder: &Path, seed: u64) -> String {
    let mut random = Rng::with_seed(seed);
    let (small, large): (Vec<_>, Vec<_>) =
        files_below(folder).into_iter().partition(|file| fs::metadata(file).unwrap().len() < 1_024);
    // Most of what there is to damage is in the large ones.
    let files = if seed % 7 == 3 || large.is_empty() { small } else { large };
    let file = &files[random.usize(..files.len())];
    let mut bytes = fs::read(file).unwrap();
    // Files grow ahead of their content.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let (at, length) = (random.usize(..written.max(1)), bytes.len());
    let how = match seed % 5 {
        0 => {
            bytes[at] ^= 1 << random.u32(..8);
            "one bit"
        }
        1 => {
            bytes.truncate(at);
            "cut off"
        }
        2 => {
            bytes[at..(at + 4_096).min(length)].fill(0);
            "a page of zeros"
        }
        3 => {
            bytes.iter_mut().step_by(101).for_each(|byte| *byte = byte.wrapping_add(1));
            "bytes all over"
        }
        _ => {
            bytes.fill(0xA5);
            "all of it"
        }
    };
    fs::write(file, bytes).unwrap();
    format!("seed {seed}: {how} at {at} of {length} in {}", file.file_name().unwrap().display())
}

#[tokio::test]
async fn a_replica_with_a_damaged_disk_comes_up_right_however_it_is_damaged() {
    let nats = Nats::start().await;
    let first = Replica::start(&nats).await;
    let acknowledged = with_a_past(&first).await;
    let mut second =
        Replica::start_with(Spec::joining(nats.url()).with(&["--store-open-seconds", "5"])).await;
    for seed in 0..15 {
        agree(&nats, &[&first, &second]).await;
        // After an orderly end everything is on disk; after a crash it may be half there.
        if seed % 2 == 0 {
            assert!(second.terminate().await.success());
        } else {
            second.kill();
        }
        let how = damage(&second.data_dir().join("projection"), seed);
        println!("{how}");
        first.post_broadcast(&format!("while it was away, {seed}")).await;
        second.start_again().await;
    }
    agree(&nats, &[&first, &second]).await;
    knows_the_past(&second, &first, &acknowledged).await;
}

#[tokio::test]
async fn a_replica_with_a_disk_from_before_the_stream_was_recreated_comes_up_right() {
    let nats = Nats::start().await;
    let first = Replica::start(&nats).await;
    let mut second = Replica::start(&nats).await;
    let old = with_a_past(&first).await;
    agree(&nats, &[&first, &second]).await;
    assert!(second.terminate().await.success());

    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    eventually("the first replica is on the new log", || async {
        let ready = first.readyz().await;
        ready["status"] == "ok" && ready["sequence"] == 0
    })
    .await;
    // Longer than the old one was: the sequence alone would not show the difference.
    let acknowledged = with_a_past(&first).await;
    first.post_broadcast("one more").await;
    second.start_again().await;
    agree(&nats, &[&first, &second]).await;
    knows_the_past(&second, &first, &acknowledged).await;
    let request = second.request(Method::POST, "/acknowledge").json(&json!({"broadcast_id": old[0].0}));
    assert_eq!(
        request.send().await.unwrap().status(),
        StatusCode::NOT_FOUND,
        "what was on the old log is unknown"
    );
}

/// Publishes past the service: a CloudEvent with this type and schema, or anything else.
async fn publish_raw(raw: &Context, subject: &str, event: Option<(&str, &str)>, body: &'static str) {
    let mut headers = HeaderMap::new();
    if let Some((kind, schema)) = event {
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-id", "0198c5a0-1111-7222-8333-444455556666");
        headers.insert("ce-type", kind);
        headers.insert("ce-dataschema", schema);
        headers.insert("ce-source", "/tidings/elsewhere");
    }
    raw.publish_with_headers(subject.to_owned(), headers, body.into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn foreign_and_future_messages_are_skipped_alike_and_counted_and_the_guard_holds() {
    let nats = Nats::start().await;
    let mut replicas = Replica::three(&nats).await;
    let raw = nats.jetstream().await;
    replicas[0].post_broadcast("before").await;
    let lifecycle = "broadcasts.creator.lifecycle";
    publish_raw(&raw, lifecycle, None, "not an event").await;
    publish_raw(&raw, "broadcasts.elsewhere", None, "").await;
    publish_raw(&raw, lifecycle, Some(("broadcast.created", "urn:tidings:schema:broadcast.created:2")), "{}")
        .await;
    publish_raw(&raw, lifecycle, Some(("broadcast.expired", "urn:tidings:schema:broadcast.expired:1")), "{}")
        .await;
    publish_raw(&raw, lifecycle, Some(("broadcast.created", "urn:tidings:schema:broadcast.created:1")), "{}")
        .await;

    // Through each replica, right behind the messages that it cannot read.
    for (n, replica) in replicas.iter().enumerate() {
        assert_eq!(replica.post_broadcast(&format!("behind {n}")).await["sequence"], 7 + 2 * n);
        publish_raw(&raw, lifecycle, None, "again").await;
    }
    agree(&nats, &replicas.each_ref()).await;
    // One that reads all of it again, and one that reads it in one go, count the same.
    replicas[1].kill();
    fs::remove_dir_all(replicas[1].data_dir().join("projection")).unwrap();
    replicas[1].start_again().await;
    assert!(replicas[2].terminate().await.success());
    replicas[2].start_again().await;
    agree(&nats, &replicas.each_ref()).await;
    for replica in &replicas {
        assert_eq!(replica.count(r#"tidings_projection_skipped_messages{reason="future"}"#).await, 2);
        assert_eq!(replica.count(r#"tidings_projection_skipped_messages{reason="foreign"}"#).await, 6);
        assert_eq!(replica.active("ann").await["message"], "behind 2");
    }
}

#[tokio::test]
async fn replicas_pass_over_a_hole_alike_and_who_knew_what_was_there_says_that_they_differ() {
    let mut nats = Nats::start().await;
    let knew = Replica::start(&nats).await;
    for n in 1..=9 {
        knew.post_broadcast(&format!("message {n} of nine")).await;
    }
    nats.stop();
    nats.damage("message 4 of nine");
    nats.start_again().await;
    let new = Replica::three(&nats).await;
    let posted = new[2].post_until_taken("behind the hole").await;
    assert_eq!(posted["sequence"], 10);
    agree(&nats, &new.each_ref()).await;
    for replica in &new {
        assert_eq!(replica.count("tidings_projection_holes").await, 1);
    }
    // It goes on too, on what it has; heartbeats show that the digests differ.
    assert_ne!(knew.digest_at(10).await, new[0].digest_at(10).await);
    eventually("the difference is said", || async { new[0].count("tidings_divergence_total").await > 0 })
        .await;
}
