//! Stores that are not what the log says, as no crash leaves them: found by a checkpoint or before one is signed, and rebuilt.

use serde_json::Value;
use tidings::log::EventLog as _;
use tidings::log::memory::MemoryLog;
use tidings::log::merkle::Hash;

use super::{EVERY, agrees_up_to, believing, hold, key, post, rebuilt, said, signed_to_the_end, signing};
use crate::support::checkpoints::{KeyFile, roots, signed};
use crate::support::log::{created, everything};
use crate::support::projecting::Projecting;
use crate::support::{Nats, Replica, eventually};

/// The keys of the store, as its own comment says.
const CURSOR: &[u8] = b"c";
const FIRST_BLOCK: &[u8] = b"m\0\0\0\0\0\0\0\0";

/// Changes a record of a replica that does not run.
fn change(replica: &Replica, key: &[u8], change: impl FnOnce(&[u8]) -> Vec<u8>) {
    let store = sled::open(replica.data_dir().join("projection")).unwrap();
    let record = store.get(key).unwrap().expect("there is such a record");
    store.insert(key, change(&record)).unwrap();
    store.flush().unwrap();
}

fn wrong(_: &[u8]) -> Vec<u8> {
    Hash::leaf(b"wrong").0.to_vec()
}

/// Puts another history into the tree of a cursor, of the same size.
fn of_another_history(cursor: &[u8]) -> Vec<u8> {
    let mut cursor: Value = serde_json::from_slice(cursor).unwrap();
    cursor["tree"]["roots"][0] = Hash::leaf(b"wrong").to_string().into();
    cursor.to_string().into_bytes()
}

/// A log with more than one block of leaves that is signed, and a second replica on it.
async fn world() -> (Nats, KeyFile, Replica, Replica) {
    let (nats, key) = (Nats::start().await, key());
    let log = nats.log().await;
    for n in 0..300 {
        log.append(created(&format!("number {n}"))).await.unwrap();
    }
    let signer = Replica::start_with(signing(&nats, &[&key])).await;
    let second = Replica::start_with(believing(&nats, &key)).await;
    post(&signer, 7).await;
    signed_to_the_end(&nats, EVERY).await;
    agrees_up_to(&second, signed(&nats).await.pop().unwrap().checkpoint.size).await;
    // The trees of both go on beyond the checkpoint, and what they were at it is known by their blocks alone.
    post(&signer, 2).await;
    assert_eq!(signer.digest_at(309).await, second.digest_at(309).await);
    (nats, key, signer, second)
}

#[tokio::test]
async fn a_wrong_block_is_found_by_the_checkpoint_that_is_there() {
    let (nats, key, signer, mut second) = world().await;
    second.terminate().await;
    change(&second, FIRST_BLOCK, wrong);
    second.start_again().await;
    let size = signed(&nats).await.pop().unwrap().checkpoint.size;
    agrees_up_to(&second, size).await;
    assert_eq!((rebuilt(&second, "disagrees").await, said(&second, "DIVERGED")), (1, 0));
    post(&signer, 5).await;
    signed_to_the_end(&nats, EVERY).await;
    agrees_up_to(&second, hold(&nats, &key).await.pop().unwrap().checkpoint.size).await;
    assert_eq!(rebuilt(&second, "disagrees").await, 1);
}

#[tokio::test]
async fn another_history_is_found_by_the_next_checkpoint() {
    let (nats, key, signer, mut second) = world().await;
    second.terminate().await;
    change(&second, CURSOR, of_another_history);
    second.start_again().await;
    post(&signer, 12).await;
    signed_to_the_end(&nats, EVERY).await;
    agrees_up_to(&second, hold(&nats, &key).await.pop().unwrap().checkpoint.size).await;
    assert_eq!((rebuilt(&second, "disagrees").await, said(&second, "DIVERGED")), (1, 0));
    assert_eq!(second.digest_at(321).await, signer.digest_at(321).await);
}

#[tokio::test]
async fn another_history_is_not_signed_by_the_only_one_who_could() {
    let (nats, key, mut signer, other) = world().await;
    signer.terminate().await;
    change(&signer, CURSOR, of_another_history);
    signer.start_again().await;
    post(&signer, 12).await;
    eventually("it is rebuilt", || async { rebuilt(&signer, "damaged").await == 1 }).await;
    assert_eq!(said(&signer, "is not the one of its own records"), 1);
    eventually("it serves", || async { signer.is_ready().await }).await;
    signed_to_the_end(&nats, EVERY).await;
    let size = hold(&nats, &key).await.pop().unwrap().checkpoint.size;
    agrees_up_to(&other, size).await;
    assert_eq!((rebuilt(&other, "disagrees").await, said(&signer, "DIVERGED")), (0, 0));
}

/// Whoever compared while the projection was begun anew asks for that once more, and later; and compares what is no more.
#[tokio::test]
async fn a_projection_is_begun_anew_once_for_a_checkpoint_however_often_that_is_asked_for() {
    let (log, folder) = (MemoryLog::default(), tempfile::tempdir().unwrap());
    for n in 0..3 {
        log.append(created(&format!("number {n}"))).await.unwrap();
    }
    let projecting = Projecting::start(log.clone(), folder.path());
    let digest = projecting.digest_at(3).await;
    let (projection, checkpoint) = (projecting.projection.clone(), (3, Hash::leaf(b"wrong")));
    let tree = projection.tree().await;
    assert_eq!(tree.unwrap().2, roots(&everything(&log).await)[3]);
    for round in 0..3 {
        projection.rebuild_for(checkpoint).await;
        projection.rebuild_for(checkpoint).await;
        eventually("it is begun anew", || async {
            let position = projection.position();
            position.rebuilt_for == Some(checkpoint) && position.caught_up
        })
        .await;
        assert_eq!(
            (projection.position().generation, projecting.digest_at(3).await),
            (1, digest),
            "round {round}"
        );
        assert_eq!(projection.tree().await, tree);
    }
    log.append(created("one more")).await.unwrap();
    projecting.digest_at(4).await;
    assert_eq!(projection.position().generation, 1);
    // For another one it is.
    projection.rebuild_for((4, Hash::leaf(b"wrong"))).await;
    eventually("it is begun anew", || async {
        projection.position().generation == 2 && projection.position().caught_up
    })
    .await;
    projecting.stop().await;

    // The reason outlives the process, and a store that is no more does not.
    let projecting = Projecting::start(log, folder.path());
    projecting.digest_at(4).await;
    assert_eq!(projecting.projection.position().rebuilt_for, Some((4, Hash::leaf(b"wrong"))));
    projecting.projection.rebuild_for((4, Hash::leaf(b"wrong"))).await;
    projecting.projection.report_damage().await;
    eventually("it is begun anew", || async {
        let position = projecting.projection.position();
        position.generation == 1 && position.caught_up
    })
    .await;
    projecting.stop().await;
}
