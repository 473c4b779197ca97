//! The auditor's commands: the log as it happened, and what was true at any moment, from the log alone.

use std::process::{Output, Stdio};

use async_nats::HeaderMap;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Nats, Replica, Spec};

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", errors(output));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The sequences that a replay with these options prints.
async fn replayed(replica: &Replica, options: &[&str]) -> Vec<u64> {
    let output = replica.tidings(&[&["audit", "replay"], options].concat()).await;
    let events = lines(&output);
    events.iter().map(|event| event["sequence"].as_str().unwrap().parse().unwrap()).collect()
}

async fn state_at(replica: &Replica, sequence: u64) -> Value {
    let output = replica.tidings(&["audit", "state", "--at-seq", &sequence.to_string()]).await;
    assert!(output.status.success(), "{}", errors(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn post(replica: &Replica, channel: &str, path: &str, user: &str, body: Value) -> Value {
    let request = replica.raw_request(Method::POST, &format!("/api/{channel}/broadcast{path}"));
    let request = request.header("X-User-Id", user).header("X-User-Role", "creator").json(&body);
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.json().await.unwrap()
}

#[tokio::test]
async fn replay_prints_what_is_asked_for_in_the_order_of_the_log() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--channels", "creator,forum"])).await;
    let first = post(&replica, "creator", "", "ann", json!({"message": "one"})).await["id"].clone(); // 1
    let second = post(&replica, "forum", "", "bob", json!({"message": "zwei"})).await["id"].clone(); // 2
    post(&replica, "creator", "/acknowledge", "eve", json!({"broadcast_id": first})).await; // 3
    post(&replica, "forum", "/acknowledge", "a.b c", json!({"broadcast_id": second})).await; // 4
    post(&replica, "creator", "/clear", "bob", json!({})).await; // 5
    post(&replica, "creator", "", "ann", json!({"message": "three"})).await; // 6

    let all: [(&[&str], &[u64]); 10] = [
        (&[], &[1, 2, 3, 4, 5, 6]),
        (&["--from-seq", "4"], &[4, 5, 6]),
        (&["--from-seq", "7"], &[]),
        (&["--channel", "forum"], &[2, 4]),
        (&["--channel", "nowhere"], &[]),
        (&["--type", "broadcast.created"], &[1, 2, 6]),
        (&["--user", "bob"], &[2, 5]),
        (&["--user", "a.b c"], &[4]),
        (&["--type", "broadcast.created", "--user", "ann", "--from-seq", "2"], &[6]),
        (&["--channel", "creator", "--user", "bob", "--type", "broadcast.cleared"], &[5]),
    ];
    for (options, sequences) in all {
        assert_eq!(replayed(&replica, options).await, sequences, "{options:?}");
    }
    for wrong in [["--from-seq", "0"], ["--from-seq", "x"], ["--channel", "No"], ["--user", ""]] {
        let output = replica.tidings(&[&["audit", "replay"], &wrong[..]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(errors(&output).contains(wrong[0]), "{}", errors(&output));
    }

    let events = lines(&replica.tidings(&["audit", "replay"]).await);
    assert_eq!((&events[0]["id"], &events[0]["type"]), (&first, &json!("broadcast.created")));
    assert_eq!(events[0]["data"]["message"], "one");
    assert_eq!(events[3]["data"]["acknowledgements"][0]["user"], "a.b c");
    assert_eq!(events[4]["data"]["cleared_by"], "bob");
    assert_eq!(events[4]["subject"], format!("creator/{}", first.as_str().unwrap()));
}

#[tokio::test]
async fn the_state_at_every_sequence_is_what_a_replica_showed_then() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut shown = vec![(replica.readyz().await["digest"].clone(), Value::Null)];
    for n in 0..4 {
        let id = post(&replica, "creator", "", "ann", json!({"message": format!("number {n}")})).await["id"]
            .clone();
        shown.push((replica.digest_at(shown.len() as u64).await.into(), replica.active("nobody").await));
        for user in ["eve", "adam"] {
            post(&replica, "creator", "/acknowledge", user, json!({"broadcast_id": id})).await;
            shown.push((replica.digest_at(shown.len() as u64).await.into(), replica.active("nobody").await));
        }
        if n % 2 == 1 {
            replica.clear().await;
            shown.push((replica.digest_at(shown.len() as u64).await.into(), replica.active("nobody").await));
        }
    }
    assert_eq!(shown.len(), 15);
    for (sequence, (digest, active)) in shown.iter().enumerate() {
        let state = state_at(&replica, sequence as u64).await;
        assert_eq!((&state["digest"], &state["at_sequence"]), (digest, &json!(sequence)));
        assert_eq!(state["channels"]["creator"]["active"], active["id"], "at {sequence}");
    }

    let last = replica.tidings(&["audit", "state"]).await;
    let state: Value = serde_json::from_slice(&last.stdout).unwrap();
    assert_eq!((&state["digest"], &state["at_sequence"]), (&shown[14].0, &json!(14)));
    let broadcasts = state["channels"]["creator"]["broadcasts"].as_array().unwrap();
    assert_eq!(broadcasts.len(), 4);
    for broadcast in broadcasts {
        let by: Vec<_> = broadcast["acknowledged_by"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["user"].as_str().unwrap())
            .collect();
        assert_eq!((by, &broadcast["acknowledged"]), (vec!["eve", "adam"], &json!(2)));
    }

    let beyond = replica.tidings(&["audit", "state", "--at-seq", "15"]).await;
    assert_eq!(beyond.status.code(), Some(1));
    assert!(
        errors(&beyond).contains("the log ends at sequence 14; there is no state at 15 yet"),
        "{}",
        errors(&beyond)
    );
    assert!(beyond.stdout.is_empty());
}

#[tokio::test]
async fn what_is_not_an_event_is_passed_over_and_said() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    let jetstream = nats.jetstream().await;
    let mut future = HeaderMap::new();
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", "0198c5a0-1111-7222-8333-444455556666"),
        ("type", "broadcast.sung"),
        ("source", "/tidings/newer"),
        ("time", "2026-01-02T03:04:05.678Z"),
        ("subject", "creator/0198c5a0-1111-7222-8333-444455556666"),
        ("datacontenttype", "application/json"),
        ("dataschema", "urn:tidings:schema:broadcast.sung:3"),
    ] {
        future.insert(format!("ce-{name}"), value);
    }
    for (subject, headers, body) in [
        ("broadcasts.creator.other", HeaderMap::new(), &b"\xff\x00"[..]),
        ("broadcasts.creator.lifecycle", HeaderMap::new(), b"{}"),
        ("broadcasts.creator.lifecycle", future, b"{\"song\":1}"),
    ] {
        jetstream.publish_with_headers(subject, headers, body.to_vec().into()).await.unwrap().await.unwrap();
    }
    let id = replica.post_broadcast("after the noise").await["id"].clone();

    let output = replica.tidings(&["audit", "replay"]).await;
    assert_eq!(replayed(&replica, &[]).await, [1, 5]);
    let notes = errors(&output);
    let notes: Vec<_> = notes.lines().collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    for (sequence, note) in (2..).zip(&notes) {
        assert!(note.starts_with(&format!("sequence {sequence}: passed over: ")), "{note}");
    }
    assert!(notes[2].contains("broadcast.sung"), "{notes:?}");
    let state = state_at(&replica, 5).await;
    assert_eq!((&state["passed_over"], &state["channels"]["creator"]["active"]), (&json!(3), &id));
    assert_eq!(state["digest"], replica.digest_at(5).await, "the replica passed over the same");
    assert!((replica.metric("tidings_projection_skipped_foreign").await - 2.0).abs() < 0.5);
    assert!((replica.metric("tidings_projection_skipped_future").await - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_reader_that_has_enough_may_leave() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for _ in 0..30 {
        replica.post_broadcast(&"🦀".repeat(280)).await;
    }
    for command in [["audit", "replay"], ["audit", "state"], ["admin", "status"]] {
        let mut child =
            replica.command(&command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().await.unwrap();
        assert_eq!((output.status.code(), errors(&output).as_str()), (Some(0), ""), "{command:?}");
    }
}

#[tokio::test]
async fn a_log_that_is_not_there_is_a_clear_error() {
    let nats = Nats::start().await;
    let away = Replica::prepared(Spec::joining("nats://auditor:secret@127.0.0.1:1"));
    let empty = Replica::prepared(Spec::joining(nats.url()));
    let nowhere = Replica::prepared(Spec::embedded());
    for (replica, said) in [(&away, "127.0.0.1:1"), (&empty, "BROADCASTS"), (&nowhere, "no --nats was given")]
    {
        for command in ["replay", "state"] {
            let output = replica.tidings(&["audit", command]).await;
            assert_eq!(output.status.code(), Some(1), "{said}");
            let errors = errors(&output);
            assert!(errors.contains(said) && !errors.contains("secret"), "{errors}");
        }
    }
}
