//! The KV mirror: any NATS client can ask what is active and who acknowledged, and the answer comes back by itself.

use std::fs;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::kv::Store;
use rustix::process::Signal;
use serde_json::{Value, json};
use tidings::domain::UserId;
use tidings::log::EventLog as _;
use tidings::log::names::{
    ACKS_BUCKET, ACTIVE_BUCKET, LOG_STREAM, MIRROR_LEASE_KEY, POSITION_KEY, REPLICAS_BUCKET, ack_key,
    bucket_stream, bucket_subject, header,
};

use crate::support::{Nats, Replica, Spec, eventually, within};

/// A lease that nobody renews runs out after ten seconds; then another replica fills the buckets.
const TAKEOVER: Duration = Duration::from_secs(30);

/// A bucket as another service sees it.
async fn bucket(nats: &Nats, name: &str) -> Store {
    nats.jetstream().await.get_key_value(name).await.unwrap()
}

/// The value of a key, or null.
async fn value(nats: &Nats, name: &str, key: &str) -> Value {
    let Ok(store) = nats.jetstream().await.get_key_value(name).await else { return Value::Null };
    match store.get(key).await {
        Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap(),
        _ => Value::Null,
    }
}

async fn shows(nats: &Nats, id: &str) {
    within(TAKEOVER, &format!("the mirror shows {id}"), || async {
        value(nats, ACTIVE_BUCKET, "creator").await["id"] == id
    })
    .await;
}

async fn shows_nothing(nats: &Nats) {
    within(TAKEOVER, "the mirror shows nothing", || async {
        value(nats, ACTIVE_BUCKET, "creator").await == Value::Null
    })
    .await;
}

fn key_of(id: &str, user: &str) -> String {
    ack_key(id.parse().unwrap(), &user.parse::<UserId>().unwrap())
}

async fn has_not_acknowledged(nats: &Nats, id: &str, user: &str) {
    within(TAKEOVER, &format!("the mirror does not say that {user} acknowledged"), || async {
        value(nats, ACKS_BUCKET, &key_of(id, user)).await == Value::Null
    })
    .await;
}

async fn mirrors(replica: &Replica) {
    within(TAKEOVER, "the replica mirrors", || async { replica.metric("tidings_mirroring").await > 0.0 })
        .await;
}

/// Sees to it that a replica can never quarantine its projection: a file is in the way.
fn forbid_rebuilding(replica: &Replica) {
    fs::create_dir_all(replica.data_dir()).unwrap();
    fs::write(replica.data_dir().join("projection.quarantine-3"), "").unwrap();
}

/// Writes a key as a mirror does that is at this place of the log; `None` deletes it.
async fn write_at(nats: &Nats, bucket: &str, key: &str, sequence: u64, value: Option<Value>) {
    let epoch = nats.log().await.info().await.unwrap().epoch;
    let mut headers = HeaderMap::new();
    headers.insert(header::EPOCH, epoch.to_string());
    headers.insert(header::SEQUENCE, sequence.to_string());
    if value.is_none() {
        headers.insert("KV-Operation", "DEL");
    }
    let body = value.map(|value| value.to_string()).unwrap_or_default();
    let context = nats.jetstream().await;
    let sent = context.publish_with_headers(bucket_subject(bucket, key), headers, body.into()).await;
    sent.unwrap().await.unwrap();
}

async fn has_acknowledged(nats: &Nats, id: &str, user: &str) {
    within(TAKEOVER, &format!("the mirror knows that {user} acknowledged"), || async {
        value(nats, ACKS_BUCKET, &key_of(id, user)).await["at"].is_string()
    })
    .await;
}

#[tokio::test]
async fn the_buckets_say_what_the_seeds_redis_keys_said() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let sent = replica.post_broadcast("in the mirror").await;
    let id = sent["id"].as_str().unwrap();
    shows(&nats, id).await;
    let active = value(&nats, ACTIVE_BUCKET, "creator").await;
    assert_eq!((&active["message"], &active["type"]), (&"in the mirror".into(), &"info".into()));
    assert_eq!(active["sequence"], sent["sequence"]);

    for user in ["ann", "b o", "ü.ser"] {
        let acknowledged = replica.acknowledge(id, user).await;
        has_acknowledged(&nats, id, user).await;
        let entry = value(&nats, ACKS_BUCKET, &key_of(id, user)).await;
        assert_eq!(entry["sequence"], acknowledged["sequence"]);
    }
    replica.clear().await;
    shows_nothing(&nats).await;
    let head = replica.readyz().await["sequence"].clone();
    for name in [ACTIVE_BUCKET, ACKS_BUCKET] {
        eventually("the position is noted", || async {
            value(&nats, name, POSITION_KEY).await["sequence"] == head
        })
        .await;
    }
}

#[tokio::test]
async fn a_bucket_that_is_deleted_comes_back_with_everything_in_it() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("still here").await["id"].as_str().unwrap().to_owned();
    replica.acknowledge(&id, "ann").await;
    has_acknowledged(&nats, &id, "ann").await;
    let context = nats.jetstream().await;
    for name in [ACTIVE_BUCKET, ACKS_BUCKET] {
        context.delete_key_value(name).await.unwrap();
    }
    shows(&nats, &id).await;
    has_acknowledged(&nats, &id, "ann").await;
}

#[tokio::test]
async fn a_memory_bucket_is_gone_after_a_restart_of_nats_and_is_filled_again() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("before").await["id"].as_str().unwrap().to_owned();
    replica.acknowledge(&id, "ann").await;
    has_acknowledged(&nats, &id, "ann").await;
    nats.restart().await;
    has_acknowledged(&nats, &id, "ann").await;
    eventually("the replica writes again", || async { replica.is_ready().await }).await;
    replica.acknowledge(&id, "bo").await;
    has_acknowledged(&nats, &id, "bo").await;
}

#[tokio::test]
async fn another_replica_takes_over_and_a_holder_that_wakes_up_brings_nothing_back() {
    let nats = Nats::start().await;
    let first = Replica::start(&nats).await;
    mirrors(&first).await;
    let second = Replica::start(&nats).await;
    let id = first.post_broadcast("soon cleared").await["id"].as_str().unwrap().to_owned();
    shows(&nats, &id).await;

    first.signal(Signal::STOP);
    second.clear().await;
    shows_nothing(&nats).await;
    mirrors(&second).await;
    let store = bucket(&nats, ACTIVE_BUCKET).await;
    let revision = store.entry("creator").await.unwrap().unwrap().revision;

    first.signal(Signal::CONT);
    eventually("the first one has noticed", || async { first.metric("tidings_mirroring").await < 1.0 }).await;
    let entry = store.entry("creator").await.unwrap().unwrap();
    assert_eq!(entry.revision, revision, "the key was not written again");
}

#[tokio::test]
async fn a_new_log_takes_the_old_ones_keys_down() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("of the old log").await["id"].as_str().unwrap().to_owned();
    replica.acknowledge(&id, "ann").await;
    has_acknowledged(&nats, &id, "ann").await;
    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    shows_nothing(&nats).await;
    has_not_acknowledged(&nats, &id, "ann").await;
    eventually("the new log takes events", || async { replica.is_ready().await }).await;
    let new = replica.post_broadcast("of the new log").await["id"].as_str().unwrap().to_owned();
    shows(&nats, &new).await;
}

#[tokio::test]
async fn a_replica_that_cannot_project_leaves_the_mirror_to_one_that_can() {
    let nats = Nats::start().await;
    let mut broken = Replica::prepared(Spec::joining(nats.url()));
    forbid_rebuilding(&broken);
    fs::write(broken.data_dir().join("projection"), "a file where a folder should be").unwrap();
    broken.spawn();
    eventually("it gives up", || async { broken.log().contains("is not rebuilt any more") }).await;

    let healthy = Replica::start(&nats).await;
    let id = healthy.post_broadcast("by the healthy one").await["id"].as_str().unwrap().to_owned();
    shows(&nats, &id).await;
    assert!(!broken.log().contains("this replica mirrors"), "{}", broken.log());
}

#[tokio::test]
async fn a_holder_that_cannot_project_any_more_hands_over() {
    let nats = Nats::start().await;
    let holder = Replica::start(&nats).await;
    mirrors(&holder).await;
    let other = Replica::start(&nats).await;
    // Another log asks for a rebuild, for which this one has no room.
    forbid_rebuilding(&holder);
    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    mirrors(&other).await;
    eventually("the new log takes events", || async { other.is_ready().await }).await;
    let id = other.post_broadcast("of the new log").await["id"].as_str().unwrap().to_owned();
    shows(&nats, &id).await;
}

#[tokio::test]
async fn the_position_outlives_what_the_bucket_forgets_while_nothing_happens() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--acks-max-age-seconds", "8"]);
    let replica = Replica::start_with(spec).await;
    let sent = replica.post_broadcast("soon forgotten").await;
    let id = sent["id"].as_str().unwrap();
    let acknowledged = replica.acknowledge(id, "ann").await;
    has_acknowledged(&nats, id, "ann").await;
    has_not_acknowledged(&nats, id, "ann").await;
    let store = bucket(&nats, ACKS_BUCKET).await;
    let noted = || async { store.entry(POSITION_KEY).await.unwrap().map(|entry| entry.revision) };
    let before = noted().await;
    assert!(before.is_some(), "it is there although the acknowledgement is forgotten");
    eventually("it is noted again", || async { noted().await > before }).await;
    let position = value(&nats, ACKS_BUCKET, POSITION_KEY).await;
    assert_eq!(position["sequence"], acknowledged["sequence"]);
    assert!(!replica.log().contains("mirroring to KV failed"), "{}", replica.log());
}

#[tokio::test]
async fn what_lies_beyond_the_log_is_taken_down_and_written_anew() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let sent = replica.post_broadcast("of this log").await;
    let id = sent["id"].as_str().unwrap();
    let head = replica.acknowledge(id, "ann").await["sequence"].as_u64().unwrap();
    has_acknowledged(&nats, id, "ann").await;
    replica.terminate().await;

    // As if the log had gone on to 900, and its tail had been lost.
    let epoch = nats.log().await.info().await.unwrap().epoch;
    let phantom = || Some(json!({"id": "phantom", "at": "phantom", "sequence": 900}));
    for bucket in [ACTIVE_BUCKET, ACKS_BUCKET] {
        write_at(&nats, bucket, POSITION_KEY, 900, Some(json!({"epoch": epoch, "sequence": 900}))).await;
    }
    for channel in ["creator", "other"] {
        write_at(&nats, ACTIVE_BUCKET, channel, 900, phantom()).await;
    }
    write_at(&nats, ACKS_BUCKET, &key_of(id, "bo"), 900, phantom()).await;
    write_at(&nats, ACKS_BUCKET, &key_of(id, "ann"), 900, None).await;

    replica.start_again().await;
    shows(&nats, id).await;
    has_acknowledged(&nats, id, "ann").await;
    has_not_acknowledged(&nats, id, "bo").await;
    assert_eq!(value(&nats, ACTIVE_BUCKET, "other").await, Value::Null);
    within(TAKEOVER, "the position is noted", || async {
        value(&nats, ACKS_BUCKET, POSITION_KEY).await["sequence"] == head
    })
    .await;
}

#[tokio::test]
async fn a_key_beyond_the_log_does_not_stay_beside_a_true_position() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("of this log").await["id"].as_str().unwrap().to_owned();
    shows(&nats, &id).await;
    replica.terminate().await;
    write_at(&nats, ACTIVE_BUCKET, "creator", 900, Some(json!({"id": "phantom"}))).await;
    replica.start_again().await;
    shows(&nats, &id).await;
}

/// Takes the lease of the mirror for somebody who does nothing with it, until it is given back.
async fn hold_the_lease(nats: &Nats) -> tokio::task::JoinHandle<()> {
    nats.log().await;
    let leases = bucket(nats, REPLICAS_BUCKET).await;
    leases.put(MIRROR_LEASE_KEY, "somebody else".into()).await.unwrap();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            leases.put(MIRROR_LEASE_KEY, "somebody else".into()).await.unwrap();
        }
    })
}

async fn give_the_lease_back(nats: &Nats, held: tokio::task::JoinHandle<()>) {
    held.abort();
    let _ = held.await;
    bucket(nats, REPLICAS_BUCKET).await.delete(MIRROR_LEASE_KEY).await.unwrap();
}

#[tokio::test]
async fn a_first_write_that_a_paused_holder_sends_late_does_not_bring_a_cleared_broadcast_back() {
    let nats = Nats::start().await;
    let lease = hold_the_lease(&nats).await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("soon cleared").await;
    replica.clear().await;
    give_the_lease_back(&nats, lease).await;
    mirrors(&replica).await;
    // What the holder before sent when there was no such key, and what arrives only now.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    let context = nats.jetstream().await;
    let subject = bucket_subject(ACTIVE_BUCKET, "creator");
    let sent = context.publish_with_headers(subject, headers, "{}".into()).await.unwrap().await;
    assert!(sent.is_err(), "the clear left a marker: {sent:?}");
    assert_eq!(value(&nats, ACTIVE_BUCKET, "creator").await, Value::Null);
}

#[tokio::test]
async fn a_key_that_somebody_else_writes_or_deletes_is_repaired() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("active").await["id"].as_str().unwrap().to_owned();
    shows(&nats, &id).await;
    let active = bucket(&nats, ACTIVE_BUCKET).await;
    active.put("creator", r#"{"id":"somebody else's"}"#.into()).await.unwrap();
    shows(&nats, &id).await;
    active.delete("creator").await.unwrap();
    shows(&nats, &id).await;
    replica.clear().await;
    shows_nothing(&nats).await;
    write_at(&nats, ACTIVE_BUCKET, "creator", 1, Some(json!({"id": id}))).await;
    shows_nothing(&nats).await;
    assert!(
        replica.log().contains("the key of creator in the bucket broadcast_active differs from the log"),
        "{}",
        replica.log()
    );
}

#[tokio::test]
async fn what_the_mirror_is_about_to_write_is_not_taken_for_a_fault_of_the_bucket() {
    let nats = Nats::start().await;
    // The mirror compares the bucket with the log every quarter of a second, while posts follow each other.
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--acks-max-age-seconds", "1"])).await;
    for n in 0..400 {
        replica.post_broadcast(&format!("{n}")).await;
    }
    assert!(!replica.log().contains("differs from the log"), "{}", replica.log());
}

#[tokio::test]
async fn the_lag_of_the_mirror_is_shown_while_nobody_mirrors() {
    let nats = Nats::start().await;
    let lease = hold_the_lease(&nats).await;
    let replica = Replica::start(&nats).await;
    for n in 0..3 {
        replica.post_broadcast(&format!("not mirrored {n}")).await;
    }
    let lag = || async { replica.count("tidings_mirror_lag_events").await };
    eventually("the lag is shown", || async { lag().await == 3 }).await;
    give_the_lease_back(&nats, lease).await;
    mirrors(&replica).await;
    eventually("the lag is gone", || async { lag().await == 0 }).await;
}

#[tokio::test]
async fn the_bucket_of_acknowledgements_is_bounded_and_drops_its_oldest() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--acks-max-bytes", "1048576"]);
    let replica = Replica::start_with(spec).await;
    let id = replica.post_broadcast("acknowledged by many").await["id"].as_str().unwrap().to_owned();
    let context = nats.jetstream().await;
    // As many as others would make, and more than it takes.
    for n in 0..40 {
        let subject = bucket_subject(ACKS_BUCKET, &key_of(&id, &format!("user-{n}")));
        context.publish(subject, vec![b'x'; 64 * 1024].into()).await.unwrap().await.unwrap();
    }
    let bytes = context.get_stream(bucket_stream(ACKS_BUCKET)).await.unwrap().cached_info().state.bytes;
    assert!(bytes <= 1 << 20, "{bytes}");
    replica.acknowledge(&id, "ann").await;
    has_acknowledged(&nats, &id, "ann").await;
    let next = replica.post_broadcast("still mirrored").await["id"].as_str().unwrap().to_owned();
    shows(&nats, &next).await;
}
