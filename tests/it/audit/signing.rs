//! Everybody signs checkpoints, or says that nobody does.

use serde_json::json;

use crate::support::{Nats, Replica, Spec, eventually};

/// The public halves of the keys that a replica signs with, as it says at its start.
fn public_keys(replica: &Replica) -> Vec<String> {
    let log = replica.log();
    let said =
        log.lines().filter_map(|line| Some(line.split_once("whose public half is ")?.1.trim().to_owned()));
    said.collect()
}

const WARNING: &str = "this replica signs no checkpoints of the log";

#[tokio::test]
async fn a_replica_that_signs_nothing_says_so_and_what_to_do() {
    let nats = Nats::start().await;
    let silent = Replica::start(&nats).await;
    let log = silent.log();
    let warned = log.lines().find(|line| line.contains(WARNING)).unwrap_or_else(|| panic!("{log}"));
    assert!(
        warned.contains("WARN") && warned.contains("admin keygen") && warned.contains("--checkpoint-key")
    );
    assert_eq!(silent.count("tidings_checkpoint_keys").await, 0);

    let embedded = Replica::start_with(Spec::embedded()).await;
    assert!(!embedded.log().contains(WARNING));
    assert_eq!(embedded.count("tidings_checkpoint_keys").await, 1);
    // Another replica may sign, and has twice the time between two checkpoints for that.
    let without =
        Replica::start_with(Spec::joining(nats.url()).with(&["--checkpoint-every-seconds", "1"])).await;
    without.post_broadcast("signed by nobody").await;
    eventually("it warns", async || without.readyz().await["warnings"] == json!(["log_unsigned"])).await;
    assert_eq!(without.count(r#"tidings_warning{code="log_unsigned"}"#).await, 1);

    // Where others sign, it is no fault to have no key.
    let [known] = &public_keys(&embedded)[..] else { panic!("{}", embedded.log()) };
    let compares = Spec::joining(nats.url()).with(&["--checkpoint-public-key", known]);
    assert!(!Replica::start_with(compares).await.log().contains(WARNING));
}

#[tokio::test]
async fn replicas_that_share_the_file_of_a_key_share_the_key_that_the_first_makes() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("checkpoint.key");
    let named = ["--checkpoint-key", key.to_str().unwrap(), "--checkpoint-key-name", "example.com/tidings"];
    let spec = Spec::joining(nats.url()).with(&named).with(&["--checkpoint-every-events", "1"]);
    let mut replicas = [0; 3].map(|_| Replica::prepared(spec.clone()));
    for replica in &mut replicas {
        replica.spawn();
    }
    for replica in &replicas {
        eventually("it is ready", || async { replica.is_ready().await }).await;
        assert!(!replica.log().contains(WARNING), "{}", replica.log());
        assert_eq!(public_keys(replica), public_keys(&replicas[0]));
    }
    let [public] = &public_keys(&replicas[0])[..] else { panic!("{}", replicas[0].log()) };
    assert!(public.starts_with("example.com/tidings+"), "{public}");

    replicas[0].post_broadcast("to be signed").await;
    let verify = ["audit", "verify", "--key", public, "--nats", &nats.url(), "--format", "ndjson"];
    eventually("it is signed with that key", || async {
        let output = replicas[1].tidings(&verify).await;
        String::from_utf8_lossy(&output.stdout).contains("\"signed_up_to\":1")
    })
    .await;
    replicas[0].terminate().await;
    replicas[0].start_again().await;
    assert!(public_keys(&replicas[0]).iter().all(|key| key == public), "the key is kept");
}
