//! Checkpoints: replicas sign one line of them, true of the log, whatever happens to replicas and to NATS meanwhile.

mod disputes;
mod stores;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tidings::log::EventLog as _;
use tidings::log::names::{CHECKPOINT_STREAM, LOG_STREAM};
use tokio::time::sleep;

use crate::support::checkpoints::{KeyFile, SignedCheckpoint, count, faults, signed};
use crate::support::log::everything;
use crate::support::replica::metric_in;
use crate::support::{Nats, Replica, Spec, eventually};

/// After so many events a checkpoint is signed here, unless a test says otherwise.
const EVERY: u64 = 5;

fn key() -> KeyFile {
    KeyFile::of("example.com/tidings", 1)
}

/// What a replica is started with to sign with these keys every [`EVERY`] events.
fn signing(nats: &Nats, keys: &[&KeyFile]) -> Spec {
    signing_every(nats, keys, EVERY, 3_600)
}

fn signing_every(nats: &Nats, keys: &[&KeyFile], events: u64, seconds: u64) -> Spec {
    let files: Vec<_> = keys.iter().map(|key| key.path().display().to_string()).collect();
    let (files, events, seconds) = (files.join(","), events.to_string(), seconds.to_string());
    Spec::joining(nats.url()).with(&[
        "--checkpoint-key",
        &files,
        "--checkpoint-every-events",
        &events,
        "--checkpoint-every-seconds",
        &seconds,
    ])
}

/// What a replica is started with that has no key and believes this one.
fn believing(nats: &Nats, key: &KeyFile) -> Spec {
    Spec::joining(nats.url()).with(&["--checkpoint-public-key", &key.public().to_string()])
}

async fn head(nats: &Nats) -> u64 {
    nats.log().await.info().await.unwrap().last_sequence
}

/// The sizes of all checkpoints.
async fn sizes(nats: &Nats) -> Vec<u64> {
    signed(nats).await.iter().map(|signed| signed.checkpoint.size).collect()
}

/// Waits until what is not signed is less than worth a checkpoint.
async fn signed_to_the_end(nats: &Nats, every: u64) {
    eventually("the log is signed nearly to its end", || async {
        let head = head(nats).await;
        sizes(nats).await.last().is_some_and(|size| size + every > head)
    })
    .await;
}

/// Fails unless every checkpoint of this log is true, is of this key, and goes on from the one before. Returns them.
async fn hold(nats: &Nats, key: &KeyFile) -> Vec<SignedCheckpoint> {
    let log = nats.log().await;
    let (epoch, signed) = (log.info().await.unwrap().epoch, signed(nats).await);
    assert_eq!(faults(&signed, epoch, &everything(&log).await), Vec::<String>::new());
    for SignedCheckpoint { note, text, .. } in &signed {
        assert_eq!(note.verified_by(&[key.public()]), Ok(&key.public()), "{text}");
    }
    signed
}

/// How often a replica was rebuilt for a reason in this process.
async fn rebuilt(replica: &Replica, reason: &str) -> u64 {
    let name = format!("tidings_projection_rebuilds_total{{reason=\"{reason}\"}}");
    let count = metric_in(&replica.metrics().await, &name).unwrap_or_default();
    count.to_string().parse().unwrap()
}

async fn agrees_up_to(replica: &Replica, size: u64) {
    eventually(&format!("a replica agrees with a checkpoint of size {size}"), || async {
        replica.count("tidings_checkpoint_size").await == size
    })
    .await;
}

/// How often a replica has said this.
fn said(replica: &Replica, words: &str) -> usize {
    replica.log().lines().filter(|line| line.contains(words)).count()
}

async fn post(replica: &Replica, times: usize) {
    for n in 0..times {
        replica.post_broadcast(&format!("number {n}")).await;
    }
}

#[tokio::test]
async fn a_replica_with_a_key_signs_after_so_many_events() {
    let (nats, key) = (Nats::start().await, key());
    let replica = Replica::start_with(signing(&nats, &[&key])).await;
    post(&replica, 4).await;
    let id = replica.post_broadcast("the last").await["id"].as_str().unwrap().to_owned();
    for n in 0..20 {
        replica.acknowledge(&id, &format!("user-{n}")).await;
    }
    signed_to_the_end(&nats, EVERY).await;
    let signed = hold(&nats, &key).await;
    let sizes: Vec<_> = signed.iter().map(|signed| signed.checkpoint.size).collect();
    assert!(sizes.windows(2).all(|pair| pair[1] >= pair[0] + EVERY), "{sizes:?}");
    assert_eq!(replica.count("tidings_checkpoints_signed_total").await, signed.len() as u64);
    let origin = format!("example.com/tidings/{}\n", nats.log().await.info().await.unwrap().epoch);
    assert!(signed[0].text.starts_with(&origin), "{}", signed[0].text);
    agrees_up_to(&replica, *sizes.last().unwrap()).await;
}

#[tokio::test]
async fn a_replica_with_a_key_signs_after_a_while_with_news_and_not_without() {
    let (nats, key) = (Nats::start().await, key());
    let replica = Replica::start_with(signing_every(&nats, &[&key], 1_000, 1)).await;
    for n in 1..=3 {
        replica.post_broadcast("news").await;
        eventually("news are signed", || async { sizes(&nats).await.last() == Some(&n) }).await;
    }
    // Nothing happens, for longer than the while.
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(sizes(&nats).await, [1, 2, 3]);
    hold(&nats, &key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_sign_one_line_while_the_signer_is_killed_again_and_again() {
    let (nats, key) = (Nats::start().await, key());
    let mut replicas = Replica::three_with(&signing(&nats, &[&key])).await;
    replicas.iter_mut().for_each(Replica::keep_port);
    for round in 0..4 {
        let before = sizes(&nats).await.len();
        let signer = signer(&replicas).await;
        // The others are under load while it goes and comes.
        let (victim, others) = replicas.split_at_mut(signer + 1);
        let (victim, first) = victim.split_last_mut().unwrap();
        let others: Vec<_> = first.iter().chain(others.iter()).collect();
        let done = AtomicBool::new(false);
        let load = async |replica: &Replica| {
            while !done.load(Ordering::Relaxed) {
                let id = replica.post_broadcast("under load").await["id"].as_str().unwrap().to_owned();
                // It may have been superseded by the other one's.
                let ack = replica.request(reqwest::Method::POST, "/acknowledge").header("X-User-Id", "ann");
                replica.ask(ack.json(&serde_json::json!({"broadcast_id": id}))).await;
            }
        };
        let fault = async {
            victim.kill();
            eventually("the others sign on", || async { sizes(&nats).await.len() > before + 2 }).await;
            victim.start_again().await;
            eventually("and on", || async { sizes(&nats).await.len() > before + 4 }).await;
            done.store(true, Ordering::Relaxed);
        };
        tokio::join!(load(others[0]), load(others[1]), fault);
        assert!(sizes(&nats).await.len() > before + 4, "round {round}");
    }
    signed_to_the_end(&nats, EVERY).await;
    let signed = hold(&nats, &key).await;
    for replica in &replicas {
        agrees_up_to(replica, signed.last().unwrap().checkpoint.size).await;
        assert_eq!(rebuilt(replica, "disagrees").await, 0);
        assert_eq!(said(replica, "the log ends before"), 0, "nobody was alarmed");
    }
}

/// Who has signed most, of those who run.
async fn signer(replicas: &[Replica; 3]) -> usize {
    let mut most = (0, 0);
    for (n, replica) in replicas.iter().enumerate() {
        most = most.max((replica.count("tidings_checkpoints_signed_total").await, n));
    }
    most.1
}

#[tokio::test]
async fn a_replica_without_a_key_compares_and_does_not_sign() {
    let (nats, key) = (Nats::start().await, key());
    let keyless = Replica::start_with(believing(&nats, &key)).await;
    post(&keyless, 20).await;
    let signer = Replica::start_with(signing(&nats, &[&key])).await;
    signed_to_the_end(&nats, EVERY).await;
    post(&keyless, 20).await;
    signed_to_the_end(&nats, EVERY).await;
    let all = hold(&nats, &key).await;
    agrees_up_to(&keyless, all.last().unwrap().checkpoint.size).await;
    assert_eq!(all[0].checkpoint.size, 20, "nobody signed while nobody had a key");
    assert_eq!(keyless.count("tidings_checkpoints_signed_total").await, 0);
    assert_eq!(signer.count("tidings_checkpoints_signed_total").await, all.len() as u64);
}

#[tokio::test]
async fn two_keys_in_rotation_sign_together_and_either_is_believed() {
    let nats = Nats::start().await;
    let [new, old] = [2, 1].map(|seed| KeyFile::of("example.com/tidings", seed));
    let knows = [&new, &old].map(|key| believing(&nats, key));
    let replica = Replica::start_with(signing(&nats, &[&new, &old])).await;
    post(&replica, 12).await;
    signed_to_the_end(&nats, EVERY).await;
    hold(&nats, &new).await;
    let both = hold(&nats, &old).await;
    assert_eq!(both[0].text.lines().count(), 6, "{}", both[0].text);
    for spec in knows {
        let believer = Replica::start_with(spec).await;
        agrees_up_to(&believer, both.last().unwrap().checkpoint.size).await;
        assert_eq!(said(&believer, "passed over"), 0);
    }
}

#[tokio::test]
async fn another_log_is_signed_under_its_own_origin() {
    let (nats, key) = (Nats::start().await, key());
    let replicas = Replica::three_with(&signing(&nats, &[&key])).await;
    post(&replicas[0], 12).await;
    signed_to_the_end(&nats, EVERY).await;
    let before = hold(&nats, &key).await;
    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    for replica in &replicas {
        eventually("another log is noticed", || async {
            replica.count("tidings_projection_epoch_changes_total").await > 0
        })
        .await;
    }
    for n in 0..12 {
        replicas[n % 3].post_until_taken(&format!("in another log {n}")).await;
    }
    let epoch = nats.log().await.info().await.unwrap().epoch;
    eventually("the new log is signed nearly to its end", || async {
        let last = signed(&nats).await.pop().unwrap().checkpoint;
        last.epoch == epoch && last.size + EVERY > head(&nats).await
    })
    .await;
    let all = hold(&nats, &key).await;
    let new: Vec<_> = all.iter().filter(|signed| signed.checkpoint.epoch == epoch).collect();
    assert!(!new.is_empty() && new.len() + before.len() <= all.len(), "{all:?}");
    for replica in &replicas {
        agrees_up_to(replica, new.last().unwrap().checkpoint.size).await;
        assert_eq!(replica.count("tidings_projection_diverged").await, 0);
    }
}

#[tokio::test]
async fn the_stream_is_made_again_when_it_is_deleted_and_signing_goes_on() {
    let (nats, key) = (Nats::start().await, key());
    let signer = Replica::start_with(signing(&nats, &[&key])).await;
    let keyless = Replica::start_with(believing(&nats, &key)).await;
    post(&signer, 20).await;
    for round in 1..=3 {
        signed_to_the_end(&nats, EVERY).await;
        nats.jetstream().await.delete_stream(CHECKPOINT_STREAM).await.unwrap();
        post(&signer, 6).await;
        signed_to_the_end(&nats, EVERY).await;
        let all = hold(&nats, &key).await;
        assert_eq!(all[0].number, 1, "round {round}: in a new stream");
        agrees_up_to(&keyless, all.last().unwrap().checkpoint.size).await;
    }
}

#[tokio::test]
async fn signing_goes_on_when_nats_is_back() {
    let (mut nats, key) = (Nats::start().await, key());
    let replica = Replica::start_with(signing(&nats, &[&key])).await;
    post(&replica, 7).await;
    signed_to_the_end(&nats, EVERY).await;
    let before = count(&nats).await;
    nats.kill();
    replica.in_mode("local").await;
    for n in 0..EVERY {
        let request = replica.request(reqwest::Method::POST, "");
        let (status, answer): (u16, Value) =
            replica.ask(request.json(&serde_json::json!({"message": format!("meanwhile {n}")}))).await;
        assert_eq!(status, 202, "{answer}");
    }
    nats.start_again().await;
    replica.in_mode("cluster").await;
    post(&replica, 5).await;
    eventually("it signs again", || async { count(&nats).await > before }).await;
    signed_to_the_end(&nats, EVERY).await;
    hold(&nats, &key).await;
}
