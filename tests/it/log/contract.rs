//! The contract of the log: one suite of checks over the log in memory and over JetStream, on one node and on three.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tidings::log::envelope::{Decoded, Skipped, decode};
use tidings::log::memory::MemoryLog;
use tidings::log::names::{LOG_STREAM, Subject};
use tidings::log::reader::{Cursor, LastEntry, LogEntry};
use tidings::log::{AppendError, Appended, Epoch, EventLog, LogInfo};

use crate::support::log::{
    Meddled, Reading, acknowledged, channel, created, everything, expecting, lifecycle, message,
};
use crate::support::{Cluster, Nats};

/// What others may do to a log: a foreign client, an administrator.
trait Outside {
    async fn publish_foreign(&self, subject: &str, header: (&str, &str), body: &'static str);
    async fn delete_and_create(&self);
    /// Leaves room for about so many bytes more.
    async fn limit(&self, room: u64);
}

impl Outside for MemoryLog {
    async fn publish_foreign(&self, subject: &str, (name, value): (&str, &str), body: &'static str) {
        self.inject(subject, vec![(name.to_owned(), value.to_owned())], Bytes::from_static(body.as_bytes()));
    }

    async fn delete_and_create(&self) {
        self.recreate();
    }

    async fn limit(&self, room: u64) {
        let used = self.info().await.unwrap().bytes;
        MemoryLog::limit(self, used + room);
    }
}

impl Outside for jetstream::Context {
    async fn publish_foreign(&self, subject: &str, (name, value): (&str, &str), body: &'static str) {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        let sent = self.publish_with_headers(subject.to_owned(), headers, body.into()).await.unwrap();
        sent.await.unwrap();
    }

    async fn delete_and_create(&self) {
        self.delete_stream(LOG_STREAM).await.unwrap();
        crate::support::nats::provision(1).stream(self, LOG_STREAM).await.unwrap();
    }

    async fn limit(&self, room: u64) {
        let info = self.get_stream(LOG_STREAM).await.unwrap().cached_info().clone();
        let max_bytes = i64::try_from(info.state.bytes + room).unwrap();
        self.update_stream(jetstream::stream::Config { max_bytes, ..info.config }).await.unwrap();
    }
}

/// Each check becomes a test on a log in memory and one on a real server.
macro_rules! on_both_logs {
    ($($check:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $check() {
                let log = super::MemoryLog::default();
                super::$check(log.clone(), log).await;
            })*
        }

        mod on_jetstream {
            $(#[tokio::test]
            async fn $check() {
                let nats = super::Nats::start().await;
                super::$check(nats.log().await, nats.jetstream().await).await;
            })*
        }
    };
}

on_both_logs![
    the_guard_takes_one_event_a_head,
    a_doubled_id_without_a_guard_gets_the_first_place,
    the_guard_is_checked_before_the_ids,
    it_is_followed_in_order_from_any_place,
    the_first_message_from_a_place_on_is_found,
    what_was_written_is_read_back,
    a_full_log_refuses_and_keeps_what_it_has,
    an_event_beyond_the_size_of_a_message_is_refused,
    foreign_messages_are_delivered_as_they_are,
    a_reader_hands_on_every_place_once,
    a_reader_goes_on_from_its_cursor,
    a_reader_begins_anew_when_the_log_is_another_one,
    a_reader_with_the_cursor_of_another_log_begins_anew,
];

fn at(sequence: u64) -> Appended {
    Appended { sequence, duplicate: false }
}

async fn the_guard_takes_one_event_a_head(log: impl EventLog, _outside: impl Outside) {
    assert_eq!(log.head_of(lifecycle()).await.unwrap(), 0);
    assert_eq!(log.append(expecting(0, created("first"))).await.unwrap(), at(1));
    for stale in [0, 2, 7] {
        let refused = log.append(expecting(stale, created("stale"))).await;
        assert!(matches!(refused, Err(AppendError::Conflict)), "expected {stale}: {refused:?}");
    }
    assert_eq!(log.append(expecting(1, created("second"))).await.unwrap(), at(2));
    // Another subject has a head of its own.
    let elsewhere = tidings::log::NewEvent { subject: Subject::Late(channel()), ..created("late") };
    assert_eq!(log.append(expecting(0, elsewhere)).await.unwrap(), at(3));
    assert_eq!(log.append(expecting(2, created("third"))).await.unwrap(), at(4));
    assert_eq!(log.head_of(lifecycle()).await.unwrap(), 4);
    assert_eq!(log.info().await.unwrap().last_sequence, 4, "what was refused is not there");
}

async fn a_doubled_id_without_a_guard_gets_the_first_place(log: impl EventLog, _outside: impl Outside) {
    let event = acknowledged(uuid::Uuid::from_u128(1), &["ann"]);
    assert_eq!(log.append(event.clone()).await.unwrap(), at(1));
    log.append(created("in between")).await.unwrap();
    assert_eq!(log.append(event).await.unwrap(), Appended { sequence: 1, duplicate: true });
    assert_eq!(log.info().await.unwrap().last_sequence, 2);
}

async fn the_guard_is_checked_before_the_ids(log: impl EventLog, _outside: impl Outside) {
    let event = expecting(0, created("its answer got lost"));
    assert_eq!(log.append(event.clone()).await.unwrap(), at(1));
    let retried = log.append(event.clone()).await;
    assert!(matches!(retried, Err(AppendError::Conflict)), "{retried:?}");
    // Only with the guard of the moment does the id count.
    assert_eq!(log.append(expecting(1, event)).await.unwrap(), Appended { sequence: 1, duplicate: true });
}

async fn it_is_followed_in_order_from_any_place(log: impl EventLog, _outside: impl Outside) {
    for n in 1..=5 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let mut messages = log.follow(3).await.unwrap();
    let mut sequences = Vec::new();
    for _ in 3..=5 {
        sequences.push(messages.next().await.unwrap().unwrap().sequence);
    }
    // What is appended while it is followed comes too.
    log.append(created("6")).await.unwrap();
    sequences.push(messages.next().await.unwrap().unwrap().sequence);
    assert_eq!(sequences, [3, 4, 5, 6]);
}

async fn the_first_message_from_a_place_on_is_found(log: impl EventLog, _outside: impl Outside) {
    assert_eq!(log.first_from(1).await.unwrap(), None, "an empty log");
    for n in 1..=3 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    for (from, sequence) in [(0, 1), (1, 1), (2, 2), (3, 3)] {
        assert_eq!(log.first_from(from).await.unwrap(), log.get(sequence).await.unwrap(), "from {from}");
    }
    assert_eq!(log.first_from(4).await.unwrap(), None, "behind the end");
}

async fn what_was_written_is_read_back(log: impl EventLog, _outside: impl Outside) {
    let event = created("„Grüße“ \u{1F44B}");
    log.append(event.clone()).await.unwrap();
    let found = log.get(1).await.unwrap().unwrap();
    let Decoded::Event(recorded) = decode(&found) else { panic!("unreadable: {found:?}") };
    assert_eq!((recorded.sequence, recorded.id, &recorded.event), (1, event.id, &event.event));
    assert_eq!(recorded.channel, channel());
    // Fetched or delivered, it is the same message.
    let delivered = log.follow(1).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!((delivered.leaf(), delivered), (found.leaf(), found));
    assert_eq!(log.get(2).await.unwrap(), None);
}

async fn a_full_log_refuses_and_keeps_what_it_has(log: impl EventLog, outside: impl Outside) {
    log.append(created("fits")).await.unwrap();
    outside.limit(100).await;
    let refused = log.append(expecting(1, created(&"x".repeat(280)))).await;
    assert!(matches!(refused, Err(AppendError::Full)), "{refused:?}");
    assert_eq!(everything(&log).await.len(), 1);
    outside.limit(1 << 20).await;
    log.append(expecting(1, created("fits again"))).await.unwrap();
}

async fn an_event_beyond_the_size_of_a_message_is_refused(log: impl EventLog, _outside: impl Outside) {
    // Beyond what the stream takes, and beyond what the server takes.
    for users in [3_000, 12_000] {
        let users: Vec<_> = (0..users).map(|n| format!("{n:0100}")).collect();
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        let refused = log.append(acknowledged(uuid::Uuid::from_u128(1), &users)).await;
        assert!(matches!(refused, Err(AppendError::TooLarge)), "{refused:?}");
    }
    assert_eq!(log.append(created("small")).await.unwrap(), at(1));
}

async fn foreign_messages_are_delivered_as_they_are(log: impl EventLog, outside: impl Outside) {
    log.append(created("ours")).await.unwrap();
    outside.publish_foreign("broadcasts.creator.lifecycle", ("X-Who", "somebody else"), "not JSON").await;
    let found = log.get(2).await.unwrap().unwrap();
    assert_eq!((found.subject.as_str(), &found.body[..]), ("broadcasts.creator.lifecycle", &b"not JSON"[..]));
    assert_eq!(found.header("X-Who"), Some("somebody else"));
    assert!(matches!(decode(&found), Decoded::Skipped(Skipped::Foreign { .. })));
    // The guard counts it.
    assert_eq!(log.head_of(lifecycle()).await.unwrap(), 2);
    assert!(matches!(log.append(expecting(1, created("behind it"))).await, Err(AppendError::Conflict)));
    log.append(expecting(2, created("after it"))).await.unwrap();
}

async fn a_reader_hands_on_every_place_once(log: impl EventLog + Clone, outside: impl Outside) {
    let mut reading = Reading::from_start(log.clone());
    let epoch = reading.epoch().await;
    assert_eq!(epoch, log.info().await.unwrap().epoch);
    for n in 1..=300 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    outside.publish_foreign("broadcasts.elsewhere", ("X-Who", "somebody else"), "").await;
    log.append(created("the last")).await.unwrap();
    let read: Vec<_> = reading.up_to(302).await.iter().map(|entry| message(entry).clone()).collect();
    assert_eq!(read, everything(&log).await);
}

async fn a_reader_goes_on_from_its_cursor(log: impl EventLog + Clone, _outside: impl Outside) {
    for n in 1..=5 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let mut first = Reading::from_start(log.clone());
    first.epoch().await;
    first.up_to(5).await;
    let mut second = Reading::from(log.clone(), first.cursor.clone());
    second.following().await;
    log.append(created("6")).await.unwrap();
    assert_eq!(second.up_to(6).await.len(), 1, "what is before the cursor is not handed on again");
    // Being told that the connection was made anew changes nothing.
    second.reconnect.send_modify(|count| *count += 1);
    log.append(created("7")).await.unwrap();
    assert_eq!(second.up_to(7).await.len(), 1);
}

async fn a_reader_begins_anew_when_the_log_is_another_one(log: impl EventLog + Clone, outside: impl Outside) {
    for n in 1..=3 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let mut reading = Reading::from_start(log.clone());
    let before = reading.epoch().await;
    reading.up_to(3).await;
    outside.delete_and_create().await;
    // More than the cursor had seen: sequences alone would not show that these are others.
    for n in 1..=5 {
        log.append(created(&format!("new {n}"))).await.unwrap();
    }
    assert_ne!(reading.epoch().await, before);
    let read: Vec<_> = reading.up_to(5).await.iter().map(|entry| message(entry).clone()).collect();
    assert_eq!(read, everything(&log).await);
}

async fn a_reader_with_the_cursor_of_another_log_begins_anew(
    log: impl EventLog + Clone,
    _outside: impl Outside,
) {
    for n in 1..=3 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let epoch = log.info().await.unwrap().epoch;
    let right = LastEntry::Message(log.get(2).await.unwrap().unwrap().leaf());
    for (epoch, sequence, last, what) in [
        (Epoch::from_bits(0), 2, right, "another epoch"),
        (epoch, 3, right, "another message at the cursor"),
        (epoch, 2, LastEntry::Hole, "a message where a hole was"),
        (epoch, 9, right, "a longer log"),
    ] {
        let cursor = Cursor { epoch: Some(epoch), sequence, last: Some(last) };
        let mut reading = Reading::from(log.clone(), cursor);
        reading.epoch().await;
        assert_eq!(reading.up_to(3).await.len(), 3, "{what}");
    }
}

#[tokio::test]
async fn a_reader_records_a_hole_and_goes_on() {
    let log = MemoryLog::default();
    for n in 1..=6 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    for lost in [2, 3, 6] {
        log.damage(lost);
    }
    let mut reading = Reading::from_start(log.clone());
    reading.epoch().await;
    let mut entries = reading.up_to(5).await;
    // Nothing follows the last hole: only silence shows it.
    entries.extend(reading.up_to(6).await);
    let holes: Vec<_> =
        entries.iter().filter(|entry| matches!(entry, LogEntry::Hole(_))).map(LogEntry::sequence).collect();
    assert_eq!((entries.len(), holes), (6, vec![2, 3, 6]));
    // A reader that stands on a hole goes on behind it.
    let mut second = Reading::from(log.clone(), reading.cursor.clone());
    second.following().await;
    log.append(created("7")).await.unwrap();
    assert_eq!(second.up_to(7).await.len(), 1);
}

#[tokio::test]
async fn a_reader_fetches_what_was_not_delivered_and_asks_three_times_before_it_is_a_hole() {
    let log = MemoryLog::default();
    for n in 1..=6 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    // The first two answers about each gap are wrong.
    let asked = AtomicU32::new(0);
    let get = move |found| if asked.fetch_add(1, SeqCst) % 3 == 2 { found } else { None };
    let lossy = Meddled { get: Box::new(get), undelivered: vec![2, 3, 6], ..Meddled::with(&log) };
    let mut reading = Reading::from_start(lossy);
    reading.epoch().await;
    let read: Vec<_> = reading.up_to(6).await.iter().map(|entry| message(entry).clone()).collect();
    assert_eq!(read, everything(&log).await);
}

#[tokio::test]
async fn a_log_whose_message_at_the_cursor_is_not_delivered_again_is_still_the_same() {
    let log = MemoryLog::default();
    for n in 1..=3 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let mut first = Reading::from_start(log.clone());
    first.epoch().await;
    first.up_to(3).await;
    log.append(created("4")).await.unwrap();
    let lossy = Meddled { undelivered: vec![3], ..Meddled::with(&log) };
    assert_eq!(Reading::from(lossy, first.cursor.clone()).up_to(4).await.len(), 1);
}

#[tokio::test]
async fn a_log_that_is_said_to_be_shorter_once_is_still_the_same() {
    let log = MemoryLog::default();
    for n in 1..=3 {
        log.append(created(&n.to_string())).await.unwrap();
    }
    let mut first = Reading::from_start(log.clone());
    first.epoch().await;
    first.up_to(3).await;
    let asked = AtomicU32::new(0);
    let info = move |info: LogInfo| match asked.fetch_add(1, SeqCst) {
        0 | 1 => LogInfo { last_sequence: 2, ..info },
        _ => info,
    };
    let mut second =
        Reading::from(Meddled { info: Box::new(info), ..Meddled::with(&log) }, first.cursor.clone());
    log.append(created("4")).await.unwrap();
    assert_eq!(second.up_to(4).await.len(), 1, "it goes on, without another epoch");
}

#[tokio::test]
async fn the_guard_holds_on_three_nodes() {
    let cluster = Cluster::start().await;
    let log = cluster.log().await;
    the_guard_takes_one_event_a_head(log.clone(), MemoryLog::default()).await;
    // The one difference: several nodes check the ids before the guard.
    let event = expecting(4, created("its answer got lost"));
    assert_eq!(log.append(event.clone()).await.unwrap(), at(5));
    assert_eq!(log.append(event).await.unwrap(), Appended { sequence: 5, duplicate: true });
    // Of a crowd that expects the same, one gets in, whichever node each of them talks to.
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..60 {
        let client = cluster.nodes[n % 3].client().await;
        let log = tidings::log::jetstream::JetStreamLog::new(client, crate::support::nats::provision(3));
        crowd.spawn(async move { log.append(expecting(5, created("me"))).await });
    }
    let answers = crowd.join_all().await;
    let taken: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(taken, [&at(6)]);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(matches!(refused, AppendError::Conflict), "{refused:?}");
    }
    assert_eq!(log.info().await.unwrap().last_sequence, 6);
}
