//! An operator sees every fault: in `/readyz`, in `/metrics`, in `tidings admin status`, and in one line of the diagnostics
//! that says what to do; and sees when it is over.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use serde_json::{Value, json};
use tidings::log::names::{CHECKPOINT_STREAM, LOG_STREAM};

use crate::support::checkpoints::KeyFile;
use crate::support::clock::WrongClock;
use crate::support::issuer::key_set;
use crate::support::nats::{epoch_metadata, provision};
use crate::support::{Cluster, Issuer, KeyServer, Nats, Replica, Spec, eventually, shipped, within};

/// A cluster takes a while until it calls a server offline.
pub const WHILE: Duration = Duration::from_mins(1);

async fn has_warning(replica: &Replica, code: &str) -> bool {
    let warnings = replica.readyz().await["warnings"].as_array().cloned().unwrap_or_default();
    warnings.contains(&json!(code))
}

/// What `tidings admin status` calls a problem, when it is asked where this replica's NATS is.
async fn problems(replica: &Replica) -> Vec<String> {
    let output = replica.tidings(&["admin", "status", "--format", "json"]).await;
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    assert_eq!(output.status.code(), Some(i32::from(!problems.is_empty())), "{status}");
    problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

/// Waits until a fault shows in all four places: under its code, as a problem, and by a line.
pub async fn shows(replica: &Replica, code: &str, problem: &str, line: &str) {
    within(WHILE, &format!("/readyz has {code}"), || has_warning(replica, code)).await;
    assert_eq!(replica.count(&format!("tidings_warning{{code=\"{code}\"}}")).await, 1);
    within(WHILE, &format!("the diagnostics have: {line}"), || async { replica.log().contains(line) }).await;
    within(WHILE, &format!("admin status has: {problem}"), || async {
        problems(replica).await.iter().any(|said| said.contains(problem))
    })
    .await;
}

/// Waits until a fault is over.
async fn is_over(replica: &Replica, code: &str, line: &str) {
    within(WHILE, &format!("{code} is over"), || async { !has_warning(replica, code).await }).await;
    assert_eq!(replica.count(&format!("tidings_warning{{code=\"{code}\"}}")).await, 0);
    within(WHILE, &format!("the diagnostics have: {line}"), || async { replica.log().contains(line) }).await;
}

/// Changes the settings of a stream, as an administrator does.
async fn edit(nats: &Nats, stream: &str, change: impl FnOnce(&mut Config)) {
    let context = nats.jetstream().await;
    let mut config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
    change(&mut config);
    context.update_stream(config).await.unwrap();
}

fn signing(nats: &Nats, key: &KeyFile) -> Spec {
    let file = key.path().display().to_string();
    Spec::joining(nats.url()).with(&["--checkpoint-key", &file, "--checkpoint-every-events", "1"])
}

#[tokio::test]
async fn a_sound_replica_has_no_warning_and_every_one_is_a_series_from_the_start() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    eventually("nothing is wrong", || async { problems(&replica).await.is_empty() }).await;
    assert_eq!(replica.readyz().await["warnings"], json!([]));
    let listed = shipped("schemas/metrics.md");
    for warning in tidings::warnings::Warning::ALL {
        let row = format!("| `{}` | ", warning.code());
        assert!(listed.contains(&row), "schemas/metrics.md has no row {row}");
        assert_eq!(replica.count(&format!("tidings_warning{{code=\"{}\"}}", warning.code())).await, 0);
    }
    assert_eq!(replica.count("tidings_nats_stream_leader").await, 1);
    assert_eq!(replica.count("tidings_nats_stream_copies").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_goes_shows_by_its_name_and_so_does_its_return_and_a_missing_leader() {
    let mut cluster = Cluster::start().await;
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3"]);
    let replica = Replica::start_with(spec).await;
    let peers =
        async |state: &str| replica.count(&format!("tidings_nats_stream_peers{{state=\"{state}\"}}")).await;
    within(WHILE, "two copies follow the leader", || async { peers("current").await == 2 }).await;
    assert_eq!((peers("leader").await, replica.count("tidings_nats_stream_copies").await), (1, 3));

    let leader = cluster.log_leader(0).await;
    let down = (leader + 1) % 3;
    let name = cluster.nodes[down].name.clone();
    cluster.nodes[down].kill();
    let line = format!("the NATS server {name}, one of 3 that keep the stream {LOG_STREAM}, ");
    shows(&replica, "log_copy_away", &name, &line).await;
    assert_eq!(peers("offline").await + peers("lagging").await, 1);
    assert!(replica.is_ready().await, "two of three are enough");
    cluster.nodes[down].start_again().await;
    let again = format!("the NATS server {name} has a current copy of the stream {LOG_STREAM} again");
    is_over(&replica, "log_copy_away", &again).await;
    assert_eq!(replica.log().matches(&line).count(), 1, "once");

    let leader = cluster.log_leader(0).await;
    for node in [leader, (leader + 1) % 3] {
        cluster.nodes[node].kill();
    }
    shows(&replica, "log_no_leader", "has no leader", "NATS has no leader for the stream BROADCASTS").await;
    assert_eq!(replica.count("tidings_nats_stream_leader").await, 0);
    replica.in_mode("local").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_fewer_copies_than_wanted_shows() {
    let cluster = Cluster::start().await;
    let provision = provision(1);
    let context = provision.context(&cluster.nodes[0].client().await);
    within(WHILE, "the streams are there", || async { provision.everything(&context).await.is_ok() }).await;
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3"]);
    let replica = Replica::start_with(spec).await;
    let line = "stream BROADCASTS has num_replicas = 1, where Tidings expects 3";
    shows(&replica, "log_copies_few", "stream BROADCASTS has one copy", line).await;
    assert_eq!(replica.count("tidings_nats_stream_copies_wanted").await, 3);
}

#[tokio::test]
async fn a_log_that_a_limit_has_trimmed_shows_on_running_replicas() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    replica.post_broadcast("two").await;
    edit(&nats, LOG_STREAM, |config| {
        config.max_age = Duration::from_secs(1);
        config.duplicate_window = Duration::from_secs(1);
    })
    .await;
    shows(&replica, "log_settings", "has max_age = 1s", "stream BROADCASTS has max_age = 1s").await;
    shows(
        &replica,
        "log_incomplete",
        "2 of the 2 messages of stream BROADCASTS are gone",
        "are gone: a limit such as max_age",
    )
    .await;
    assert_eq!(replica.count("tidings_log_missing_messages").await, 2);
    assert!(replica.is_ready().await, "it has what the log lost");
    edit(&nats, LOG_STREAM, |config| config.max_age = Duration::ZERO).await;
    eventually("the setting is right again", || async { !has_warning(&replica, "log_settings").await }).await;
    assert!(has_warning(&replica, "log_incomplete").await, "what is gone stays gone");
}

#[tokio::test]
async fn a_log_that_is_nearly_full_shows_with_the_way_out() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--log-max-bytes", "2000"]);
    let replica = Replica::start_with(spec).await;
    let mut status = 201;
    while status == 201 {
        let post = replica.request(reqwest::Method::POST, "").json(&json!({"message": "m"})).send().await;
        status = post.unwrap().status().as_u16();
    }
    assert_eq!(status, 503);
    shows(&replica, "log_nearly_full", "% full", "nats stream edit BROADCASTS --max-bytes").await;
    edit(&nats, LOG_STREAM, |config| config.max_bytes = 1 << 20).await;
    eventually("there is room", || async { !has_warning(&replica, "log_nearly_full").await }).await;
    replica.post_broadcast("now").await;
}

#[tokio::test]
async fn a_full_stream_of_checkpoints_shows_and_its_size_is_a_metric() {
    let nats = Nats::start().await;
    let key = KeyFile::of("example.com/tidings", 1);
    let replica = Replica::start_with(signing(&nats, &key)).await;
    replica.post_broadcast("one").await;
    eventually("it is signed", || async { replica.count("tidings_checkpoint_size").await == 1 }).await;
    edit(&nats, CHECKPOINT_STREAM, |config| config.max_bytes = 10).await;
    replica.post_broadcast("two").await;
    let (problem, line) =
        ("can neither read nor sign checkpoints", "BROADCAST_CHECKPOINTS is not at its max_bytes");
    shows(&replica, "checkpoints_failing", problem, line).await;
    assert_eq!(replica.count("tidings_checkpoint_limit_bytes").await, 10);
    assert!(replica.count("tidings_checkpoint_stored_bytes").await > 10);
    assert!(replica.metric("tidings_checkpoint_age_seconds").await > 5.0);
    edit(&nats, CHECKPOINT_STREAM, |config| config.max_bytes = 1 << 20).await;
    is_over(&replica, "checkpoints_failing", "checkpoints can be read and signed again").await;
}

#[tokio::test]
async fn a_log_that_replaced_a_signed_one_shows_until_the_old_checkpoints_are_taken_away() {
    let nats = Nats::start().await;
    let key = KeyFile::of("example.com/tidings", 1);
    let replica = Replica::start_with(signing(&nats, &key)).await;
    replica.post_broadcast("one").await;
    eventually("it is signed", || async { replica.count("tidings_checkpoint_size").await == 1 }).await;
    let context = nats.jetstream().await;
    context.delete_stream(LOG_STREAM).await.unwrap();
    let problem = "follows another log than the one of the first checkpoint";
    shows(&replica, "log_replaced", problem, "the first checkpoint is of the log").await;
    // Also when the new log is signed, and after a restart.
    replica.post_until_taken("of the new log").await;
    let restarted = Replica::start_with(signing(&nats, &key)).await;
    shows(&restarted, "log_replaced", problem, "the first checkpoint is of the log").await;
    context.delete_stream(CHECKPOINT_STREAM).await.unwrap();
    for replica in [&replica, &restarted] {
        within(WHILE, "the new log alone is left", || async { !has_warning(replica, "log_replaced").await })
            .await;
    }
}

#[tokio::test]
async fn a_login_that_may_not_publish_checkpoints_shows() {
    let nats = Nats::start_denying(&["broadcast_checkpoints.>"]).await;
    let key = KeyFile::of("example.com/tidings", 1);
    let replica = Replica::start_with(signing(&nats, &key)).await;
    replica.post_broadcast("one").await;
    let (problem, line) =
        ("can neither read nor sign checkpoints", "this login may read it and publish to it");
    shows(&replica, "checkpoints_failing", problem, line).await;
}

#[tokio::test]
async fn heartbeats_and_a_mirror_that_nats_refuses_show() {
    let nats = Nats::start_denying(&["$KV.broadcast_replicas.>"]).await;
    let replica = Replica::start(&nats).await;
    let alone = "no replica is connected";
    shows(&replica, "heartbeat_refused", alone, "the heartbeat of this replica did not go out").await;
    shows(&replica, "mirror_failing", alone, "the lease of the mirror cannot be taken").await;
    let nats = Nats::start_denying(&["$KV.broadcast_active.>"]).await;
    let replica = Replica::start(&nats).await;
    replica.post_broadcast("one").await;
    shows(&replica, "mirror_failing", "cannot write the KV mirror", "mirroring to KV failed").await;
}

#[tokio::test]
async fn public_keys_that_cannot_be_read_again_show_while_those_read_before_count() {
    let nats = Nats::start().await;
    let issuer = Issuer::edwards("e");
    let server = KeyServer::start(&key_set(&[&issuer])).await;
    let spec = Spec::joining(nats.url());
    let jwks = ["--auth", "jwt", "--auth-jwks-url", server.url(), "--auth-jwks-seconds", "1"];
    let replica = Replica::start_with(spec.with(&jwks)).await;
    server.be_away(true);
    let line = "the keys of tokens cannot be read from";
    shows(&replica, "token_keys_unread", "cannot read the public keys of tokens", line).await;
    assert!(replica.is_ready().await);
    server.be_away(false);
    is_over(&replica, "token_keys_unread", "the keys of tokens were read from").await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_clock_that_is_off_shows_and_one_that_is_right_does_not() {
    let nats = Nats::start().await;
    let clock = WrongClock::compile();
    let right = Replica::start_with(clock.ahead(Spec::joining(nats.url()), 0)).await;
    for (seconds, line) in [(3_600, "ms ahead of that of NATS"), (-3_600, "ms behind that of NATS")] {
        let spec = clock.ahead(Spec::joining(nats.url()).with(&["--replica", "wrong"]), seconds);
        let mut wrong = Replica::start_with(spec).await;
        shows(&wrong, "clock_offset", "the clock of replica wrong is", line).await;
        let offset = wrong.metric("tidings_clock_offset_seconds").await;
        let seconds = f64::from(i32::try_from(seconds).unwrap());
        assert!((offset - seconds).abs() < 3.0, "{offset}");
        assert_eq!(wrong.log().matches("the clock of this replica").count(), 1, "once");
        wrong.terminate().await;
    }
    assert!(right.metric("tidings_clock_offset_seconds").await.abs() < 3.0);
    assert!(!has_warning(&right, "clock_offset").await);
}

#[tokio::test]
async fn a_log_that_begins_far_too_late_is_not_served_as_if_it_were_whole() {
    let nats = Nats::start().await;
    let log = provision(1).definitions().unwrap().remove(0);
    let config = Config { first_sequence: Some(5_000_001), metadata: epoch_metadata(), ..log };
    nats.jetstream().await.create_stream(config).await.unwrap();
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.spawn();
    eventually("it serves HTTP", || async { replica.readyz().await["status"] == "unavailable" }).await;
    let gone = "5000000 of the 5000000 messages of stream BROADCASTS are gone";
    shows(
        &replica,
        "log_incomplete",
        gone,
        "the messages 1 to 5000000 are missing from the stream BROADCASTS",
    )
    .await;
    assert!(!replica.is_ready().await);
}

#[tokio::test]
async fn requests_that_the_log_refuses_are_not_a_line_each() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--log-max-bytes", "2000"]);
    let replica = Replica::start_with(spec).await;
    for n in 0..60 {
        let post = replica.request(reqwest::Method::POST, "").json(&json!({"message": n.to_string()}));
        let _ = post.send().await.unwrap();
    }
    let log = replica.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("an append was not confirmed")).collect();
    assert!((1..=4).contains(&lines.len()), "{lines:#?}");
    assert!(lines[0].contains("raise its limit"), "{lines:#?}");
}
