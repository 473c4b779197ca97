//! The auditor's commands: the log as it happened, and what was true at any moment, from the log alone.

use std::process::{Output, Stdio};

use async_nats::HeaderMap;
use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::time::{parse_rfc3339, rfc3339};

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

    let (one, two) = (first.as_str().unwrap(), second.as_str().unwrap());
    let all: [(&[&str], &[u64]); 17] = [
        (&[], &[1, 2, 3, 4, 5, 6]),
        (&["--from-seq", "4"], &[4, 5, 6]),
        (&["--from-seq", "7"], &[]),
        (&["--to-seq", "3"], &[1, 2, 3]),
        (&["--to-seq", "9"], &[1, 2, 3, 4, 5, 6]),
        (&["--from-seq", "2", "--to-seq", "4"], &[2, 3, 4]),
        (&["--from-seq", "5", "--to-seq", "4"], &[]),
        (&["--broadcast", one], &[1, 3, 5]),
        (&["--broadcast", two, "--type", "broadcast.acknowledged"], &[4]),
        (&["--broadcast", one, "--user", "bob", "--to-seq", "4"], &[]),
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
    for wrong in [
        ["--from-seq", "0"],
        ["--from-seq", "x"],
        ["--to-seq", "0"],
        ["--until", "5"],
        ["--broadcast", "5"],
        ["--channel", "No"],
        ["--user", ""],
    ] {
        let output = replica.tidings(&[&["audit", "replay"], &wrong[..]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(errors(&output).contains(wrong[0]), "{}", errors(&output));
    }

    for endless in [["--to-seq", "3"], ["--until", "1h"]] {
        let output = replica.tidings(&[&["audit", "replay", "--follow"], &endless[..]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{endless:?}");
        assert!(errors(&output).contains(endless[0]), "{}", errors(&output));
    }
    for (options, said) in [
        (&["--channel", "nosuch"][..], "no event from sequence 1 to 6 matches\n"),
        (&["--channel", "nosuch", "--from-seq", "3"], "no event from sequence 3 to 6 matches\n"),
        (&["--from-seq", "7"], "nothing is there to print: the log ends at sequence 6\n"),
        (&["--from-seq", "5", "--to-seq", "4"], "no event was recorded between that start and that end\n"),
        (&["--channel", "forum"], ""),
    ] {
        assert_eq!(
            errors(&replica.tidings(&[&["audit", "replay"], options].concat()).await),
            said,
            "{options:?}"
        );
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
    assert_eq!(beyond.status.code(), Some(2));
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
    assert!(
        (replica.metric(r#"tidings_projection_skipped_messages{reason="foreign"}"#).await - 2.0).abs() < 0.5
    );
    assert!(
        (replica.metric(r#"tidings_projection_skipped_messages{reason="future"}"#).await - 1.0).abs() < 0.5
    );
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
            assert_eq!(output.status.code(), Some(3), "{said}");
            let errors = errors(&output);
            assert!(errors.contains(said) && !errors.contains("secret"), "{errors}");
        }
    }
}

/// When the log recorded each event that a replay prints, by JetStream's clock in nanoseconds.
async fn recorded_at(replica: &Replica) -> Vec<i64> {
    let events = lines(&replica.tidings(&["audit", "replay"]).await);
    events.iter().map(|event| parse_rfc3339(event["recordedtime"].as_str().unwrap()).unwrap()).collect()
}

/// The sequences that `replay --since` prints, and the one that `state --at` counts up to.
async fn since_and_at(replica: &Replica, moment: &str) -> (Vec<u64>, u64) {
    let output = replica.tidings(&["audit", "state", "--at", moment]).await;
    assert!(output.status.success(), "{}", errors(&output));
    let state: Value = serde_json::from_slice(&output.stdout).unwrap();
    (replayed(replica, &["--since", moment]).await, state["at_sequence"].as_u64().unwrap())
}

#[tokio::test]
async fn a_moment_of_the_log_is_before_or_after_each_event() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    assert_eq!(since_and_at(&replica, "1h").await, (vec![], 0), "an empty log");
    for n in 1..=5 {
        replica.post_broadcast(&format!("number {n}")).await;
    }
    let times = recorded_at(&replica).await;
    let all = [1, 2, 3, 4, 5];
    for (n, time) in (1..).zip(&times) {
        let before = (all[n - 1..].to_vec(), n as u64 - 1);
        assert_eq!(since_and_at(&replica, &rfc3339(time - 1)).await, before, "a moment before {n}");
        let exactly = (all[n - 1..].to_vec(), n as u64);
        assert_eq!(since_and_at(&replica, &rfc3339(*time)).await, exactly, "exactly at {n}");
        let after = (all[n..].to_vec(), n as u64);
        assert_eq!(since_and_at(&replica, &rfc3339(time + 1)).await, after, "a moment after {n}");
    }
    assert_eq!(since_and_at(&replica, "1h").await, (all.to_vec(), 0));
    assert_eq!(since_and_at(&replica, "0s").await, (vec![], 5));
    let second = rfc3339(times[1]);
    assert_eq!(replayed(&replica, &["--since", &second, "--from-seq", "4"]).await, [4, 5]);
    assert_eq!(replayed(&replica, &["--since", &second, "--from-seq", "1"]).await, [2, 3, 4, 5]);
    assert_eq!(replayed(&replica, &["--until", &second]).await, [1, 2]);
    assert_eq!(replayed(&replica, &["--until", &rfc3339(times[1] - 1)]).await, [1]);
    assert_eq!(replayed(&replica, &["--until", "1h"]).await, [] as [u64; 0]);
    assert_eq!(replayed(&replica, &["--since", &second, "--until", &rfc3339(times[3])]).await, [2, 3, 4]);
    assert_eq!(replayed(&replica, &["--since", &second, "--until", "0s", "--to-seq", "3"]).await, [2, 3]);

    let to_come = replica.tidings(&["audit", "state", "--at", "2200-01-01T00:00:00Z"]).await;
    assert!(to_come.status.success() && errors(&to_come).contains("still to come"), "{}", errors(&to_come));
    for wrong in [
        &["replay", "--since", "yesterday"][..],
        &["state", "--at", "5"],
        &["state", "--at", "1h", "--at-seq", "1"],
    ] {
        let output = replica.tidings(&[&["audit"], wrong].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(errors(&output).contains(wrong[1]), "{}", errors(&output));
    }
}

#[tokio::test]
async fn a_moment_is_found_around_what_the_log_has_lost() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    for n in 1..=7 {
        replica.post_broadcast(&format!("message {n} of seven")).await;
    }
    let times = recorded_at(&replica).await;
    replica.kill();
    nats.stop();
    nats.damage("message 4 of seven");
    nats.start_again().await;
    for (n, time) in (1..=7).zip(&times) {
        let (printed, at) = since_and_at(&replica, &rfc3339(*time)).await;
        assert_eq!(printed, (n..=7).filter(|sequence| *sequence != 4).collect::<Vec<_>>(), "since {n}");
        assert_eq!(at, if n == 4 { 3 } else { n }, "at {n}");
    }
    let output = replica.tidings(&["audit", "replay", "--since", &rfc3339(times[3])]).await;
    assert!(errors(&output).contains("sequence 4: the log has lost its message"), "{}", errors(&output));
}

#[tokio::test]
async fn people_get_a_table_that_no_foreign_text_can_steer() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id =
        post(&replica, "creator", "", "ann", json!({"message": "one\ntwo", "type": "alert"})).await["id"]
            .clone();
    post(&replica, "creator", "/acknowledge", "eve\u{9b}2J", json!({"broadcast_id": id})).await;
    post(&replica, "creator", "", "東京", json!({"message": "🦀".repeat(280)})).await;
    post(&replica, "creator", "/clear", "bob", json!({})).await;
    let jetstream = nats.jetstream().await;
    let mut foreign = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", "x%1B%5B2J"),
        ("ce-source", "/"),
        ("ce-dataschema", "urn:tidings:schema:x%1B%5B2J:1"),
    ] {
        foreign.insert(name, value);
    }
    let sent = jetstream.publish_with_headers("broadcasts.creator.other", foreign, "".into()).await.unwrap();
    sent.await.unwrap();

    let output = replica.tidings(&["audit", "replay", "--format", "table"]).await;
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["SEQUENCE", "RECORDED", "CHANNEL", "TYPE", "WHO", "WHAT"]);
    assert_eq!(
        (rows.len(), rows[1][0], &rows[1][2..]),
        (5, "1", &["creator", "created", "ann", "[alert]", "one", "two"][..])
    );
    assert_eq!(rows[2][2..], ["creator", "acknowledged", "eve\u{FFFD}2J", id.as_str().unwrap()]);
    assert!(rows[3][5].ends_with("🦀…"), "{table}");
    assert_eq!(rows[4][2..5], ["creator", "cleared", "bob"]);
    assert!(errors(&output).contains("sequence 5: passed over: x\u{FFFD}[2J:1"), "{}", errors(&output));

    let state = replica.tidings(&["audit", "state", "--format", "table"]).await;
    let state = String::from_utf8(state.stdout).unwrap();
    assert!(state.starts_with("After sequence 5; 1 passed over.\n\ncreator: nothing active\n"), "{state}");
    let rows: Vec<Vec<_>> = state.lines().skip(4).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][0], &rows[0][2..]), ("1", &["superseded", "ann", "1", "one", "two"][..]));
    assert_eq!((rows.len(), rows[1][2], rows[1][3]), (2, "cleared", "東京"));

    for command in [&["replay"][..], &["replay", "--format", "ndjson"], &["state", "--format", "json"]] {
        let output = replica.tidings(&[&["audit"], command].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains(r"eve\u009b2J"), "{text}");
    }
    let events = lines(&replica.tidings(&["audit", "replay", "--user", "eve\u{9b}2J"]).await);
    assert_eq!(events[0]["data"]["acknowledgements"][0]["user"], "eve\u{9b}2J");
}
