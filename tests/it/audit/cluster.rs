//! The auditor's tools over three NATS nodes of which one is lost: the same past, and a log that goes on from it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::checkpoints::KeyFile;
use crate::support::{Cluster, Replica, Spec, within};

/// Nodes find a new leader within this time.
const ELECTED_WITHIN: std::time::Duration = std::time::Duration::from_secs(40);

async fn talks(replica: &Replica, from: u32) {
    for n in from..from + 6 {
        let id = replica.post_until_taken(&format!("number {n}")).await["id"].as_str().unwrap().to_owned();
        for user in ["ann", "bob"] {
            replica.acknowledge(&id, user).await;
        }
    }
}

/// Runs a command of the auditor, which must succeed, and gives its output.
async fn audit(replica: &Replica, arguments: &[&str]) -> String {
    let output = replica.tidings(&[&["audit"], arguments].concat()).await;
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}\n{}", said(&output.stdout), said(&output.stderr));
    said(&output.stdout)
}

async fn state_at(replica: &Replica, sequence: u64) -> Value {
    let state = audit(replica, &["state", "--at-seq", &sequence.to_string(), "--format", "json"]).await;
    serde_json::from_str(&state).unwrap()
}

/// The lines of an export that are places of the log.
fn places(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().filter(|line| line.starts_with("{\"sequence\"")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_the_same_after_a_node_was_lost_and_came_back() {
    let mut cluster = Cluster::start().await;
    let key = KeyFile::of("example.com/cluster", 5);
    let file = key.path().to_str().unwrap().to_owned();
    let signing = ["--stream-replicas", "3", "--checkpoint-key", &file, "--checkpoint-every-events", "5"];
    let replica = Replica::start_with(Spec::joining(cluster.url()).with(&signing)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (public, known) = (key.public().to_string(), path("known.json"));
    let verify = ["verify", "--key", &public, "--known", &known];

    talks(&replica, 0).await;
    let then = replica.readyz().await["sequence"].as_u64().unwrap();
    let state = state_at(&replica, then).await;
    audit(&replica, &verify).await;
    audit(&replica, &["export", &path("before.ndjson")]).await;

    let leader = cluster.log_leader(0).await;
    cluster.nodes[leader].kill();
    cluster.log_leader((leader + 1) % 3).await;
    within(ELECTED_WITHIN, "it works with the log again", || async {
        replica.readyz().await["mode"] == "cluster"
    })
    .await;
    talks(&replica, 6).await;
    replica.in_mode("cluster").await;
    audit(&replica, &verify).await;
    assert_eq!(state_at(&replica, then).await, state, "the past is the same");
    audit(&replica, &["export", &path("after.ndjson")]).await;
    let offline = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["audit", "verify", "--key", &public, "--file", &path("after.ndjson")])
        .output()
        .unwrap();
    assert!(offline.status.success(), "{offline:?}");
    let (before, after) =
        (places(&folder.path().join("before.ndjson")), places(&folder.path().join("after.ndjson")));
    assert_eq!((before.len() as u64, after.len() >= before.len() + 18), (then, true));
    assert_eq!(before[..], after[..before.len()]);

    cluster.nodes[leader].start_again().await;
    audit(&replica, &verify).await;
    assert_eq!(state_at(&replica, then).await, state);
}
