//! A replica that starts and does not reach NATS: it serves what it has, is not ready, and says why.

use reqwest::Method;
use serde_json::json;

use crate::support::tls::Authority;
use crate::support::{Nats, Replica, Spec, eventually};

/// A replica that has something on disk, and is stopped.
async fn with_a_past(nats: &Nats, options: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec::joining(nats.url()).with(options).keeping_data_in(folder.path().join("data"));
    let mut replica = Replica::start_with(spec).await;
    let id = replica.post_broadcast("on disk").await["id"].as_str().unwrap().to_owned();
    assert_eq!(replica.terminate().await.code(), Some(0));
    (folder, id)
}

/// It serves what it has on disk, and is not ready, for this reason; its log names the server and the cause.
async fn serves_unready(replica: &mut Replica, id: &str, reason: &str, said: &[&str]) {
    replica.start_alone().await;
    assert_eq!(replica.active("ann").await["id"], id);
    let answer = replica.raw_request(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    eventually("the reason is given", || async {
        replica.readyz().await["reason"].as_str().is_some_and(|given| given.contains(reason))
    })
    .await;
    for text in said {
        eventually(&format!("it says {text}"), || async { replica.log().contains(text) }).await;
    }
    assert_eq!(replica.count("tidings_ready").await, 0);
}

#[tokio::test]
async fn a_replica_that_did_not_reach_nats_since_its_start_is_not_ready_until_it_does() {
    let mut nats = Nats::start().await;
    let (folder, id) = with_a_past(&nats, &[]).await;
    nats.kill();
    let spec = Spec::joining(nats.url()).keeping_data_in(folder.path().join("data"));
    let mut replica = Replica::prepared(spec);
    let server = format!("nats://127.0.0.1:{}", nats.port());
    let cause = format!("NATS cannot be reached ({server}: ");
    serves_unready(&mut replica, &id, "NATS has not been reached since the start", &[&cause, "refused"])
        .await;
    replica.in_mode("local").await;
    let request = replica.request(Method::POST, "").json(&json!({"message": "alone"}));
    assert_eq!(replica.ask(request).await.0, 202);
    assert!(!replica.log().contains("9223372036854775808"), "{}", replica.log());
    let lines = replica.log().lines().filter(|line| line.contains("NATS cannot be reached")).count();
    assert!(lines <= 4, "{lines} lines:\n{}", replica.log());
    nats.start_again().await;
    eventually("it is ready", || async { replica.is_ready().await }).await;
    replica.in_mode("cluster").await;
    // It was reached once: with NATS away the replica goes on alone, and stays ready.
    nats.kill();
    replica.in_mode("local").await;
    assert!(replica.is_ready().await);
}

#[tokio::test]
async fn a_replica_that_nats_does_not_let_in_is_not_ready() {
    let nats = Nats::start_with_users().await;
    let (folder, id) = with_a_past(&nats, &[]).await;
    let spec = Spec::joining(nats.url_of("tidings", "wrong")).keeping_data_in(folder.path().join("data"));
    let mut replica = Replica::prepared(spec);
    let server = format!("127.0.0.1:{}", nats.port());
    let said = ["NATS refuses the login", &server];
    serves_unready(&mut replica, &id, "NATS refuses the credentials of this replica", &said).await;
    let log = replica.log();
    let of_the_client =
        |line: &&str| line.contains("uthorization") && !line.contains("NATS refuses the login");
    assert_eq!(log.lines().filter(of_the_client).collect::<Vec<_>>(), Vec::<&str>::new(), "{log}");
}

#[tokio::test]
async fn a_replica_that_trusts_another_authority_is_not_ready_and_says_what_tls_says() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger's"));
    let nats = Nats::start_with_tls(&authority.certificate(), &authority.server("127.0.0.1")).await;
    let client = authority.client("replica.example");
    let trusting = |authority: &Authority| {
        let file = |path: &std::path::Path| path.display().to_string();
        ["ca", "cert", "key"]
            .into_iter()
            .zip([file(&authority.certificate()), file(&client.certificate), file(&client.key)])
            .flat_map(|(name, file)| [format!("--nats-tls-{name}"), file])
            .collect::<Vec<_>>()
    };
    let right = trusting(&authority);
    let (folder, id) = with_a_past(&nats, &right.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let wrong = trusting(&stranger);
    let spec = Spec::joining(nats.url())
        .with(&wrong.iter().map(String::as_str).collect::<Vec<_>>())
        .keeping_data_in(folder.path().join("data"));
    let mut replica = Replica::prepared(spec);
    let server = format!("127.0.0.1:{}", nats.port());
    serves_unready(&mut replica, &id, "NATS has not been reached", &["UnknownIssuer", &server]).await;
    assert!(!replica.log().contains("sgnidit"), "no password is shown");
}

#[tokio::test]
async fn a_clean_stop_is_no_trouble_with_nats() {
    let mut replica = Replica::start_with(Spec::embedded()).await;
    assert!(replica.log().contains("connected to NATS"), "{}", replica.log());
    // Auditors read over a connection of their own.
    let events = replica.raw_request(Method::GET, "/api/audit/events").header("X-User-Role", "auditor");
    assert_eq!(events.send().await.unwrap().status(), 200);
    assert_eq!(replica.terminate().await.code(), Some(0));
    let said = replica.log();
    let trouble = said.lines().any(|line| line.contains("WARN") && line.contains("NATS"));
    assert!(!said.contains("disconnected") && !trouble, "{said}");
}
