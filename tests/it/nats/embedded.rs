//! The embedded nats-server: one with each replica, never two on a store, and the same log over every end and start.

use std::fs;
use std::process::{Child, Command, Stdio};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::nats::free_port;
use crate::support::{Http, Nats, PATIENCE, Replica, Spec, eventually, nats_server};

/// The process that the replica's pid file names.
fn nats_pid(replica: &Replica) -> Option<Pid> {
    let text = fs::read_to_string(replica.data_dir().join("nats/nats-server.pid")).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// Whether it runs. One that has ended and that nobody has waited for yet does not.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next())
        .is_some_and(|state| state != 'Z')
}

/// Every nats-server that was started for this replica's store.
fn servers_on_the_store_of(replica: &Replica) -> Vec<i32> {
    let configuration = replica.data_dir().canonicalize().unwrap().join("nats/nats-server.conf");
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
        arguments.contains(&configuration.as_os_str().as_encoded_bytes()).then_some(pid)
    });
    processes.collect()
}

fn one_server(replica: &Replica) -> Pid {
    let pid = nats_pid(replica).expect("a pid file");
    assert!(runs(pid));
    assert_eq!(servers_on_the_store_of(replica), [pid.as_raw_nonzero().get()]);
    pid
}

fn id_of(posted: &Value) -> &str {
    posted["id"].as_str().unwrap()
}

#[tokio::test]
async fn a_killed_replica_takes_its_server_along_and_comes_back_with_the_same_log() {
    let mut replica = Replica::start_with(Spec::embedded()).await;
    for round in 0..3 {
        let posted = replica.post_broadcast(&format!("round {round}")).await;
        assert_eq!(posted["sequence"], 2 * round + 1);
        replica.acknowledge(id_of(&posted), "ann").await;
        let digest = replica.digest_at(2 * round + 2).await;
        let child = one_server(&replica);

        replica.kill();
        // At once, with the old server perhaps on its way out, or after its end.
        if round > 0 {
            eventually("the server has ended with it", || async { !runs(child) }).await;
            let mut look = Command::new(env!("CARGO_BIN_EXE_tidings"));
            let looked =
                look.args(["admin", "status", "--data-dir"]).arg(replica.data_dir()).output().unwrap();
            let said = String::from_utf8(looked.stderr).unwrap();
            assert!(said.contains("no replica with a NATS of its own runs in"), "{said}");
        }
        replica.start_again().await;
        assert!(!runs(child));
        assert_ne!(one_server(&replica), child);
        assert_eq!(replica.digest_at(2 * round + 2).await, digest);
        assert_eq!(replica.active("ann").await, Value::Null);
        assert_eq!(replica.active("bob").await["id"], id_of(&posted));
    }
}

#[tokio::test]
async fn a_killed_server_is_started_again_where_it_was() {
    let replica = Replica::start_with(Spec::embedded()).await;
    let url = replica.embedded_nats();
    let mut client = replica.connect("ann").await;
    client.greeted().await;
    let before = replica.post_broadcast("before").await;
    client.expect("new_broadcast").await;

    let child = one_server(&replica);
    kill_process(child, Signal::KILL).unwrap();
    let after = replica.post_until_taken("after").await;
    assert_eq!(after["sequence"], 2);
    assert_ne!(one_server(&replica), child);
    assert_eq!(replica.embedded_nats(), url);
    let other = Nats::of(&replica).client().await;
    assert_eq!(other.connection_state(), async_nats::connection::State::Connected);
    // Whoever was connected to the replica stays so, and is told of each once.
    client.until("what was posted after", |m| m["type"] == "new_broadcast").await;
    assert_eq!(client.broadcasts(), [id_of(&before), id_of(&after)]);
}

#[tokio::test]
async fn a_server_comes_back_though_the_binary_was_replaced_meanwhile() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let binary = folder.path().join("tidings");
    // A second name of the same file, as a rebuild would leave it: the name goes, the running file stays.
    fs::hard_link(env!("CARGO_BIN_EXE_tidings"), &binary).unwrap();
    let replica = Replica::start_with(Spec::embedded().run_as(binary.clone())).await;
    let child = one_server(&replica);
    fs::remove_file(&binary).unwrap();
    kill_process(child, Signal::KILL).unwrap();
    assert_eq!(replica.post_until_taken("it was removed").await["sequence"], 1);

    let child = one_server(&replica);
    fs::write(&binary, "half a build").unwrap();
    kill_process(child, Signal::KILL).unwrap();
    assert_eq!(replica.post_until_taken("it was replaced").await["sequence"], 2);
    assert_ne!(one_server(&replica), child);
}

#[tokio::test]
async fn what_a_server_said_survives_its_restart_and_that_of_the_replica() {
    let mut replica = Replica::start_with(Spec::embedded()).await;
    let said = |name: &str| {
        let text = fs::read_to_string(replica.data_dir().join("nats").join(name)).unwrap_or_default();
        text.matches("Server is ready").count()
    };
    kill_process(one_server(&replica), Signal::KILL).unwrap();
    replica.post_until_taken("it is back").await;
    assert_eq!((said("nats-server.log"), said("nats-server.log.1")), (2, 0));
    replica.kill();
    replica.start_again().await;
    let said = |name: &str| fs::read_to_string(replica.data_dir().join("nats").join(name)).unwrap();
    assert_eq!(said("nats-server.log.1").matches("Server is ready").count(), 2);
    assert_eq!(said("nats-server.log").matches("Server is ready").count(), 1);
}

/// What stands behind a word of the welcome.
fn welcomed(replica: &Replica, word: &str) -> String {
    let log = replica.log();
    let line = log.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("{log}"));
    line.trim().to_owned()
}

/// Runs a line as a newcomer would paste it, at the crate's root, and returns what it printed.
async fn paste(line: &str) -> String {
    let mut shell = tokio::process::Command::new("sh");
    shell.arg("-c").arg(line).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let output = shell.output().await.unwrap();
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn every_line_of_the_welcome_does_what_it_says() {
    let replica = Replica::start_with(Spec::embedded()).await;
    let mut client = replica.connect("1").await;
    client.greeted().await;
    let has_curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok();
    let (post, clear) = (welcomed(&replica, "Post:"), welcomed(&replica, "Clear:"));
    if has_curl {
        let posted: Value = serde_json::from_str(&paste(&post).await).unwrap();
        assert_eq!(replica.active("1").await["id"], id_of(&posted));
        client.expect("new_broadcast").await;
        assert_eq!(client.broadcasts(), [id_of(&posted)]);
        paste(&clear).await;
    } else {
        let address = |line: &str| line.split(' ').find(|word| word.starts_with("http")).unwrap().to_owned();
        replica.post_broadcast("Test").await;
        assert_eq!(address(&post), replica.request(Method::POST, "").build().unwrap().url().as_str());
        assert_eq!(address(&clear), replica.request(Method::POST, "/clear").build().unwrap().url().as_str());
        replica.clear().await;
    }
    assert_eq!(replica.active("1").await, Value::Null);
    let told = paste(&welcomed(&replica, "Replay:")).await;
    assert!(told.contains("broadcast.created") && told.contains("broadcast.cleared"), "{told}");
    let listen = welcomed(&replica, "Listen:");
    let url = listen.split('\'').nth(1).unwrap();
    let listening = Http::patient(PATIENCE).request(Method::GET, url).send().await.unwrap();
    assert_eq!(listening.headers()["content-type"], "text/event-stream; charset=utf-8");
}

#[tokio::test]
async fn sigterm_ends_the_replica_with_code_0_and_its_server_with_it() {
    let mut replica = Replica::start_with(Spec::embedded()).await;
    replica.post_broadcast("kept").await;
    let child = one_server(&replica);
    let status = replica.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(!runs(child), "the replica waited for the end of its server");
    assert!(!replica.data_dir().join("http.url").exists() && !replica.data_dir().join("nats.url").exists());
    replica.start_again().await;
    assert_eq!(replica.active("ann").await["message"], "kept");
}

#[tokio::test]
async fn a_second_replica_on_the_same_data_directory_ends_at_once_and_says_why() {
    let replica = Replica::start_with(Spec::embedded()).await;
    let child = one_server(&replica);
    let server = nats_server();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--nats-server", server.to_str().unwrap()];
    let output = replica.tidings(&arguments).await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another process uses the data directory"), "{said}");
    // The first one is none the worse for it.
    assert_eq!(one_server(&replica), child);
    replica.post_broadcast("still here").await;
    assert!(replica.data_dir().join("http.url").exists());
}

/// A nats-server that outlived its replica: nobody's child but this test's, on the replica's store.
struct Orphan(Child);

impl Orphan {
    fn of(replica: &Replica) -> Self {
        let configuration = replica.data_dir().canonicalize().unwrap().join("nats/nats-server.conf");
        let mut command = Command::new(nats_server());
        command.arg("-c").arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_orphaned_server_is_ended_before_a_new_one_is_started() {
    let mut replica = Replica::start_with(Spec::embedded()).await;
    let posted = replica.post_broadcast("before").await;
    let child = one_server(&replica);
    replica.kill();
    eventually("the server has ended with it", || async { !runs(child) }).await;

    let orphan = Orphan::of(&replica);
    eventually("the orphan has written its pid file", || async { nats_pid(&replica) == Some(orphan.pid()) })
        .await;
    replica.start_again().await;
    assert!(!runs(orphan.pid()));
    assert_ne!(one_server(&replica), orphan.pid());
    assert!(replica.log().contains("orphaned nats-server"));
    assert_eq!(replica.active("ann").await["id"], id_of(&posted));
    assert_eq!(replica.post_broadcast("after").await["sequence"], 2);
}

#[tokio::test]
async fn a_stranger_that_got_the_pid_of_an_old_server_is_left_alone() {
    let mut replica = Replica::start_with(Spec::embedded()).await;
    let child = one_server(&replica);
    replica.kill();
    eventually("the server has ended with it", || async { !runs(child) }).await;

    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(replica.data_dir().join("nats/nats-server.pid"), stranger.id().to_string()).unwrap();
    replica.start_again().await;
    let alive = stranger.try_wait().unwrap().is_none();
    let _ = stranger.kill();
    let _ = stranger.wait();
    assert!(alive);
}

#[tokio::test]
async fn the_server_is_not_told_the_replicas_secrets() {
    let secret = ("TIDINGS_AUTH_SECRET", "a secret that only the replica has to know");
    let replica = Replica::start_with(Spec::embedded().with_variable(secret.0, secret.1)).await;
    let environment = |pid: Pid| fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap();
    let has = |environment: &[u8], text: &str| String::from_utf8_lossy(environment).contains(text);
    assert!(has(&environment(replica.pid()), secret.1), "it is there to be read");
    let server = environment(nats_pid(&replica).expect("a pid file"));
    assert!(!has(&server, "TIDINGS_") && !has(&server, secret.1));
}

/// The password in the URL of a replica's NATS.
fn password(url: &str) -> &str {
    url.strip_prefix("nats://tidings:").unwrap().split('@').next().unwrap()
}

/// What NATS says to a client with this login.
async fn let_in(replica: &Replica, login: Option<(&str, &str)>) -> Result<(), String> {
    let url = replica.embedded_nats();
    let options = match login {
        Some((user, password)) => {
            async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
        }
        None => async_nats::ConnectOptions::new(),
    };
    let address = format!("nats://{}", url.rsplit('@').next().unwrap());
    options.connect(address).await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn nobody_gets_into_the_embedded_nats_without_its_login() {
    let replica = Replica::start_with(Spec::embedded().with_variable("TIDINGS_LOG", "trace")).await;
    replica.post_broadcast("only for those who are let in").await;
    let url = replica.embedded_nats();
    for login in [None, Some(("tidings", "guessed")), Some(("", "")), Some(("nobody", password(&url)))] {
        let refused = let_in(&replica, login).await.unwrap_err();
        assert!(refused.contains("authorization violation"), "{login:?}: {refused}");
    }
    let_in(&replica, Some(("tidings", password(&url)))).await.unwrap();

    // The login is in the two files that need it, and nowhere else.
    let told = replica.tidings(&["admin", "status"]).await;
    let server = fs::read(format!("/proc/{}/cmdline", one_server(&replica).as_raw_nonzero())).unwrap();
    let nats_log = fs::read_to_string(replica.data_dir().join("nats/nats-server.log")).unwrap();
    for text in [
        &replica.log(),
        &nats_log,
        &*String::from_utf8_lossy(&told.stdout),
        &String::from_utf8_lossy(&server),
    ] {
        assert!(!text.is_empty() && !text.contains(password(&url)), "{text}");
    }
}

#[tokio::test]
async fn the_command_for_it_prints_a_url_that_gets_in() {
    let mut replica = Replica::start_with(Spec::embedded()).await;
    let posted = replica.post_broadcast("to be read by others").await;
    let printed = paste(&welcomed(&replica, "NATS:")).await;
    assert_eq!(printed.trim(), replica.embedded_nats());
    // As another client would use it: a service that reads KV.
    let login = ("tidings", password(printed.trim()));
    let options = async_nats::ConnectOptions::with_user_and_password(login.0.to_owned(), login.1.to_owned());
    let client = options.connect(printed.trim()).await.unwrap();
    let bucket = async_nats::jetstream::new(client).get_key_value("broadcast_active").await.unwrap();
    eventually("KV has it", || async {
        let value = bucket.get("creator").await.unwrap().unwrap_or_default();
        String::from_utf8_lossy(&value).contains(id_of(&posted))
    })
    .await;

    replica.terminate().await;
    let nobody = replica.tidings(&["admin", "nats-url"]).await;
    assert!(!nobody.status.success() && nobody.stdout.is_empty());
    replica.start_again().await;
    assert_ne!(replica.embedded_nats(), printed.trim(), "each start has a login of its own");
    let_in(&replica, Some(login)).await.unwrap_err();
}

#[tokio::test]
async fn with_a_fixed_port_the_url_is_the_same_over_starts() {
    let port = free_port();
    let mut replica = Replica::start_with(Spec::embedded().with(&["--nats-port", &port.to_string()])).await;
    let url = replica.embedded_nats();
    assert!(url.ends_with(&format!("@127.0.0.1:{port}")), "{url}");
    replica.terminate().await;
    replica.start_again().await;
    assert_eq!(replica.embedded_nats(), url);
    let_in(&replica, Some(("tidings", password(&url)))).await.unwrap();

    let mut second = Replica::prepared(Spec::embedded().with(&["--nats-port", &port.to_string()]));
    second.spawn();
    assert!(!second.ended().await.success());
    let expected =
        format!("the embedded NATS cannot listen on 127.0.0.1:{port} (--nats-port names another port)");
    assert!(second.log().contains(&expected), "{}", second.log());
}

#[tokio::test]
async fn the_command_for_the_child_runs_nothing_that_somebody_types() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("it ran");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    let output = command.args(["nats-child", "touch"]).arg(&mark).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("is how `tidings serve` starts its nats-server"),
        "{said}"
    );
    assert!(!mark.exists());
}
