//! Auditors with a login of their own: they read everything that they need, by our command or by anybody's, and nothing that
//! they send changes anything.

mod by_hand;

use std::process::Stdio;

use serde_json::{Value, json};
use tidings::log::names::LOG_STREAM;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use crate::support::checkpoints::count;
use crate::support::users::{World, streams};
use crate::support::wire::Wire;
use crate::support::{Nats, PATIENCE, Replica, Spec, eventually};

#[tokio::test]
async fn replicas_have_every_permission_that_they_need() {
    let mut world = World::new().await;
    world.replica.clear().await;
    // Everything is made again.
    let context = world.nats.jetstream().await;
    world.replica.terminate().await;
    for stream in streams() {
        let deleted = context.delete_stream(&stream).await;
        assert!(deleted.is_err(), "a replica's login does not delete {stream}");
    }
    let said = world.nats.said();
    for line in said.lines().filter(|line| line.contains("Violation")) {
        assert!(line.contains("STREAM.DELETE"), "only what this test has tried: {line}");
    }
    world.nats.stop();
    world.nats.wipe();
    world.nats.start_again().await;
    world.replica.start_again().await;
    let id = world.replica.post_broadcast("anew").await["id"].clone();
    world.replica.acknowledge(id.as_str().unwrap(), "ann").await;
    eventually("it is signed", || async { count(&world.nats).await > 0 }).await;
    eventually("it is mirrored", || async { world.replica.count("tidings_mirror_lag_events").await == 0 })
        .await;
    assert!(world.replica.terminate().await.success());
    let said = world.nats.said();
    let violations =
        said.lines().filter(|line| line.contains("Violation") && !line.contains("STREAM.DELETE"));
    assert_eq!(violations.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[tokio::test]
async fn the_auditors_commands_work_with_the_auditors_login() {
    let world = World::new().await;
    let key = world.key.public().to_string();
    for arguments in [
        &["audit", "replay"][..],
        &["audit", "replay", "--since", "1h", "--user", "ann"],
        &["audit", "replay", "--from-seq", "4", "--format", "table"],
        &["audit", "state"],
        &["audit", "state", "--at-seq", "4"],
        &["audit", "state", "--at", "1s"],
        &["audit", "verify", "--key", &key],
    ] {
        let theirs = world.run(arguments).await;
        let ours = world.replica.tidings(arguments).await;
        assert!(!theirs.stdout.is_empty() || arguments.contains(&"1s"));
        assert_eq!(String::from_utf8(theirs.stdout), String::from_utf8(ours.stdout), "{arguments:?}");
    }
    let signed = async || world.replica.count("tidings_checkpoint_size").await;
    eventually("all of it is signed", || async { signed().await == 9 }).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let id = world.replica.active("nobody").await["id"].as_str().unwrap().to_owned();
    world.run(&["audit", "export", &file("log.ndjson")]).await;
    world.run(&["audit", "prove", "--broadcast", &id, "--key", &key, "--out", &file("proof")]).await;
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["audit", "check", &file("proof"), "--key", &key])
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    // A login in the environment does not stand in the list of processes.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["audit", "replay"]).env("TIDINGS_NATS", world.nats.url_of("auditor", "rotidua"));
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 9, "{output:?}");
    let said = world.nats.said();
    assert_eq!(
        said.lines().filter(|line| line.contains("Violation")).collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
}

#[tokio::test]
async fn an_auditor_follows_the_log_over_a_restart_of_nats() {
    let mut world = World::new().await;
    let mut follower = world.command(&["audit", "replay", "--follow"]).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        event["sequence"].as_str().unwrap().parse::<u64>().unwrap()
    };
    for sequence in 1..=9 {
        assert_eq!(next().await, sequence);
    }
    for round in 0..3 {
        world.replica.post_until_taken(&format!("more {round}")).await;
        assert_eq!(next().await, 10 + round);
        world.nats.restart().await;
    }
}

#[tokio::test]
async fn a_log_that_was_kept_without_users_is_moved_and_goes_on() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("without users").await["id"].clone();
    let epoch = replica.readyz().await["epoch"].clone();
    assert!(replica.terminate().await.success());
    nats.stop();
    nats.take_users_in();
    nats.start_again().await;
    let replica = Replica::start_with(Spec::joining(nats.url())).await;
    replica.acknowledge(id.as_str().unwrap(), "ann").await;
    let ready = replica.readyz().await;
    assert_eq!((&ready["epoch"], &ready["sequence"]), (&epoch, &json!(2)), "the same log goes on");
}

#[tokio::test]
async fn a_wrong_password_is_said_plainly() {
    let world = World::new().await;
    for url in [world.nats.url_of("auditor", "guessed"), format!("nats://127.0.0.1:{}", world.nats.port())] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
        let output = command.args(["audit", "replay", "--nats", &url]).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("authorization violation"), "{said}");
        assert!(!said.contains("guessed"), "{said}");
    }
}

#[tokio::test]
async fn an_auditor_changes_nothing() {
    let mut world = World::new().await;
    assert!(world.replica.terminate().await.success());
    let before = world.everything().await;
    let mut auditor = world.auditor().await;
    let mut refused = vec![
        "broadcasts.creator.lifecycle".to_owned(),
        "broadcasts.creator.acks.019bc0e2-fed4-7675-b65a-96a26fc973f9".to_owned(),
        "broadcasts.creator.late".to_owned(),
        "broadcasts.anything".to_owned(),
        "broadcast_checkpoints.log".to_owned(),
        "$KV.broadcast_active.creator".to_owned(),
        "$KV.broadcast_acks.x.ann".to_owned(),
        "$KV.broadcast_replicas.mirror".to_owned(),
        "$JS.API.INFO".to_owned(),
        "$JS.API.STREAM.NAMES".to_owned(),
        "$JS.API.STREAM.LIST".to_owned(),
        "$JS.API.STREAM.CREATE.MINE".to_owned(),
        "$JS.API.STREAM.INFO.MINE".to_owned(),
        "$SYS.REQ.USER.INFO".to_owned(),
        "_INBOX.somebody.1".to_owned(),
        "anything".to_owned(),
    ];
    for stream in streams() {
        for verb in [
            "STREAM.CREATE",
            "STREAM.UPDATE",
            "STREAM.DELETE",
            "STREAM.PURGE",
            "STREAM.MSG.DELETE",
            "STREAM.SNAPSHOT",
            "STREAM.RESTORE",
            "STREAM.LEADER.STEPDOWN",
            "STREAM.PEER.REMOVE",
            "CONSUMER.CREATE",
            "CONSUMER.LIST",
            "CONSUMER.NAMES",
        ] {
            refused.push(format!("$JS.API.{verb}.{stream}"));
        }
        for verb in ["CREATE", "DURABLE.CREATE", "DELETE", "INFO", "MSG.NEXT", "PAUSE", "LEADER.STEPDOWN"] {
            refused.push(format!("$JS.API.CONSUMER.{verb}.{stream}.mine"));
        }
    }
    for subject in &refused {
        auditor.publish(subject, "_INBOX.wire.1", "{}").await;
        let complaints = auditor.complaints().await;
        let words = format!("Permissions Violation for Publish to \"{subject}\"");
        assert!(complaints.len() == 1 && complaints[0].contains(&words), "{subject}: {complaints:?}");
    }
    for subject in ["broadcasts.>", "broadcast_checkpoints.log", "$KV.>", "$JS.>", "$SYS.>", ">", "x"] {
        auditor.send(&format!("SUB {subject} 7\r\n")).await;
        let complaints = auditor.complaints().await;
        let words = "Permissions Violation for Subscription to";
        assert!(complaints.len() == 1 && complaints[0].contains(words), "{subject}: {complaints:?}");
    }
    assert_eq!(world.everything().await, before);
}

/// An answer goes where whoever asks wants it, and the server sends it: to a subject of a stream, if that is in the same
/// account.
#[tokio::test]
async fn an_auditor_cannot_have_answers_written_into_a_stream() {
    let mut world = World::new().await;
    assert!(world.replica.terminate().await.success());
    let before = world.everything().await;
    let mut auditor = world.auditor().await;
    for stream in streams() {
        for into in
            ["broadcasts.creator.lifecycle", "broadcast_checkpoints.log", "$KV.broadcast_active.creator"]
        {
            auditor.publish(&format!("$JS.API.STREAM.INFO.{stream}"), into, "").await;
            auditor.publish(&format!("$JS.API.STREAM.MSG.GET.{stream}"), into, "{\"seq\":1}").await;
            auditor.publish(&format!("$JS.API.DIRECT.GET.{stream}"), into, "{\"seq\":1,\"batch\":9}").await;
        }
    }
    assert_eq!(auditor.complaints().await, Vec::<String>::new());
    // Whatever was asked before this is answered by now.
    auditor.answer(&format!("$JS.API.STREAM.INFO.{LOG_STREAM}"), json!({})).await;
    assert_eq!(world.everything().await, before);

    // In one account with the streams it would be written, by the server itself: hence the second account.
    let mut replica = Wire::connect(&world.nats, "tidings", "sgnidit").await;
    replica.publish(&format!("$JS.API.STREAM.INFO.{LOG_STREAM}"), "broadcasts.creator.lifecycle", "").await;
    eventually("the answer is in the log", || async { world.everything().await != before }).await;
}
