//! Checkpoints that are foreign, forged or false, and a log that is not what was signed: people are told, and nothing is
//! signed over it.

use tidings::log::EventLog as _;
use tidings::log::merkle::Hash;
use tidings::log::names::{CHECKPOINT_STREAM, LOG_STREAM};

use super::{
    EVERY, agrees_up_to, believing, head, hold, key, post, rebuilt, said, signed_to_the_end, signing,
    signing_every,
};
use crate::support::checkpoints::{KeyFile, count, note, put, signed};
use crate::support::{Nats, Replica, eventually};

#[tokio::test]
async fn what_nobody_known_stands_behind_is_passed_over_with_a_word() {
    let (nats, key) = (Nats::start().await, key());
    let signer = Replica::start_with(signing(&nats, &[&key])).await;
    let keyless = Replica::start_with(believing(&nats, &key)).await;
    post(&signer, 7).await;
    signed_to_the_end(&nats, EVERY).await;
    let epoch = nats.log().await.info().await.unwrap().epoch;
    let last = signed(&nats).await.pop().unwrap();
    let stranger = KeyFile::of("example.com/tidings", 9);
    let strange = note(std::slice::from_ref(&stranger.key), epoch, 3, Hash::leaf(b"wrong")).to_string();
    let forged = last.text.replace(&format!("\n{}\n", last.checkpoint.size), "\n3\n");
    for (text, why) in [
        (strange, "none of the keys"),
        (forged, "is not of this text"),
        ("hello \u{7}\n".to_owned(), "no control characters"),
        (String::new(), "no signatures"),
    ] {
        let number = put(&nats, text).await;
        for replica in [&signer, &keyless] {
            eventually("it is passed over with a word", || async {
                let log = replica.log();
                let mut words = log.lines().filter(|line| line.contains("passed over a checkpoint"));
                words.any(|line| line.contains(why) && line.contains(&format!("checkpoint.number={number}")))
            })
            .await;
        }
    }
    post(&signer, 10).await;
    signed_to_the_end(&nats, EVERY).await;
    let size = signed(&nats).await.pop().unwrap().checkpoint.size;
    for replica in [&signer, &keyless] {
        agrees_up_to(replica, size).await;
        assert_eq!(rebuilt(replica, "disagrees").await, 0);
        assert_eq!(said(replica, "passed over a checkpoint"), 4, "once each");
    }
}

#[tokio::test]
async fn a_false_checkpoint_of_the_right_key_costs_one_rebuild_and_is_said_once() {
    let (nats, key) = (Nats::start().await, key());
    let mut signer = Replica::start_with(signing(&nats, &[&key])).await;
    let keyless = Replica::start_with(believing(&nats, &key)).await;
    post(&signer, 7).await;
    signed_to_the_end(&nats, EVERY).await;
    let digest = signer.digest_at(7).await;
    let epoch = nats.log().await.info().await.unwrap().epoch;
    put(&nats, note(std::slice::from_ref(&key.key), epoch, 3, Hash::leaf(b"wrong")).to_string()).await;
    let before = count(&nats).await;
    for replica in [&signer, &keyless] {
        eventually("it is said", || async { said(replica, "DIVERGED") == 1 }).await;
        assert_eq!(replica.count("tidings_projection_diverged").await, 1);
        assert_eq!(rebuilt(replica, "disagrees").await, 1);
        assert_eq!(replica.digest_at(7).await, digest, "it serves on");
    }
    post(&signer, 10).await;

    // Another one is no reason to begin anew, as long as people have not looked.
    put(&nats, note(std::slice::from_ref(&key.key), epoch, 4, Hash::leaf(b"wrong")).to_string()).await;
    put(&nats, note(std::slice::from_ref(&key.key), epoch, 3, Hash::leaf(b"wrong")).to_string()).await;
    // What the desk has read by then it says.
    let number = put(&nats, "garbage".to_owned()).await;
    for replica in [&signer, &keyless] {
        eventually("it was read", || async {
            said(replica, &format!("checkpoint.number={number}")) == 1 && replica.is_ready().await
        })
        .await;
        assert_eq!((said(replica, "DIVERGED"), rebuilt(replica, "disagrees").await), (1, 1));
    }

    // For the same one it is not rebuilt after a restart either.
    signer.terminate().await;
    signer.start_again().await;
    eventually("it is said by the new process", || async { said(&signer, "DIVERGED") == 2 }).await;
    assert_eq!(signer.count("tidings_projection_diverged").await, 1);
    assert_eq!(rebuilt(&signer, "disagrees").await, 0);
    post(&signer, 10).await;
    assert!(signer.is_ready().await);
    assert_eq!(count(&nats).await, before + 3, "nothing is signed over it");

    // People have looked: it was the checkpoint.
    nats.jetstream().await.delete_stream(CHECKPOINT_STREAM).await.unwrap();
    signer.terminate().await;
    signer.start_again().await;
    signed_to_the_end(&nats, EVERY).await;
    hold(&nats, &key).await;
    assert_eq!(signer.count("tidings_projection_diverged").await, 0);
}

#[tokio::test]
async fn a_log_that_was_restored_without_its_checkpoints_is_said_loudly_and_not_signed_over() {
    let (mut nats, key) = (Nats::start().await, key());
    let replicas = Replica::three_with(&signing(&nats, &[&key])).await;
    post(&replicas[0], 7).await;
    signed_to_the_end(&nats, EVERY).await;
    nats.stop();
    let backup = nats.backup();
    nats.start_again().await;
    for n in 0..30 {
        replicas[n % 3].post_until_taken(&format!("lost {n}")).await;
    }
    signed_to_the_end(&nats, EVERY).await;
    let before = hold(&nats, &key).await;
    nats.stop();
    nats.restore_stream(&backup, LOG_STREAM);
    nats.start_again().await;
    for replica in &replicas {
        eventually("it is said", || async {
            said(replica, "the log ends before what was signed of it") == 1
        })
        .await;
        eventually("it is a warning", || async {
            replica.count("tidings_warning{code=\"log_too_short\"}").await == 1
        })
        .await;
    }
    eventually("admin status reports it", || async {
        let status = replicas[0].tidings(&["admin", "status", "--format", "json"]).await;
        String::from_utf8_lossy(&status.stdout)
            .contains("finds that the log ends before what was signed of it")
    })
    .await;
    assert_eq!(head(&nats).await, 7);
    // The log grows again, up to what was signed of it, and beyond: it is another one.
    for n in 0..40 {
        replicas[n % 3].post_until_taken(&format!("instead {n}")).await;
    }
    for replica in &replicas {
        eventually("it differs", || async { said(replica, "DIVERGED") == 1 }).await;
        assert_eq!(replica.count("tidings_projection_diverged").await, 1);
        eventually("the warning is of what it is now", || async {
            replica.readyz().await["warnings"] == serde_json::json!(["diverged"])
        })
        .await;
        assert_eq!(said(replica, "the log ends before what was signed of it"), 1, "once");
    }
    post(&replicas[0], 10).await;
    assert_eq!(count(&nats).await, before.len() as u64, "nothing is signed over it");
}

#[tokio::test]
async fn a_log_that_was_restored_with_its_checkpoints_goes_on_from_there() {
    let (mut nats, key) = (Nats::start().await, key());
    // Signed at once: whatever a replica still knows of the lost part, it would sign.
    let replicas = Replica::three_with(&signing_every(&nats, &[&key], 1, 1)).await;
    post(&replicas[0], 7).await;
    signed_to_the_end(&nats, 1).await;
    nats.stop();
    let backup = nats.backup();
    nats.start_again().await;
    for n in 0..20 {
        replicas[n % 3].post_until_taken(&format!("lost {n}")).await;
    }
    // So the stream of checkpoints ends beyond where it will end again.
    signed_to_the_end(&nats, 1).await;
    nats.kill();
    nats.restore(&backup);
    nats.start_again().await;
    for replica in &replicas {
        eventually("another log is noticed", || async {
            replica.count("tidings_projection_epoch_changes_total").await > 0
        })
        .await;
    }
    for n in 0..9 {
        replicas[n % 3].post_until_taken(&format!("instead {n}")).await;
    }
    signed_to_the_end(&nats, 1).await;
    let signed = hold(&nats, &key).await;
    for replica in &replicas {
        agrees_up_to(replica, signed.last().unwrap().checkpoint.size).await;
        assert_eq!(said(replica, "DIVERGED"), 0);
    }
}
