//! What the streams and buckets have to be like, who creates them, and what is said of those that differ.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Config;
use serde_json::{Value, json};
use tidings::log::Epoch;
use tidings::log::time::parse_rfc3339;
use tokio::process::Command;

use crate::operations::replica::{stderr, stdout, tidings};
use crate::support::nats::{epoch_metadata, provision};
use crate::support::{Nats, Replica, Spec, nats_server};

#[tokio::test]
async fn provisioning_can_be_repeated_and_names_what_differs() {
    let nats = Nats::start().await;
    let url = nats.url();
    for _ in 0..2 {
        let done = tidings(&["admin", "provision", "--nats", &url], &[]).await;
        assert_eq!(done.status.code(), Some(0), "{}{}", stdout(&done), stderr(&done));
        assert_eq!(stdout(&done), "Everything is there, as defined.\n");
    }
    let differs = tidings(&["admin", "provision", "--nats", &url, "--log-max-bytes", "1000000"], &[]).await;
    assert_eq!(differs.status.code(), Some(1));
    let said = stdout(&differs);
    assert_eq!(said, "stream BROADCASTS has max_bytes = 17179869184, where Tidings expects 1000000\n");

    let replica = Replica::start_with(Spec::joining(&url).with(&["--log-max-bytes", "1000000"])).await;
    let warned = replica.log().lines().any(|line| line.contains("WARN") && line.contains(said.trim()));
    assert!(warned, "a size is a warning: {}", replica.log());
    replica.post_broadcast("it serves").await;

    let status = tidings(&["admin", "status", "--nats", &url], &[]).await;
    let status: Value = serde_json::from_str(&stdout(&status)).unwrap();
    assert_eq!(status["streams"]["BROADCASTS"]["last_sequence"], 1);
    assert_eq!(status["streams"]["BROADCASTS"]["max_bytes"], 17_179_869_184_u64);
    assert!(status["nats"]["version"].as_str().unwrap().starts_with("2."));
    let created = status["streams"]["KV_broadcast_active"]["created"].as_str().unwrap();
    assert!(parse_rfc3339(created).is_ok(), "as every other time is written: {created}");
    let epoch = status["streams"]["BROADCASTS"]["epoch"].as_str().unwrap();
    assert!(epoch.parse::<Epoch>().is_ok(), "{epoch}");
    let replicas = status["replicas"].as_array().unwrap();
    assert_eq!((replicas.len(), &replicas[0]["mode"]), (1, &json!("cluster")));

    let nobody = tidings(&["admin", "status", "--nats", "nats://ann:hunter2@127.0.0.1:1"], &[]).await;
    assert_eq!(nobody.status.code(), Some(3));
    assert!(
        stderr(&nobody).contains("127.0.0.1:1") && !stderr(&nobody).contains("hunter2"),
        "{}",
        stderr(&nobody)
    );
}

#[tokio::test]
async fn a_stream_with_a_weaker_guarantee_stops_the_start() {
    let nats = Nats::start().await;
    let log = provision(1).definitions().unwrap().remove(0);
    let weak = Config { deny_purge: false, metadata: epoch_metadata(), ..log };
    nats.jetstream().await.create_stream(weak).await.unwrap();
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.spawn();
    assert_eq!(replica.ended().await.code(), Some(1));
    let log = replica.log();
    assert!(log.contains("stream BROADCASTS has deny_purge = false, where Tidings expects true"), "{log}");
    assert!(log.contains("break a guarantee"), "{log}");
    let said = tidings(&["admin", "provision", "--nats", &nats.url()], &[]).await;
    assert_eq!(said.status.code(), Some(1));
    assert!(
        stdout(&said).contains("deny_purge = false, where Tidings expects true (a guarantee"),
        "{}",
        stdout(&said)
    );
    let found = nats.jetstream().await.get_stream("BROADCASTS").await.unwrap();
    assert!(!found.cached_info().config.deny_purge, "it was reported, not changed");
}

#[tokio::test]
async fn what_nats_will_never_grant_ends_the_start_and_says_what_to_do() {
    let nats = Nats::start().await;
    // The server of the harness has room for 20 GB.
    for (option, value, advice) in [
        ("--stream-replicas", "3", "--stream-replicas 1"),
        ("--log-max-bytes", "1000000000000", "lower --log-max-bytes"),
    ] {
        let mut replica = Replica::prepared(Spec::joining(nats.url()).with(&[option, value]));
        let started = Instant::now();
        replica.spawn();
        assert_eq!(replica.ended().await.code(), Some(1));
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        let log = replica.log();
        assert!(log.contains("creating the stream BROADCASTS") && log.contains(advice), "{log}");
        let said = tidings(&["admin", "provision", "--nats", &nats.url(), option, value], &[]).await;
        assert!(!said.status.success() && stderr(&said).contains(advice), "{}", stderr(&said));
    }
}

#[tokio::test]
async fn the_configuration_of_a_single_node_is_understood_and_insists_on_a_store() {
    let check = |store: Option<&'static str>| {
        let mut command = Command::new(nats_server());
        command.args(["-t", "-c", concat!(env!("CARGO_MANIFEST_DIR"), "/nats/server.conf")]).env_clear();
        command.envs(store.map(|store| ("NATS_STORE", store))).output()
    };
    let understood = check(Some("/var/lib/tidings/nats")).await.unwrap();
    assert!(understood.status.success(), "{}", stderr(&understood));
    assert!(!check(None).await.unwrap().status.success(), "nobody starts on an empty log by a slip");
}
