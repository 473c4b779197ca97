//! The projection: a function of the log up to a sequence, whatever is on disk and however the log arrives.

mod memory;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::domain::{Accepted, BroadcastId, Change, Digest, State};
use tidings::log::EventLog as _;
use tidings::log::memory::MemoryLog;
use tidings::log::merkle::{Frontier, Hash};
use tidings::projection::cursor::CursorRecord;
use tidings::projection::store::{Batch, Store, quarantine};
use tidings::projection::{Announcement, Halt};
use tidings::submit::{Acknowledged, Acks};

use crate::support::log::{acknowledged, channel, created};
use crate::support::nats::files_below;
use crate::support::projecting::{Projecting, released};
use crate::support::{PATIENCE, eventually};

/// Appends a broadcast and returns its id.
async fn post(log: &MemoryLog, message: &str) -> BroadcastId {
    let event = created(message);
    let id = event.event.broadcast_id();
    log.append(event).await.unwrap();
    id
}

/// Four messages: a broadcast, acknowledgements of which some are doubles, and something foreign.
async fn append_round(log: &MemoryLog) -> BroadcastId {
    let id = post(log, "another round").await;
    log.append(acknowledged(id.0, &["ann", "bob"])).await.unwrap();
    log.append(acknowledged(id.0, &["bob", "cid"])).await.unwrap();
    log.inject("broadcasts.creator.lifecycle", vec![], Bytes::from_static(b"foreign"));
    id
}

async fn log_of_rounds(rounds: usize) -> (MemoryLog, Vec<BroadcastId>) {
    let log = MemoryLog::default();
    let mut ids = Vec::new();
    for _ in 0..rounds {
        ids.push(append_round(&log).await);
    }
    (log, ids)
}

/// What an announcement is about, in short.
fn short(announcement: &Announcement) -> (&'static str, u64) {
    match announcement {
        Announcement::Snapshot { sequence, .. } => ("snapshot", *sequence),
        Announcement::Settled { sequence, .. } => ("settled", *sequence),
        Announcement::Changed(changed) => match changed.change {
            Change::Activated { .. } => ("activated", changed.sequence),
            Change::Acknowledged { .. } => ("acknowledged", changed.sequence),
            Change::Ended { .. } => ("ended", changed.sequence),
            Change::RecordedLate { .. } => ("late", changed.sequence),
            Change::Nothing => panic!("announced that nothing happened"),
        },
    }
}

async fn announced_up_to(projecting: &mut Projecting, sequence: u64) -> Vec<(&'static str, u64)> {
    projecting.digest_at(sequence).await;
    projecting.announced().iter().map(short).collect()
}

/// What a projection with nothing on disk makes of a log.
async fn clean_digest(log: &MemoryLog) -> Digest {
    let directory = TempDir::new().unwrap();
    let projecting = Projecting::start(log.clone(), &directory.path().join("projection"));
    let digest = projecting.digest_at(log.info().await.unwrap().last_sequence).await;
    projecting.stop().await;
    digest
}

fn quarantined_beside(directory: &Path) -> Vec<PathBuf> {
    (1..9)
        .map(|n| directory.with_extension(format!("quarantine-{n}")))
        .filter(|aside| aside.exists())
        .collect()
}

#[tokio::test]
async fn a_snapshot_comes_first_and_then_every_change_in_the_logs_order() {
    let (log, ids) = log_of_rounds(2).await;
    let directory = TempDir::new().unwrap();
    let mut projecting = Projecting::start(log.clone(), directory.path());
    let first = projecting.announcement().await;
    let Announcement::Snapshot { sequence: 8, active, .. } = &first else { panic!("{first:?}") };
    let shown: Vec<_> =
        active.iter().map(|(channel, a)| (channel.as_str(), a.broadcast.id, a.sequence)).collect();
    assert_eq!(shown, [("creator", ids[1], 5)]);

    let id = append_round(&log).await;
    let heard = announced_up_to(&mut projecting, 12).await;
    assert_eq!(heard, [("activated", 9), ("acknowledged", 10), ("acknowledged", 11)]);
    // Only who was new is told of, and what did nothing is not announced.
    log.append(acknowledged(id.0, &["ann"])).await.unwrap();
    log.append(acknowledged(id.0, &["ann", "dan", "dan"])).await.unwrap();
    let Announcement::Changed(changed) = projecting.announcement().await else { panic!("not a change") };
    let Change::Acknowledged { new, .. } = &changed.change else { panic!("{changed:?}") };
    let users: Vec<_> = new.iter().map(|new| new.user.as_str()).collect();
    assert_eq!((changed.sequence, users), (14, vec!["dan"]));
}

#[tokio::test]
async fn an_empty_log_has_a_snapshot_too() {
    let (log, directory) = (MemoryLog::default(), TempDir::new().unwrap());
    let mut projecting = Projecting::start(log.clone(), directory.path());
    assert_eq!(short(&projecting.announcement().await), ("snapshot", 0));
    post(&log, "first").await;
    assert_eq!(announced_up_to(&mut projecting, 1).await, [("activated", 1)]);
}

#[tokio::test]
async fn what_is_told_before_it_is_written_is_found_in_the_store_at_once() {
    let (log, directory) = (MemoryLog::default(), TempDir::new().unwrap());
    let projecting = Projecting::start(log.clone(), directory.path());
    let id = post(&log, "acknowledged by many, one after the other").await;
    projecting.digest_at(1).await;
    for n in 1..=50 {
        log.append(acknowledged(id.0, &[format!("user-{n}").as_str()])).await.unwrap();
        projecting.digest_at(1 + n).await;
        let stored = projecting.projection.acks_after(id, (n, 1), 10).await.unwrap();
        let stored: Vec<_> =
            stored.iter().map(|ack| (ack.position, ack.acknowledgement.user.as_str())).collect();
        assert_eq!(stored, [((1 + n, 1), format!("user-{n}").as_str())]);
        let record = projecting.projection.record(channel(), id).await.unwrap().unwrap();
        assert_eq!(record.acknowledged, n);
    }
    projecting.stop().await;
}

#[tokio::test]
async fn what_is_at_or_below_the_cursor_is_not_folded_again_after_a_restart() {
    let (log, _) = log_of_rounds(5).await;
    let home = TempDir::new().unwrap();
    let directory = home.path().join("projection");
    for round in 0..4 {
        let mut projecting = Projecting::start(log.clone(), &directory);
        let before = 20 + 4 * round;
        let heard = announced_up_to(&mut projecting, before).await;
        assert_eq!(heard, [("snapshot", before)], "nothing of what is old is news");
        append_round(&log).await;
        let heard = announced_up_to(&mut projecting, before + 4).await;
        assert_eq!(
            heard,
            [("activated", before + 1), ("acknowledged", before + 2), ("acknowledged", before + 3)]
        );
        assert_eq!(projecting.projection.position().skipped, (0, 6 + round));
        assert_eq!(projecting.digest_at(before + 4).await, clean_digest(&log).await);
        projecting.stop().await;
    }
    assert!(quarantined_beside(&directory).is_empty(), "it went on from its disk");
}

#[tokio::test]
async fn the_digest_does_not_depend_on_how_the_log_arrives() {
    let (whole, _) = log_of_rounds(140).await;
    let at_once = TempDir::new().unwrap();
    let at_once = Projecting::start(whole.clone(), at_once.path());
    let digest = at_once.digest_at(560).await;
    let milestone = at_once.projection.position().milestone;
    assert_eq!(milestone.0, 512);

    // The same messages one at a time, with a restart now and then.
    let (bit_by_bit, home) = (MemoryLog::default(), TempDir::new().unwrap());
    let directory = home.path().join("projection");
    let mut projecting = Projecting::start(bit_by_bit.clone(), &directory);
    for sequence in 1..=560 {
        let message = whole.get(sequence).await.unwrap().unwrap();
        bit_by_bit.inject(&message.subject, message.headers, message.body);
        projecting.digest_at(sequence).await;
        if sequence % 129 == 0 {
            projecting.stop().await;
            projecting = Projecting::start(bit_by_bit.clone(), &directory);
        }
    }
    assert_eq!(projecting.digest_at(560).await, digest);
    assert_eq!(projecting.projection.position().milestone, milestone);
}

#[tokio::test]
async fn another_log_is_begun_with_from_its_start_and_a_new_snapshot() {
    let (log, _) = log_of_rounds(3).await;
    let home = TempDir::new().unwrap();
    let directory = home.path().join("projection");
    let mut projecting = Projecting::start(log.clone(), &directory);
    projecting.digest_at(12).await;
    let Announcement::Snapshot { epoch: before, .. } = projecting.announcement().await else {
        panic!("no snapshot")
    };
    log.recreate();
    let Announcement::Snapshot { epoch, sequence: 0, active } = projecting.announcement().await else {
        panic!("no snapshot of the new log")
    };
    assert!(epoch != before && active.is_empty());
    append_round(&log).await;
    assert_eq!(projecting.digest_at(4).await, clean_digest(&log).await);
    assert_eq!(projecting.projection.position().epochs, 1);
    assert_eq!(projecting.projection.position().skipped, (0, 1), "counts begin anew");
}

/// Projects a log onto disk, lets somebody write there, and starts again; then everything must be right.
async fn comes_back_right(meddle: impl FnOnce(&Path), log: &MemoryLog, ids: &[BroadcastId]) {
    let home = TempDir::new().unwrap();
    let directory = home.path().join("projection");
    let head = log.info().await.unwrap().last_sequence;
    let projecting = Projecting::start(log.clone(), &directory);
    projecting.digest_at(head).await;
    projecting.stop().await;
    meddle(&directory);
    released(&directory).await;
    let mut projecting = Projecting::start(log.clone(), &directory);
    eventually("the state is set aside for a look", || async { quarantined_beside(&directory).len() == 1 })
        .await;
    assert_eq!(projecting.digest_at(head).await, clean_digest(log).await);
    assert_eq!(projecting.announced().last().map(short), Some(("snapshot", head)));
    let acks = acks(&projecting, log);
    for id in ids {
        assert_eq!(already(&acks, *id, "cid").await, Some(true));
    }
    assert_eq!(quarantined_beside(&directory).len(), 1, "rebuilt once");
    projecting.stop().await;
}

fn acks(projecting: &Projecting, log: &MemoryLog) -> Acks {
    Acks::start(projecting.submit(log.clone(), Duration::from_secs(3)), None)
}

async fn already(acks: &Acks, id: BroadcastId, user: &str) -> Option<bool> {
    let Acknowledged { already, .. } =
        acks.acknowledge(channel(), id, user.parse().unwrap(), None).await.unwrap();
    already
}

/// Writes to a store that no projection has open.
fn write(directory: &Path, edit: impl FnOnce(&Store, &mut Batch)) {
    let store = Store::open(directory, PATIENCE).unwrap();
    let mut batch = Batch::default();
    edit(&store, &mut batch);
    store.apply(batch).unwrap();
    store.flush().unwrap();
}

/// A cursor record with some fields changed.
fn write_cursor(directory: &Path, fields: &Value) {
    write(directory, |store, batch| {
        let mut record = json!(store.cursor().unwrap());
        for (field, value) in fields.as_object().unwrap() {
            assert!(record.get(field).is_some(), "{record}");
            record[field] = value.clone();
        }
        let record: CursorRecord = serde_json::from_value(record).unwrap();
        batch.cursor(&record).unwrap();
    });
}

/// A broadcast that claims more acknowledgements than there are.
fn write_contradiction(directory: &Path, id: BroadcastId) {
    write(directory, |store, batch| {
        let mut state = State::default();
        state.add_loaded(store.load(&tidings::domain::Needs::broadcast(id)).unwrap());
        state.broadcasts.get_mut(&id).unwrap().acknowledged += 1;
        batch.change(&state, 1, &Change::RecordedLate { id });
        batch.touched(&state).unwrap();
    });
}

#[tokio::test]
async fn a_store_that_cannot_be_believed_is_rebuilt() {
    let (log, ids) = log_of_rounds(10).await;
    comes_back_right(|directory| write_cursor(directory, &json!({"format": 99})), &log, &ids).await;
    comes_back_right(|directory| write_cursor(directory, &json!({"last": null})), &log, &ids).await;
    let other = json!({"last": Hash::leaf(b"another message")});
    comes_back_right(|directory| write_cursor(directory, &other), &log, &ids).await;
    comes_back_right(|directory| write_cursor(directory, &json!({"sequence": 9})), &log, &ids).await;
    let none = json!({"tree": Frontier::default()});
    comes_back_right(|directory| write_cursor(directory, &none), &log, &ids).await;
    comes_back_right(|directory| write_cursor(directory, &json!({"epoch": "00000000000000ff"})), &log, &ids)
        .await;
    comes_back_right(|directory| write_contradiction(directory, ids[9]), &log, &ids).await;
    let all_of_it = |directory: &Path| {
        for file in files_below(directory) {
            let length = fs::metadata(&file).unwrap().len();
            fs::write(&file, vec![0xA5; usize::try_from(length).unwrap()]).unwrap();
        }
    };
    comes_back_right(all_of_it, &log, &ids).await;
}

#[tokio::test]
async fn a_store_of_a_build_that_knew_fewer_events_or_fields_is_rebuilt_when_it_skipped_some() {
    let (log, ids) = log_of_rounds(3).await;
    let fewer_types = json!(["broadcast.created:1 id,message,type,created_by,created_at"]);
    let fewer_fields = json!([
        "broadcast.created:1 id,message,type",
        "broadcast.cleared:1 broadcast_id,cleared_by,cleared_at",
        "broadcast.acknowledged:1 broadcast_id,acknowledgements,acknowledgements.user,acknowledgements.at,salt",
    ]);
    for known in [fewer_types, fewer_fields] {
        let older = json!({"skipped_future": 1, "known": known});
        comes_back_right(|directory| write_cursor(directory, &older), &log, &ids).await;
    }
}

#[tokio::test]
async fn a_damaged_record_that_only_a_request_meets_has_the_store_rebuilt_too() {
    let (log, ids) = log_of_rounds(10).await;
    let home = TempDir::new().unwrap();
    let directory = home.path().join("projection");
    let projecting = Projecting::start(log.clone(), &directory);
    projecting.digest_at(40).await;
    projecting.stop().await;
    // Not the active one: nothing loads it until somebody asks.
    write_contradiction(&directory, ids[2]);
    released(&directory).await;
    let projecting = Projecting::start(log.clone(), &directory);
    projecting.digest_at(40).await;
    let acks = acks(&projecting, &log);
    eventually("the record is right again", || async {
        let answer = acks.acknowledge(channel(), ids[2], "cid".parse().unwrap(), None).await;
        answer.is_ok_and(|answer| answer.already == Some(true))
    })
    .await;
    assert_eq!(projecting.digest_at(40).await, clean_digest(&log).await);
}

#[tokio::test]
async fn a_disk_that_never_works_is_given_up_and_said() {
    let (log, _) = log_of_rounds(1).await;
    let projecting = Projecting::start(log, Path::new("/dev/null/projection"));
    eventually("it gives up", || async { projecting.projection.position().halt == Some(Halt::GaveUp) }).await;
    assert!(!projecting.projection.position().serving);
    projecting.stop().await;
}

#[test]
fn three_states_are_kept_aside_the_newest_first() {
    let home = TempDir::new().unwrap();
    let directory = home.path().join("projection");
    quarantine(&directory).unwrap();
    assert!(quarantined_beside(&directory).is_empty(), "there was nothing to set aside");
    for n in 1..=5 {
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("state"), n.to_string()).unwrap();
        quarantine(&directory).unwrap();
        assert!(!directory.exists());
    }
    let kept: HashMap<_, _> = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read_to_string(entry.path().join("state")).unwrap(),
            )
        })
        .collect();
    let expected = [
        ("projection.quarantine-1", "5"),
        ("projection.quarantine-2", "4"),
        ("projection.quarantine-3", "3"),
    ];
    assert_eq!(kept, expected.map(|(name, n)| (name.to_owned(), n.to_owned())).into_iter().collect());
}
