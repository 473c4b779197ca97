//! TLS to NATS, with certificates on both sides, as `nats/tls.conf` has it.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::tls::{Authority, Identity};
use crate::support::{Nats, PATIENCE, Replica, Spec};

/// The options of a client that trusts this authority and shows this certificate.
fn options(ca: &Path, client: Option<&Identity>) -> Vec<String> {
    let option = |name: &str, file: &Path| [format!("--nats-tls-{name}"), file.display().to_string()];
    let mut options = option("ca", ca).to_vec();
    if let Some(Identity { certificate, key }) = client {
        options.extend(option("cert", certificate));
        options.extend(option("key", key));
    }
    options
}

/// A command that connects to this NATS, and says why it did not.
async fn ask(url: &str, options: &[String]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["admin", "status", "--nats", url]).args(options).stdin(Stdio::null());
    command.output().await.unwrap()
}

#[tokio::test]
async fn a_replica_and_the_commands_work_over_tls_with_certificates_on_both_sides() {
    let authority = Authority::new("ours");
    let mut nats = Nats::start_with_tls(&authority.certificate(), &authority.server("127.0.0.1")).await;
    let options = options(&authority.certificate(), Some(&authority.client("replica.example")));
    let with: Vec<_> = options.iter().map(String::as_str).collect();
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&with)).await;
    let id = replica.post_broadcast("over TLS").await["id"].clone();
    replica.acknowledge(id.as_str().unwrap(), "ann").await;
    // A connection that is made again is as the first one was.
    nats.restart().await;
    replica.post_until_taken("again").await;

    let url = nats.url_of("auditor", "rotidua");
    let mut audit = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    let replayed = audit.args(["audit", "replay", "--nats", &url]).args(&options).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&replayed.stdout).lines().count(), 3, "{replayed:?}");
    assert!(!nats.said().contains("Violation"), "{}", nats.said());
}

#[tokio::test]
async fn without_the_right_certificates_nobody_gets_in() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger's"));
    let ca = authority.certificate();
    let nats = Nats::start_with_tls(&ca, &authority.server("127.0.0.1")).await;
    let elsewhere = Nats::start_with_tls(&ca, &authority.server("elsewhere.example")).await;
    let client = authority.client("replica.example");
    // No replica runs there, which is a problem, but NATS can be asked.
    assert_eq!(ask(&nats.url(), &options(&ca, Some(&client))).await.status.code(), Some(1));

    let strangers = stranger.client("replica.example");
    for (of, options, why) in [
        (&nats, vec![], "UnknownIssuer"),
        (&nats, options(&stranger.certificate(), Some(&client)), "UnknownIssuer"),
        (&elsewhere, options(&ca, Some(&client)), "elsewhere.example"),
    ] {
        let output = ask(&of.url(), &options).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{options:?}: {said}");
        assert!(!said.contains("sgnidit"), "{said}");
    }
    for (options, why) in [
        (options(&ca, None), "client didn't provide a certificate"),
        (options(&ca, Some(&strangers)), "failed to verify certificate"),
    ] {
        let output = ask(&nats.url(), &options).await;
        assert!(!output.status.success(), "{options:?}");
        let said = nats.said();
        assert!(said.contains(why), "{options:?}: {output:?}, and NATS says {said}");
    }
}

/// A server, or somebody in between, that says nothing of TLS.
#[tokio::test]
async fn who_has_certificates_says_no_password_without_tls() {
    let authority = Authority::new("ours");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://tidings:hunter2@{}", listener.local_addr().unwrap());
    let (ca, client) = (authority.certificate(), authority.client("replica.example"));
    let asked = tokio::spawn(async move { ask(&url, &options(&ca, Some(&client))).await });
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    stream
        .write_all(b"INFO {\"server_name\":\"x\",\"version\":\"2.15.1\",\"max_payload\":1048576}\r\n")
        .await
        .unwrap();
    let mut first = [0];
    timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(first[0], 22, "a handshake of TLS is what is said first");
    drop(stream);
    assert!(!asked.await.unwrap().status.success());
}

#[tokio::test]
async fn files_that_hold_no_certificate_end_the_start_and_are_named() {
    let authority = Authority::new("ours");
    let (ca, client) = (authority.certificate(), authority.client("replica.example"));
    let nowhere = Path::new("/nowhere.pem");
    let keyless = Identity { certificate: client.certificate.clone(), key: ca.clone() };
    for (options, named) in [
        (options(nowhere, None), nowhere),
        (options(&client.key, None), &client.key),
        (options(&ca, Some(&keyless)), &ca),
    ] {
        let with: Vec<_> = options.iter().map(String::as_str).collect();
        let mut replica = Replica::prepared(Spec::joining("nats://127.0.0.1:1").with(&with));
        replica.spawn();
        assert_eq!(replica.ended().await.code(), Some(1));
        let said = replica.log();
        assert!(said.contains(named.to_str().unwrap()), "{said}");
    }
}

/// What has no end is not read until there is no memory left, of which there is little.
#[tokio::test]
async fn files_without_end_are_refused_at_their_bound() {
    let authority = Authority::new("ours");
    let client = authority.client("replica.example");
    let (certificate, key) = (client.certificate.to_str().unwrap(), client.key.to_str().unwrap());
    for (options, words) in [
        (
            &["--nats-creds", "/dev/zero"][..],
            "reading the NATS credentials /dev/zero: it has more than 65536 bytes",
        ),
        (&["--nats-tls-ca", "/dev/zero"], "/dev/zero: it has more than 4194304 bytes"),
        (
            &["--nats-tls-cert", "/dev/zero", "--nats-tls-key", key],
            "/dev/zero: it has more than 4194304 bytes",
        ),
        (
            &["--nats-tls-cert", certificate, "--nats-tls-key", "/dev/zero"],
            "/dev/zero: it has more than 65536 bytes",
        ),
    ] {
        for (command, code) in [
            (&["serve", "--listen", "127.0.0.1:0"][..], 1),
            (&["audit", "replay"], 3),
            (&["admin", "status"], 3),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let output = tokio::process::Command::new("prlimit")
                .args(["--as=4294967296", "--", env!("CARGO_BIN_EXE_tidings")])
                .args(command)
                .args(["--nats", "nats://127.0.0.1:1", "--data-dir", folder.path().to_str().unwrap()])
                .args(options)
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = timeout(PATIENCE, output).await.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.code() == Some(code) && said.contains(words),
                "{command:?} {options:?}: {output:?}"
            );
        }
    }
}
