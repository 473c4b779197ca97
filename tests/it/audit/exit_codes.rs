//! What auditors can tell by the exit code: a changed log, wrong arguments, nothing that could be read, nothing signed.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::support::checkpoints::{KeyFile, put};
use crate::support::{Nats, Replica, Spec, eventually};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_log_that_nobody_signs_is_said_to_be_unsigned() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    eventually("it is mirrored", || async { replica.count("tidings_mirror_lag_events").await == 0 }).await;
    let verified = replica.tidings(&["audit", "verify", "--format", "text"]).await;
    let said = text(&verified.stdout);
    assert_eq!(verified.status.code(), Some(4), "{said}");
    assert!(said.contains("Nothing of this log is signed") && said.contains("nothing of it"), "{said}");
    let proven = replica.tidings(&["audit", "prove", "--broadcast", &id, "--wait=1s"]).await;
    let said = text(&proven.stderr);
    assert_eq!(proven.status.code(), Some(4), "{said}");
    assert!(said.contains("waiting up to 1s for the next checkpoint"), "{said}");
    let unknown = replica.tidings(&["audit", "replay", "--type", "broadcast.creatd"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("broadcast.created, broadcast.cleared, broadcast.acknowledged"));
}

#[tokio::test]
async fn a_proof_waits_for_the_next_checkpoint_and_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let nats = Nats::start().await;
    let key = KeyFile::of("example.com/tidings", 1);
    let key_file = key.path().display().to_string();
    let options = [
        "--checkpoint-key",
        &key_file,
        "--checkpoint-every-events",
        "1000",
        "--checkpoint-every-seconds",
        "3",
    ];
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&options)).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let signed = async || replica.count("tidings_checkpoint_size").await;
    eventually("the first event is signed", || async { signed().await == 1 }).await;
    replica.acknowledge(&id, "42").await;
    let file = replica.data_dir().join("42.tlog-proof");
    let out = file.to_str().unwrap();
    let arguments = ["audit", "prove", "--broadcast", &id, "--user", "42", "--out", out, "--wait"];
    let proven = timeout(Duration::from_mins(1), replica.tidings(&arguments)).await.expect("it is bounded");
    assert!(proven.status.success(), "{}", text(&proven.stderr));
    assert!(signed().await >= 1 && file.exists());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn junk_in_the_stream_of_checkpoints_hides_none() {
    let nats = Nats::start().await;
    let key = KeyFile::of("example.com/tidings", 1);
    let spec = Spec::joining(nats.url()).with(&["--checkpoint-key", &key.path().display().to_string()]);
    let replica = Replica::start_with(spec).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let get = |path: &str| {
        let request = replica.raw_request(reqwest::Method::GET, &format!("/api/audit/{path}"));
        request.header("X-User-Role", "auditor").send()
    };
    eventually("it is signed", || async { get("checkpoint").await.unwrap().status() == 200 }).await;
    let before = get("checkpoint").await.unwrap().text().await.unwrap();
    for n in 0..600 {
        put(&nats, format!("junk {n}")).await;
    }
    let after = get("checkpoint").await.unwrap();
    assert_eq!((after.status().as_u16(), after.text().await.unwrap()), (200, before));
    assert_eq!(get(&format!("proof?broadcast={id}")).await.unwrap().status(), 200);
    let proven = replica.tidings(&["audit", "prove", "--broadcast", &id]).await;
    assert!(proven.status.success(), "{}", text(&proven.stderr));
}

#[tokio::test]
async fn a_small_file_cannot_claim_millions_of_lost_messages() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("claims.ndjson");
    let root = tidings::log::merkle::Hash::empty();
    let claim = format!(
        "{{\"tidings_export\":1,\"epoch\":\"2026-11-26T03:01:42.096831171Z\",\"last_sequence\":10000000,\
         \"exported_at\":\"2026-11-26T03:02:00.000Z\"}}\n{{\"end\":10000000,\"root\":\"{root}\"}}\n"
    );
    std::fs::write(&file, &claim).unwrap();
    let smaller = claim.replace("10000000", "90000");
    let auditor = Replica::prepared(Spec::embedded());
    for (text_of_file, first) in [(&claim, "it is 0"), (&smaller, "from 1 to 90000")] {
        std::fs::write(&file, text_of_file).unwrap();
        let name = file.to_str().unwrap();
        let output = auditor.tidings(&["audit", "verify", "--file", name]).await;
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.lines().count() < 10 && said.contains(first), "{said}");
        let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(last["verified"], false);
        let replayed = auditor.tidings(&["audit", "replay", "--file", name]).await;
        assert!(replayed.stderr.len() < 2_000, "{}", text(&replayed.stderr));
    }
}
