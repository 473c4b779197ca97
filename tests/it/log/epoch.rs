//! The log's epoch: made once, kept by a restored snapshot, and another one for another log.

use async_nats::jetstream::stream::Config;
use futures_util::future::join_all;
use reqwest::Method;
use tidings::log::names::{CHECKPOINT_STREAM, EPOCH_METADATA, LOG_STREAM};
use tidings::log::provision::NoEpoch;
use tidings::log::{Epoch, EventLog as _};

use crate::operations::replica::{stderr, stdout, tidings};
use crate::support::checkpoints::{KeyFile, signed};
use crate::support::nats::provision;
use crate::support::{Cluster, Nats, Replica, Spec, eventually};

async fn epoch_of(nats: &Nats) -> Epoch {
    nats.log().await.info().await.unwrap().epoch
}

fn signing(nats: &Nats, key: &KeyFile) -> Spec {
    let file = key.path().display().to_string();
    Spec::joining(nats.url()).with(&["--checkpoint-key", &file, "--checkpoint-every-events", "1"])
}

async fn signed_up_to(nats: &Nats, size: u64) {
    eventually("it is signed", || async {
        signed(nats).await.last().is_some_and(|last| last.checkpoint.size >= size)
    })
    .await;
}

async fn verifies(nats: &Nats, key: &KeyFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoint.pub");
    std::fs::write(&file, format!("{}\n", key.public())).unwrap();
    let arguments = ["audit", "verify", "--nats", &nats.url(), "--key", file.to_str().unwrap()];
    eventually("the log verifies without a finding", || async {
        tidings(&arguments, &[]).await.status.success()
    })
    .await;
}

#[tokio::test]
async fn all_who_provision_at_once_end_with_one_epoch() {
    let nats = Nats::start().await;
    let cluster = Cluster::start().await;
    for (nats, replicas) in [(&nats, 1), (&cluster.nodes[0], 3)] {
        let provision = provision(replicas);
        let contexts = join_all((0..8).map(|_| nats.jetstream())).await;
        join_all(contexts.iter().map(|context| provision.stream(context, LOG_STREAM))).await;
        let found = contexts.iter().map(|context| async {
            let stream = context.get_stream(LOG_STREAM).await.unwrap();
            stream.cached_info().config.metadata[EPOCH_METADATA].clone()
        });
        let found = join_all(found).await;
        assert!(found[0].parse::<Epoch>().is_ok() && found.iter().all(|one| *one == found[0]), "{found:?}");
    }
}

#[tokio::test]
async fn a_stream_without_an_epoch_is_refused_until_an_admin_adopts_it_once() {
    let nats = Nats::start().await;
    let context = nats.jetstream().await;
    let mine = [("owner".to_owned(), "ops".to_owned())].into();
    let definition = provision(1).definitions().unwrap().remove(0);
    context.create_stream(Config { metadata: mine, ..definition }).await.unwrap();
    let error = provision(1).everything(&context).await.unwrap_err();
    assert!(error.is::<NoEpoch>(), "{error:#}");

    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.spawn();
    assert_eq!(replica.ended().await.code(), Some(1));
    let advice = "run `tidings admin provision --adopt` once";
    assert!(replica.log().contains(advice), "{}", replica.log());
    for (command, code) in [(&["audit", "replay"][..], 3), (&["admin", "provision"], 1)] {
        let said = tidings(&[command, &["--nats", &nats.url()]].concat(), &[]).await;
        assert_eq!(said.status.code(), Some(code));
        assert!(stderr(&said).contains(advice), "{}", stderr(&said));
    }

    let adopt = ["admin", "provision", "--adopt", "--log-max-bytes", "1073741824", "--nats", &nats.url()];
    let said = tidings(&adopt, &[]).await;
    let epoch = epoch_of(&nats).await;
    assert!(said.status.success() && stdout(&said).contains(&epoch.to_string()), "{}", stdout(&said));
    let again = tidings(&adopt, &[]).await;
    assert!(again.status.success() && !stdout(&again).contains("epoch"), "{}", stdout(&again));
    assert_eq!(epoch_of(&nats).await, epoch);
    let metadata = context.get_stream(LOG_STREAM).await.unwrap().cached_info().config.metadata.clone();
    assert_eq!(metadata["owner"], "ops", "what was there stays");
    replica.start_again().await;
    eventually("the replica reads the adopted log", || async {
        replica.readyz().await["epoch"] == epoch.to_string()
    })
    .await;
}

#[tokio::test]
async fn a_restored_snapshot_is_the_same_log_and_nothing_is_rebuilt() {
    let (nats, key) = (Nats::start().await, KeyFile::of("example.com/tidings", 1));
    let mut replica = Replica::start_with(signing(&nats, &key)).await;
    for n in 1..=5 {
        replica.post_broadcast(&format!("number {n}")).await;
    }
    signed_up_to(&nats, 5).await;
    let (before, epoch) = (replica.digest_at(5).await, epoch_of(&nats).await);
    replica.terminate().await;
    for stream in [CHECKPOINT_STREAM, LOG_STREAM] {
        let snapshot = nats.snapshot(stream).await;
        let created = |info: &async_nats::jetstream::stream::Info| info.created;
        let context = nats.jetstream().await;
        let was = created(context.get_stream(stream).await.unwrap().cached_info());
        nats.restore_snapshot(&snapshot).await;
        let is = created(context.get_stream(stream).await.unwrap().cached_info());
        assert_ne!(is, was, "a restore changes the time of creation, so it is no identity");
    }
    assert_eq!(epoch_of(&nats).await, epoch);
    replica.start_again().await;
    assert_eq!(
        (replica.digest_at(5).await, &replica.readyz().await["epoch"]),
        (before, &epoch.to_string().into())
    );
    assert_eq!(replica.count("tidings_projection_epoch_changes_total").await, 0);
    assert!(!replica.data_dir().join("projection.quarantine-1").exists(), "{}", replica.log());
    replica.post_broadcast("goes on").await;
    signed_up_to(&nats, 6).await;
    verifies(&nats, &key).await;
}

/// A node that did not restore it has another time of creation for the stream, which shows when it begins to lead.
#[tokio::test]
async fn on_three_nodes_a_restored_snapshot_is_the_same_log_whoever_leads() {
    let cluster = Cluster::start().await;
    // Small, since what a deleted stream has reserved is free only after a while.
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3", "--log-max-bytes", "1000000"]);
    let replica = Replica::start_with(spec.clone()).await;
    for n in 1..=5 {
        replica.post_until_taken(&format!("number {n}")).await;
    }
    replica.digest_at(5).await;
    let epoch = replica.readyz().await["epoch"].clone();
    let snapshot = cluster.nodes[0].snapshot(LOG_STREAM).await;
    drop(replica);
    cluster.nodes[0].restore_snapshot(&snapshot).await;
    let replica = Replica::start_with(spec).await;
    for posted in 6..=7 {
        replica.post_until_taken(&format!("number {posted}")).await;
        let led = cluster.log_leader(0).await;
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{LOG_STREAM}");
        cluster.nodes[0].client().await.request(subject, "".into()).await.unwrap();
        eventually("another node leads", || async { cluster.log_leader(0).await != led }).await;
    }
    replica.post_until_taken("after both").await;
    replica.digest_at(8).await;
    assert_eq!(replica.readyz().await["epoch"], epoch);
    assert_eq!(replica.count("tidings_projection_epoch_changes_total").await, 0, "{}", replica.log());
}

#[tokio::test]
async fn over_an_older_snapshot_nothing_is_signed_below_what_was_signed() {
    let (nats, key) = (Nats::start().await, KeyFile::of("example.com/tidings", 1));
    let mut replica = Replica::start_with(signing(&nats, &key)).await;
    replica.post_broadcast("one").await;
    let older = nats.snapshot(LOG_STREAM).await;
    for n in 2..=5 {
        replica.post_broadcast(&format!("number {n}")).await;
    }
    signed_up_to(&nats, 5).await;
    let checkpoints = signed(&nats).await.len();
    replica.terminate().await;
    nats.restore_snapshot(&older).await;
    replica.start_again().await;
    for said in ["it is shorter than what was read from it", "the log ends before what was signed of it"] {
        eventually(said, || async { replica.log().contains(said) }).await;
    }
    // Positions that were lost are not waited for, neither by reads nor by connections, which begin anew.
    let lost = format!("{}-5", epoch_of(&nats).await);
    eventually("a position that the log does not have any more is refused", || async {
        let request = replica.request(Method::GET, "/active").header("Tidings-Min-Position", &lost);
        let (status, body) = replica.ask(request).await;
        status == 412 && body["code"] == "other_log"
    })
    .await;
    eventually("a connection begins anew", || async {
        let listen = replica.request(Method::GET, "/events?user_id=u").header("Last-Event-ID", &lost);
        listen.send().await.unwrap().status() == 200
    })
    .await;
    // Also when it is as long again: it is not what was signed.
    for n in 2..=7 {
        replica.post_until_taken(&format!("instead of {n}")).await;
    }
    eventually("it differs from what was signed", || async {
        replica.count("tidings_projection_diverged").await == 1
    })
    .await;
    assert_eq!(signed(&nats).await.len(), checkpoints);
}
