//! The habits of nats-server that the design rests on, each held to on real servers, and what the log makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use tempfile::TempDir;
use tidings::log::connection::{NatsAddress, connect};
use tidings::log::jetstream::JetStreamLog;
use tidings::log::names::LOG_STREAM;
use tidings::log::reader::LogEntry;
use tidings::log::{AppendError, Appended, EventLog as _};
use tidings::submit::SubmitError;
use tidings::submit::mode::Mode;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::support::log::{Meddled, Reading, created, everything, expecting, lifecycle, message};
use crate::support::projecting::{Projecting, create, key};
use crate::support::{Cluster, Nats, eventually, nats};

/// What a server says to a raw publish on the lifecycle subject: the sequence and whether it is a double, or a code.
async fn publish(raw: &jetstream::Context, id: &str, expected: Option<u64>) -> Result<(u64, bool), u64> {
    let mut message = PublishMessage::build().payload("x".into()).message_id(id);
    if let Some(expected) = expected {
        message = message.expected_last_subject_sequence(expected);
    }
    let acked = raw.send_publish(lifecycle().to_string(), message).await.unwrap().await;
    acked.map(|ack| (ack.sequence, ack.duplicate)).map_err(|error| code_of(&error))
}

fn code_of(error: &PublishError) -> u64 {
    use std::error::Error as _;
    let refused = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    refused.unwrap_or_else(|| panic!("no answer from the server: {error}")).error_code().0
}

async fn fifty_at_once(raw: &jetstream::Context, expected: u64) -> (usize, Vec<u64>) {
    let names: Vec<_> = (0..50).map(|n| format!("{expected}-{n}")).collect();
    let answers = join_all(names.iter().map(|name| publish(raw, name, Some(expected)))).await;
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    (taken, answers.into_iter().filter_map(Result::err).collect())
}

#[tokio::test]
async fn one_node_refuses_a_wrong_last_sequence_with_10071() {
    let nats = Nats::start().await;
    nats.log().await;
    let raw = nats.jetstream().await;
    for expected in 0..3 {
        assert_eq!(fifty_at_once(&raw, expected).await, (1, vec![10071; 49]));
    }
    // The guard comes before the duplicate window, whether the doubled message is the last one or not.
    assert_eq!(publish(&raw, "twice", Some(3)).await, Ok((4, false)));
    assert_eq!(publish(&raw, "twice", Some(3)).await, Err(10071));
    assert_eq!(publish(&raw, "twice", Some(4)).await, Ok((4, true)));
}

#[tokio::test]
async fn three_nodes_refuse_with_10071_or_10164_and_look_at_the_ids_first() {
    let cluster = Cluster::start().await;
    cluster.log().await;
    let raw = cluster.nodes[1].jetstream().await;
    for expected in 0..3 {
        let (taken, refused) = fifty_at_once(&raw, expected).await;
        assert_eq!((taken, refused.len()), (1, 49));
        assert!(refused.iter().all(|code| [10071, 10164].contains(code)), "{refused:?}");
    }
    assert_eq!(publish(&raw, "twice", Some(3)).await, Ok((4, false)));
    assert_eq!(publish(&raw, "twice", Some(3)).await, Ok((4, true)));
    assert_eq!(publish(&raw, "other", Some(3)).await, Err(10071));
    // While the first one of an id is on its way, the others are told to ask again.
    let answers = join_all((0..50).map(|_| publish(&raw, "at once", None))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok((5, _)) | Err(10158))), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == Ok((5, false))).count(), 1);
    assert_eq!(publish(&raw, "at once", None).await, Ok((5, true)));
}

/// A log that loses its first PubAck; before the next try, somebody else may have gone on.
fn losing_one_answer(log: &JetStreamLog, others_go_on: bool) -> Meddled<JetStreamLog> {
    let lost = Arc::new(AtomicBool::new(false));
    let append = move |log: JetStreamLog, event| {
        let lost = lost.clone();
        async move {
            let appended = log.append(event).await;
            if lost.swap(true, SeqCst) {
                return appended;
            }
            if others_go_on {
                log.append(created("somebody else's")).await.unwrap();
            }
            Err(AppendError::Unknown(anyhow::anyhow!("the answer was lost")))
        }
        .boxed()
    };
    Meddled { append: Box::new(append), ..Meddled::with(log) }
}

#[tokio::test]
async fn a_lost_answer_is_found_again_wherever_the_event_stands() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    let directory = TempDir::new().unwrap();
    let projecting = Projecting::start(log.clone(), directory.path());
    projecting.digest_at(0).await;
    for (others_go_on, key, place, length) in [
        (false, None, 1, 1),
        (true, None, 2, 3),
        (false, Some(key("k1")), 4, 4),
        (true, Some(key("k2")), 5, 6),
    ] {
        let submit = projecting.submit(losing_one_answer(&log, others_go_on), Duration::from_secs(3));
        let done = submit.lifecycle(create("once"), key, None).await.unwrap();
        assert_eq!(done.sequence, Some(place));
        assert_eq!(everything(&log).await.len(), length, "written once");
        if key.is_some() {
            assert_eq!(submit.lifecycle(create("once"), key, None).await.unwrap(), done);
        }
    }
}

#[tokio::test]
async fn a_publish_without_an_answer_may_land_late_and_the_command_ends_once() {
    let nats = Nats::start().await;
    let connection = nats.connection().await;
    nats.log().await;
    let log = JetStreamLog::new(connection.client, nats::provision(1));
    let directory = TempDir::new().unwrap();
    let projecting = Projecting::start(log.clone(), directory.path());
    projecting.digest_at(0).await;
    let submit = projecting.submit(log.clone(), Duration::from_secs(3));

    nats.freeze();
    let answer = submit.lifecycle(create("late"), Some(key("k")), None).await;
    let Err(SubmitError::Unknown { id }) = answer else { panic!("{answer:?}") };
    nats.thaw();
    eventually("what was given up has landed", || async {
        log.info().await.is_ok_and(|info| info.last_sequence == 1)
    })
    .await;
    submit.modes().watch().wait_for(|mode| *mode == Mode::Cluster).await.unwrap();
    let done = submit.lifecycle(create("late"), Some(key("k")), None).await.unwrap();
    assert_eq!((done.id, done.sequence), (id, Some(1)));
    // One more through the same connection: whatever was buffered has landed before it.
    assert_eq!(submit.lifecycle(create("next"), None, None).await.unwrap().sequence, Some(2));
    assert_eq!(everything(&log).await.len(), 2);
}

#[tokio::test]
async fn nothing_is_published_while_the_connection_is_down() {
    let mut nats = Nats::start().await;
    let connection = nats.connection().await;
    nats.log().await;
    let log = JetStreamLog::new(connection.client.clone(), nats::provision(1));
    nats.kill();
    let down = || async { connection.client.connection_state() != async_nats::connection::State::Connected };
    eventually("the client notices", down).await;
    for _ in 0..3 {
        assert!(matches!(log.append(created("lost")).await, Err(AppendError::Unknown(_))));
    }
    nats.start_again().await;
    eventually("an append is answered", || async { log.append(created("kept")).await.is_ok() }).await;
    let messages = everything(&log).await;
    assert_eq!(messages.len(), 1);
    assert!(String::from_utf8_lossy(&messages[0].body).contains("kept"));
}

#[tokio::test]
async fn an_idle_reader_goes_on_after_a_restart_without_a_replay_or_a_skip() {
    let mut nats = Nats::start().await;
    let log = nats.log().await;
    for n in 1..=6 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let connection = nats.connection().await;
    let mut generation = connection.generation.clone();
    let replica = JetStreamLog::new(connection.client, nats::provision(1));
    let mut reading = Reading::over(replica.clone(), connection.generation);
    reading.epoch().await;
    reading.up_to(6).await;
    for sequence in 7..=9 {
        generation.mark_unchanged();
        if sequence == 8 {
            nats.stop();
            nats.start_again().await;
        } else {
            nats.restart().await;
        }
        generation.changed().await.unwrap();
        eventually("an append is answered", || async {
            replica.append(expecting(sequence - 1, created("new"))).await.is_ok()
        })
        .await;
        assert_eq!(reading.up_to(sequence).await.len(), 1);
    }
    reading.expect_nothing();
}

#[tokio::test]
async fn a_reader_over_a_recreated_stream_reads_all_of_the_new_one() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    for n in 1..=6 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let mut reading = Reading::from_start(log.clone());
    let before = reading.epoch().await;
    reading.up_to(6).await;
    // Nobody creates it anew: the reader does.
    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    assert_ne!(reading.epoch().await, before);
    for n in 1..=5 {
        log.append(created(&format!("new {n}"))).await.unwrap();
    }
    let read: Vec<_> = reading.up_to(5).await.iter().map(|entry| message(entry).clone()).collect();
    assert_eq!(read, everything(&log).await);
}

/// A log of nine messages whose fourth one is damaged on disk.
async fn with_a_damaged_message(orderly: bool) -> (Nats, JetStreamLog, Reading) {
    let mut nats = Nats::start().await;
    let log = nats.log().await;
    for n in 1..=9 {
        log.append(created(&format!("message {n} of nine"))).await.unwrap();
    }
    let mut read_before = Reading::from_start(log);
    read_before.epoch().await;
    read_before.up_to(9).await;
    // An orderly stop leaves an index behind, which keeps the count; after a crash the blocks alone speak.
    if orderly {
        nats.stop();
    } else {
        nats.kill();
    }
    nats.damage("message 4 of nine");
    nats.start_again().await;
    let log = nats.log().await;
    (nats, log, read_before)
}

#[tokio::test]
async fn a_damaged_message_vanishes_without_a_word_and_a_reader_records_a_hole() {
    let (_nats, log, read_before) = with_a_damaged_message(true).await;
    assert_eq!((log.info().await.unwrap().last_sequence, everything(&log).await.len()), (9, 8));
    let mut reading = Reading::from_start(log.clone());
    reading.epoch().await;
    let entries = reading.up_to(9).await;
    assert_eq!(entries[3], LogEntry::Hole(4));
    assert_eq!(entries.iter().filter(|entry| matches!(entry, LogEntry::Hole(_))).count(), 1);
    // Appends go on, and who had read further goes on from there.
    assert_eq!(log.append(created("after")).await.unwrap().sequence, 10);
    assert_eq!(reading.up_to(10).await.len(), 1);
    let mut on = Reading::from(log, read_before.cursor.clone());
    assert_eq!(on.up_to(10).await.len(), 1);
}

#[tokio::test]
async fn after_a_crash_a_damaged_stream_comes_back_shorter_and_reuses_sequences() {
    let (_nats, log, read_before) = with_a_damaged_message(false).await;
    assert_eq!(log.info().await.unwrap().last_sequence, 3);
    // Shorter than what was read: another log.
    let mut reading = Reading::from(log.clone(), read_before.cursor.clone());
    reading.epoch().await;
    reading.up_to(3).await;
    for n in 4..=12 {
        assert_eq!(log.append(created(&format!("instead of {n}"))).await.unwrap().sequence, n);
    }
    reading.up_to(12).await;
    // Long enough again: only what stands at the cursor shows that it is another one.
    let mut deceived = Reading::from(log.clone(), read_before.cursor.clone());
    deceived.epoch().await;
    let read: Vec<_> = deceived.up_to(12).await.iter().map(|entry| message(entry).clone()).collect();
    assert_eq!(read, everything(&log).await);
}

#[tokio::test]
async fn after_the_streams_leader_dies_appends_and_readers_go_on() {
    let mut cluster = Cluster::start().await;
    let _provisioned = cluster.log().await;
    let address =
        NatsAddress { servers: cluster.nodes.iter().map(Nats::url).collect(), ..NatsAddress::default() };
    let connection = connect(&address, "test").await.unwrap();
    let log = JetStreamLog::new(connection.client.clone(), nats::provision(3));
    let mut reading = Reading::over(log.clone(), connection.generation);
    log.append(expecting(0, created("before"))).await.unwrap();
    reading.epoch().await;
    reading.up_to(1).await;

    let leader = cluster.log_leader(0).await;
    cluster.nodes[leader].kill();
    let event = expecting(1, created("after"));
    eventually("an append is answered", || async {
        matches!(
            log.append(event.clone()).await,
            Ok(Appended { sequence: 2, .. }) | Err(AppendError::Conflict)
        )
    })
    .await;
    assert_eq!(message(&reading.up_to(2).await[0]).header("ce-id"), Some(event.id.to_string().as_str()));
    assert_eq!(log.head_of(lifecycle()).await.unwrap(), 2);
}

#[tokio::test]
async fn an_older_server_is_a_clear_error_that_names_both_versions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let info = r#"{"server_id":"A","version":"2.9.0","proto":1,"headers":true,"jetstream":true,"max_payload":1048576}"#;
            write.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("PING") {
                    write.write_all(b"PONG\r\n").await.unwrap();
                }
            }
        }
    });
    let address = NatsAddress { servers: vec![server], ..NatsAddress::default() };
    let Err(error) = connect(&address, "test").await else { panic!("it was taken") };
    let said = format!("{error:#}");
    assert!(said.contains("2.9.0") && said.contains("2.11"), "{said}");
}

#[tokio::test]
async fn of_a_header_that_stands_there_twice_the_clients_own_get_loses_one_and_ours_none() {
    let nats = Nats::start().await;
    let (log, context) = (nats.log().await, nats.jetstream().await);
    let mut headers = HeaderMap::new();
    headers.append("x-note", "one");
    headers.append("x-note", "two");
    let sent = context.publish_with_headers("broadcasts.creator.other", headers, "x".into()).await.unwrap();
    sent.await.unwrap();
    let stream = context.get_stream(LOG_STREAM).await.unwrap();
    let theirs = stream.get_raw_message(1).await.unwrap();
    assert_eq!(theirs.headers.get_all("x-note").count(), 1, "the client keeps all: `log/stored.rs` can go");
    let ours = log.get(1).await.unwrap().unwrap();
    let notes = [("x-note", "one"), ("x-note", "two")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(ours.headers, notes);
    assert_eq!(log.first_from(1).await.unwrap().as_ref(), Some(&ours));
    let delivered = log.follow(1).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!((delivered.leaf(), &delivered), (ours.leaf(), &ours), "however it comes");
}
