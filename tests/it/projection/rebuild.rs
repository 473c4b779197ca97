//! `tidings admin rebuild`: a stopped replica begins anew from the log and comes back the same.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::{Nats, Replica, Spec, eventually};

async fn rebuild(data_dir: &Path) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["admin", "rebuild", "--data-dir"]).arg(data_dir).output().await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What a user is shown on connect.
async fn shown(replica: &Replica, user: &str) -> Value {
    replica.connect(user).await.greeted().await
}

#[tokio::test]
async fn a_stopped_replica_is_rebuilt_and_the_same_as_before() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    replica.post_broadcast("old").await;
    let id = replica.post_broadcast("new").await["id"].as_str().unwrap().to_owned();
    replica.acknowledge(&id, "ann").await;
    let digest = replica.digest_at(3).await;
    let before = [shown(&replica, "ann").await, shown(&replica, "bob").await];
    assert_eq!((&before[0], &before[1]["id"]), (&Value::Null, &Value::from(id)));
    assert!(replica.terminate().await.success());

    let done = rebuild(&replica.data_dir()).await;
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let aside = replica.data_dir().join("projection.quarantine-1");
    assert!(said(&done).contains(&aside.canonicalize().unwrap().display().to_string()), "{}", said(&done));
    assert!(aside.is_dir() && !replica.data_dir().join("projection").exists());
    replica.start_again().await;
    assert_eq!(replica.digest_at(3).await, digest);
    assert_eq!([shown(&replica, "ann").await, shown(&replica, "bob").await], before);
    assert_eq!(replica.count("tidings_projection_applied_messages_total").await, 3, "it read the whole log");
}

#[tokio::test]
async fn a_running_replica_is_left_alone_and_the_refusal_says_what_to_do() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("x").await;
    let url = replica.url();
    let refused = rebuild(&replica.data_dir()).await;
    assert_eq!(refused.status.code(), Some(3));
    let said = said(&refused);
    assert!(said.contains(&format!("process {}", replica.pid().as_raw_nonzero())), "{said}");
    assert!(said.contains("Nothing was changed") && said.contains("Stop it"), "{said}");
    assert!(!replica.data_dir().join("projection.quarantine-1").exists());
    assert_eq!(replica.url(), url, "others still find it");
    assert!(replica.is_ready().await);
    let help = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    let help = { help }.args(["admin", "rebuild", "--help"]).output().await.unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Example") && help.contains("3 a replica runs in this directory"), "{help}");
}

#[tokio::test]
async fn where_there_is_nothing_to_rebuild_it_says_so() {
    let home = tempfile::tempdir().unwrap();
    let missing = rebuild(&home.path().join("typo")).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("there is no data directory"), "{}", said(&missing));
    assert!(!home.path().join("typo").exists(), "none is made by mistake");
    let empty = rebuild(home.path()).await;
    assert_eq!(empty.status.code(), Some(0));
    assert!(said(&empty).contains("There is no projection yet"), "{}", said(&empty));
}

#[tokio::test]
async fn a_replica_that_gave_up_begins_anew_after_a_rebuild() {
    let nats = Nats::start().await;
    let other = Replica::start(&nats).await;
    other.post_broadcast("on record").await;
    let mut broken = Replica::prepared(Spec::joining(nats.url()));
    // It can neither be opened nor quarantined.
    fs::create_dir_all(broken.data_dir()).unwrap();
    fs::write(broken.data_dir().join("projection"), "a file where a folder should be").unwrap();
    fs::write(broken.data_dir().join("projection.quarantine-3"), "").unwrap();
    broken.spawn();
    eventually("it gives up", || async { broken.log().contains("is not rebuilt any more") }).await;
    eventually("it listens", || async { broken.readyz().await["reason"].is_string() }).await;
    assert_eq!(broken.count("tidings_projection_gave_up").await, 1);
    assert!(broken.count(r#"tidings_projection_rebuilds_total{reason="damaged"}"#).await > 0);
    assert!(broken.terminate().await.success());

    let refused = rebuild(&broken.data_dir()).await;
    assert_eq!(refused.status.code(), Some(1), "what is in the way is said: {}", said(&refused));
    fs::remove_file(broken.data_dir().join("projection.quarantine-3")).unwrap();
    let done = rebuild(&broken.data_dir()).await;
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    broken.start_again().await;
    assert_eq!(broken.digest_at(1).await, other.digest_at(1).await);
    assert_eq!(broken.count("tidings_projection_gave_up").await, 0);
}
