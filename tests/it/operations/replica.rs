//! Running it: health, metrics, options, provisioning, and what stands in the replica's log.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Config;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Nats, Replica, Spec, eventually};

/// Runs the binary by itself, without the environment of whoever runs the tests.
pub async fn tidings(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
    command.output().await.unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_replica_says_that_it_lives_and_how_far_it_is() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let live = replica.raw_request(Method::GET, "/livez").send().await.unwrap();
    assert_eq!((live.status().as_u16(), live.json::<Value>().await.unwrap()), (200, json!({"status": "ok"})));
    let before = replica.readyz().await;
    replica.post_broadcast("x").await;
    let after = replica.readyz().await;
    for ready in [&before, &after] {
        assert_eq!(
            (&ready["status"], &ready["reason"], &ready["mode"]),
            (&json!("ok"), &Value::Null, &json!("cluster"))
        );
        assert_eq!((&ready["epoch"], ready["epoch"].is_string()), (&before["epoch"], true));
    }
    assert_eq!((&before["sequence"], &after["sequence"], &after["head"]), (&json!(0), &json!(1), &json!(1)));
    assert_ne!(before["digest"], after["digest"]);
}

#[tokio::test]
async fn a_health_check_follows_readiness() {
    let nats = Nats::start().await;
    let mut replica =
        Replica::start_with(Spec::joining(nats.url()).with(&["--drain-grace-seconds", "2"])).await;
    let url = replica.url();
    let data_dir = replica.data_dir().display().to_string();
    let by_url = ["admin", "health", "--url", &url];
    let by_folder = ["admin", "health", "--data-dir", &data_dir];
    for arguments in [by_url, by_folder] {
        let healthy = tidings(&arguments, &[]).await;
        assert_eq!(healthy.status.code(), Some(0), "{}", stderr(&healthy));
        assert_eq!(serde_json::from_str::<Value>(&stdout(&healthy)).unwrap()["status"], "ok");
    }
    replica.signal(Signal::STOP);
    let frozen = tidings(&by_url, &[]).await;
    replica.signal(Signal::CONT);
    assert_eq!(frozen.status.code(), Some(1));
    assert!(stderr(&frozen).contains("did not answer in time"), "{}", stderr(&frozen));

    replica.signal(Signal::TERM);
    eventually("it is not ready any more", || async { !replica.is_ready().await }).await;
    let stopping = tidings(&by_url, &[]).await;
    assert_eq!(stopping.status.code(), Some(1));
    assert!(stdout(&stopping).contains("stopping"), "{}", stdout(&stopping));
    assert_eq!(replica.ended().await.code(), Some(0));
    for arguments in [by_url, by_folder] {
        let gone = tidings(&arguments, &[]).await;
        assert_eq!(gone.status.code(), Some(1), "{}", stdout(&gone));
        assert!(!stderr(&gone).is_empty());
    }
}

#[tokio::test]
async fn every_option_is_printed_with_its_origin_and_no_secret() {
    let environment = [
        ("TIDINGS_CHANNELS", "news,forum"),
        ("TIDINGS_NATS", "nats://ann:hunter2@a:4222,nats://b:4222"),
        ("TIDINGS_ROLE", "creator=editors,press;creator@forum=forum-editors"),
    ];
    let output = tidings(&["serve", "--print-config", "--listen", "127.0.0.1:9"], &environment).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stdout(&output);
    for line in [
        "# flags\nTIDINGS_LISTEN=127.0.0.1:9\n\n# environment\n",
        "\nTIDINGS_CHANNELS=news,forum\n",
        "\nTIDINGS_ROLE=creator=editors,press;creator@forum=forum-editors\n",
        "\n# its login is not shown: TIDINGS_NATS=nats://…@a:4222,nats://b:4222\n",
        "\nTIDINGS_MAX_MESSAGE_BYTES=4096\n",
        "\nTIDINGS_LOG=info,sled=warn,async_nats=warn\n",
        "\n# TIDINGS_REPLICA=\n",
    ] {
        assert!(printed.contains(line), "{line} is not in:\n{printed}");
    }
    let is_variable = |line: &str| line.starts_with("TIDINGS_") && line.contains('=') && !line.contains(" #");
    assert!(
        printed.lines().all(|line| line.is_empty() || line.starts_with('#') || is_variable(line)),
        "{printed}"
    );
    assert!(!printed.contains("hunter2") && printed.contains("@a:4222"), "{printed}");
    let secret = [("TIDINGS_AUTH_SECRET", "thirty-two characters are a secret")];
    // What applies where the default depends on another option.
    for (auth, values) in [("dev", ["0", "0", "0", "21000"]), ("jwt", ["60", "20", "1000", "21000"])] {
        let output = tidings(&["serve", "--print-config", "--auth", auth], &secret).await;
        let options =
            ["CREATES_PER_MINUTE", "MAX_CONNECTIONS_PER_USER", "MAX_SOCKETS_PER_ADDRESS", "MAX_SOCKETS"];
        for (option, value) in options.into_iter().zip(values) {
            let line = format!("TIDINGS_{option}={value}");
            assert!(stdout(&output).lines().any(|printed| printed == line), "{line}:\n{}", stdout(&output));
        }
    }
    let help = stdout(&tidings(&["serve", "--help"], &[]).await);
    let named: Vec<_> = help.match_indices("[env: TIDINGS_").map(|(at, _)| &help[at + 6..]).collect();
    assert!(named.len() > 20, "{help}");
    for rest in named {
        let name = rest.split(['=', ']']).next().unwrap();
        assert!(printed.contains(name), "{name} is an option and not printed");
    }
    let wrong = tidings(&["serve", "--channels", "Not A Channel"], &[]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("is not a channel name"), "{}", stderr(&wrong));
}

#[tokio::test]
async fn printing_the_options_finds_what_a_start_would_find_wrong() {
    for (options, reason) in [
        (&["--auth", "jwt"][..], "--auth jwt needs the keys of tokens"),
        (&["--listen", "0.0.0.0:8000"], "--auth-dev-anywhere"),
        (&["--heartbeat-seconds", "80"], "--liveness-seconds 75"),
        (&["--max-sockets", "20000"], "--max-connections 20000"),
        (&["--checkpoint-key", "/nowhere/checkpoint.key"], "/nowhere/checkpoint.key"),
        (&["--nats", "nats://a:4222", "--nats-creds", "/nowhere/nats.creds"], "/nowhere/nats.creds"),
        (&["--nats-server", "/nowhere/nats-server"], "--nats-server names"),
        (&["--stream-replicas", "3"], "--stream-replicas 3 needs a NATS cluster of 3 servers"),
    ] {
        let output = tidings(&[&["serve", "--print-config"][..], options].concat(), &[]).await;
        assert_eq!(output.status.code(), Some(1), "{options:?}");
        assert!(stderr(&output).contains(reason), "{options:?}: {}", stderr(&output));
        assert!(stdout(&output).contains("TIDINGS_LISTEN="), "{options:?}: they are printed all the same");
    }
}

#[tokio::test]
async fn a_misspelt_variable_is_named_with_the_nearest_known_one() {
    let misspelt = [("TIDINGS_CHANELS", "abc"), ("TIDINGS_SERVICE_HOST", "10.0.0.1")];
    let said = stderr(&tidings(&["serve", "--heartbeat-seconds", "80"], &misspelt).await);
    assert!(
        said.contains("TIDINGS_CHANELS is unknown") && said.contains("is TIDINGS_CHANNELS meant?"),
        "{said}"
    );
    assert!(!said.contains("TIDINGS_SERVICE_HOST"), "{said}");
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().display().to_string();
    for (options, code, reason) in [
        (["--heartbeat-seconds", "80"], 1, "--liveness-seconds 75"),
        (["--nats-server", "/nowhere/nats-server"], 1, "--nats-server names"),
        (["--stream-replicas", "3"], 1, "--stream-replicas 3 needs a NATS cluster"),
        (["--stream-replicas", "2"], 2, "1, 3 or 5 copies"),
        (["--max-connections", "0"], 2, "--max-connections"),
        (["--outbox-max-entries", "0"], 2, "--outbox-max-entries"),
        (["--outbox-max-bytes", "1000"], 2, "--outbox-max-bytes"),
        (["--log-max-bytes", "0"], 2, "--log-max-bytes"),
    ] {
        let arguments =
            [&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir][..], &options].concat();
        let refused = tidings(&arguments, &[]).await;
        let said = stderr(&refused);
        assert_eq!(refused.status.code(), Some(code), "{options:?}: {said}");
        assert!(said.contains(reason), "{options:?}: {said}");
    }
    let misread = tidings(&["contract", "openapi"], &[("TIDINGS_LOG", "tidings=loud")]).await;
    assert!(misread.status.success());
    assert!(stderr(&misread).contains("TIDINGS_LOG=\"tidings=loud\" cannot be read"), "{}", stderr(&misread));
}

#[tokio::test]
async fn a_full_log_refuses_until_its_limit_is_raised() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--log-max-bytes", "20000"])).await;
    let post = || replica.request(Method::POST, "").json(&json!({"message": "x".repeat(280)})).send();
    let refused = loop {
        let answer = post().await.unwrap();
        if answer.status() != 201 {
            break answer;
        }
    };
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "60"));
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "log_full");
    assert!(replica.readyz().await["sequence"].as_u64().unwrap() > 10, "nothing old was dropped");

    let context = nats.jetstream().await;
    let mut log = context.get_stream("BROADCASTS").await.unwrap();
    let raised = Config { max_bytes: 40_000, ..log.info().await.unwrap().config.clone() };
    context.update_stream(raised).await.unwrap();
    assert_eq!(post().await.unwrap().status(), 201, "without a restart");
}

#[tokio::test]
async fn a_port_in_use_ends_the_start_before_anything_else_has_begun() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let started = Instant::now();
    let refused = tidings(
        &[
            "serve",
            "--listen",
            &address,
            "--data-dir",
            data_dir.to_str().unwrap(),
            "--nats-server",
            "/bin/false",
        ],
        &[],
    )
    .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let said = stderr(&refused);
    assert!(said.contains(&address) && said.contains("in use") && said.contains("--listen"), "{said}");
    assert!(!data_dir.join("nats").exists(), "no nats-server was started: {said}");
}

#[tokio::test]
async fn dev_auth_stays_on_this_machine_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().display().to_string();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let refused = tidings(&["serve", "--listen", listen, "--data-dir", &data_dir], &[]).await;
        assert_eq!(refused.status.code(), Some(1), "{listen}");
        let said = stderr(&refused);
        assert!(said.contains("loopback") && said.contains("--auth-dev-anywhere"), "{said}");
    }
}

#[tokio::test]
async fn the_log_of_a_replica_tells_what_happened_and_not_what_was_said() {
    let nats = Nats::start().await;
    let everything = "trace,async_nats=trace,async_nats::connection=trace,async_nats::jetstream=debug";
    let spec = Spec::joining(nats.url()).with_variable("TIDINGS_LOG", everything);
    let mut replica = Replica::start_with(spec).await;
    let mut client = replica.connect("u").await;
    client.greeted().await;
    let id = replica.post_broadcast("XYZZY is a secret").await["id"].as_str().unwrap().to_owned();
    for wrong in
        [json!({"message": "XYZZY\u{0}"}), json!({"message": "XYZZY".repeat(90)}), json!({"XYZZY": 1})]
    {
        assert_eq!(replica.request(Method::POST, "").json(&wrong).send().await.unwrap().status(), 422);
    }
    client.acknowledge(&id).await;
    client.send_text("XYZZY").await;
    client.until("an error", |m| m["type"] == "error").await;
    replica.clear().await;
    assert!(replica.terminate().await.success());
    let log = replica.log();
    assert!(!log.contains("XYZZY"), "{log}");
    assert!(log.contains("DEBUG") && !log.contains("TIDINGS_LOG="), "it was read: {log}");
    let told = log.lines().find(|line| line.contains("broadcast.created")).unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains(&id) && told.contains("log.sequence=1"), "{told}");
    assert!(log.lines().any(|line| line.ends_with("stopped")), "{log}");
}

#[tokio::test]
async fn a_replica_whose_output_nobody_reads_lives_on() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--drain-seconds",
        "0",
        "--nats",
        &nats.url(),
        "--data-dir",
    ]);
    command
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let data_dir = folder.path().display().to_string();
    eventually("it is healthy", || async {
        tidings(&["admin", "health", "--data-dir", &data_dir], &[]).await.status.success()
    })
    .await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(0));
}
