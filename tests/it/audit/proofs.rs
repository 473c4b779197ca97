//! Proofs of real logs: by the command and by each replica, at every kind of place, and they stay true.

mod refused;

use std::path::PathBuf;
use std::process::{Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::audit::proof::extra::ProvenFact;
use tidings::audit::proof::{Proof, VerifiedProof};
use tidings::domain::{Acknowledged, Event};
use tidings::log::names::Subject;
use tidings::log::{EventLog as _, NewEvent};
use tidings::notary::note::PublicKey;
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use crate::support::contract::schemas::Schemas;
use crate::support::log::{acknowledged, channel, created};
use crate::support::{Nats, Replica, Spec, eventually, percent_encoded};

/// A NATS, and a replica that signs its log with a key from `admin keygen`.
pub struct Signing {
    pub nats: Nats,
    pub replica: Replica,
    folder: TempDir,
}

impl Signing {
    /// Signs a checkpoint after so many events.
    pub async fn start(every: u64) -> Self {
        let nats = Nats::start().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoint.key");
        let made =
            tidings(&["admin", "keygen", "--name", "example.com/tidings", file.to_str().unwrap()]).await;
        assert!(made.status.success(), "{made:?}");
        std::fs::write(folder.path().join("checkpoint.pub"), &made.stdout).unwrap();
        let replica = Replica::start_with(spec(&nats, &folder, every)).await;
        Self { nats, replica, folder }
    }

    pub async fn connect_as(&self, every: u64) -> Replica {
        Replica::start_with(spec(&self.nats, &self.folder, every)).await
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn public_key(&self) -> String {
        std::fs::read_to_string(self.file("checkpoint.pub")).unwrap().trim().to_owned()
    }

    /// The newest checkpoint, as the replica gives it.
    pub async fn checkpoint(&self) -> String {
        get(&self.replica, "checkpoint").await.1
    }

    /// Waits until so many events, or more, are signed.
    pub async fn signed_up_to(&self, size: u64) {
        eventually(&format!("{size} events are signed"), || async {
            let signed = self.checkpoint().await.lines().nth(1).and_then(|size| size.parse::<u64>().ok());
            signed.is_some_and(|signed| signed >= size)
        })
        .await;
    }

    /// What `audit prove` writes.
    pub async fn proof(&self, id: &str, user: Option<&str>) -> String {
        let output = prove(&self.replica, id, user, &[]).await;
        assert!(output.status.success(), "{}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a proof proves to whoever has the public key.
    fn check(&self, proof: &str) -> VerifiedProof {
        let key: PublicKey = self.public_key().parse().unwrap();
        proof.parse::<Proof>().unwrap().check(&[key]).unwrap_or_else(|why| panic!("{why}\n{proof}"))
    }

    /// What `audit check` prints of a proof.
    async fn told(&self, proof: &str) -> (Option<i32>, Value) {
        let output = check(proof, &["--key", &self.public_key()]).await;
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn spec(nats: &Nats, folder: &TempDir, every: u64) -> Spec {
    let key = folder.path().join("checkpoint.key");
    let every = every.to_string();
    let signing = ["--checkpoint-key", key.to_str().unwrap(), "--checkpoint-every-events", &every];
    Spec::joining(nats.url()).with(&signing)
}

async fn tidings(arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings")).args(arguments).output().await.unwrap()
}

async fn prove(replica: &Replica, id: &str, user: Option<&str>, more: &[&str]) -> Output {
    let user = user.map(|user| ["--user", user]);
    let user = user.as_ref().map_or(&[][..], |user| &user[..]);
    replica.tidings(&[&["audit", "prove", "--broadcast", id], user, more].concat()).await
}

/// Runs `audit check` where there is nothing but the proof on stdin.
async fn check(proof: &str, options: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["audit", "check", "-"]).args(options).env_clear();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Wrong arguments are noticed before anything is read.
    let _ = child.stdin.take().unwrap().write_all(proof.as_bytes()).await;
    child.wait_with_output().await.unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a replica tells an auditor: the status and the text.
async fn get(replica: &Replica, path: &str) -> (u16, String) {
    let request = replica.raw_request(Method::GET, &format!("/api/audit/{path}"));
    let answer = request.header("X-User-Role", "auditor").send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn proof_from(replica: &Replica, id: &str, user: Option<&str>) -> (u16, String) {
    let user = user.map(|user| format!("&user={}", percent_encoded(user))).unwrap_or_default();
    get(replica, &format!("proof?broadcast={id}{user}")).await
}

/// The JSON in a proof.
fn extra(proof: &str) -> Value {
    let line = proof.lines().nth(1).unwrap().strip_prefix("extra ").unwrap();
    serde_json::from_slice(&STANDARD.decode(line).unwrap()).unwrap()
}

/// The bytes of a proof's leaf.
pub fn statement(proof: &str) -> Vec<u8> {
    STANDARD.decode(extra(proof)["statement"].as_str().unwrap()).unwrap()
}

/// Who acknowledged in the event at a place of a log.
fn users_at(sequence: u64) -> [String; 3] {
    ["one", "two", "three"].map(|name| format!("{name}@{sequence}"))
}

#[tokio::test]
async fn every_kind_of_place_in_logs_of_every_size_is_proven_by_each_replica() {
    let signing = Signing::start(1).await;
    let replicas = [&signing.replica, &signing.connect_as(1).await, &signing.connect_as(1).await];
    let log = signing.nats.log().await;
    let announced = created("one");
    let (id, name) = (announced.id, announced.id.to_string());
    log.append(announced).await.unwrap();
    let mut last = 1;
    for size in [1, 255, 256, 257, 600] {
        for sequence in last + 1..=size {
            let users = users_at(sequence);
            let users = [users[0].as_str(), &users[1], &users[2]];
            let appended = log.append(acknowledged(id, &users)).await.unwrap();
            assert_eq!(appended.sequence, sequence);
        }
        last = size;
        signing.signed_up_to(size).await;
        let mut places = vec![1, 2, size / 2, 255, 256, 257, 512, 513, size - 1, size];
        places.retain(|place| (1..=size).contains(place));
        places.dedup();
        for place in places {
            let user = users_at(place)[usize::try_from(place % 3).unwrap()].clone();
            let user = (place > 1).then_some(user.as_str());
            let asked = replicas.map(|replica| proof_from(replica, &name, user));
            for (status, proof) in futures_util::future::join_all(asked).await {
                assert_eq!(status, 200, "{place} of {size}: {proof}");
                let VerifiedProof { event, checkpoint, .. } = signing.check(&proof);
                assert_eq!((event.sequence, checkpoint.size), (place, size));
                match event.what {
                    ProvenFact::Announced { broadcast, late } => {
                        assert_eq!((place, broadcast.id.0, late), (1, id, false));
                    }
                    ProvenFact::Acknowledged { broadcast_id, user: by, .. } => {
                        assert_eq!((broadcast_id.0, Some(by.as_str())), (id, user));
                    }
                }
            }
        }
        let (user, id) = (users_at(size)[1].clone(), id.to_string());
        let user = (size > 1).then_some(user.as_str());
        let by_command = signing.proof(&id, user).await;
        assert_eq!((200, by_command), proof_from(replicas[1], &id, user).await, "the very file");
    }
}

#[tokio::test]
async fn each_of_many_users_of_one_event_is_proven_and_nobody_else_is_shown() {
    let signing = Signing::start(1).await;
    let log = signing.nats.log().await;
    let announced = created("one");
    let id = announced.id;
    log.append(announced).await.unwrap();
    let users: Vec<_> = (0..999).map(|n| format!("someone-{n:03}")).collect();
    let event = acknowledged(id, &users.iter().map(String::as_str).collect::<Vec<_>>());
    let Event::Acknowledged(Acknowledged { salt: Some(salt), .. }) = event.event else { panic!() };
    log.append(event).await.unwrap();
    signing.signed_up_to(2).await;
    let schemas = Schemas::load();
    for user in [&users[0], &users[1], &users[511], &users[512], &users[998]] {
        let proof = signing.proof(&id.to_string(), Some(user)).await;
        let (code, told) = signing.told(&proof).await;
        assert_eq!((code, &told["user"]), (Some(0), &json!(user)));
        schemas.hold("proof", &extra(&proof));
        let all = [proof.as_bytes(), extra(&proof).to_string().as_bytes(), &statement(&proof)].concat();
        let text = String::from_utf8_lossy(&all);
        let shown: Vec<_> = users.iter().filter(|other| text.contains(other.as_str())).collect();
        assert_eq!(shown, [user]);
        let spelled = [salt.to_string(), salt.simple().to_string(), STANDARD.encode(salt)];
        assert!(!spelled.iter().any(|salt| text.contains(salt)), "the salt is shown");
        assert!(!all.windows(16).any(|window| window == salt.as_bytes()), "the salt is shown");
    }
}

#[tokio::test]
async fn what_was_overtaken_is_proven_and_said_to_be_without_effect() {
    let signing = Signing::start(1).await;
    let late = NewEvent { subject: Subject::Late(channel()), ..created("too late") };
    let id = late.id.to_string();
    signing.nats.log().await.append(late).await.unwrap();
    signing.signed_up_to(1).await;
    let proof = signing.proof(&id, None).await;
    Schemas::load().hold("proof", &extra(&proof));
    let (code, told) = signing.told(&proof).await;
    assert_eq!((code, &told["type"], &told["late"]), (Some(0), &json!("broadcast.created"), &json!(true)));
    assert_eq!(told["broadcast"]["message"], "too late");
    let text = check(&proof, &["--key", &signing.public_key(), "--format", "text"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with("User ann announced broadcast ") && text.contains("\"too late\""), "{text}");
    assert!(text.ends_with(" is without effect.\n") && text.lines().count() == 1, "{text}");
    assert_eq!(proof_from(&signing.replica, &id, None).await, (200, proof));
}

#[tokio::test]
async fn a_proof_stays_true_over_crashes_rebuilds_and_a_growing_log() {
    let mut signing = Signing::start(1).await;
    let id = signing.replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    signing.replica.acknowledge(&id, "ann").await;
    signing.signed_up_to(2).await;
    let first = signing.proof(&id, Some("ann")).await;
    let proven = signing.check(&first);

    signing.replica.kill();
    signing.replica.start_again().await;
    assert_eq!(proof_from(&signing.replica, &id, Some("ann")).await, (200, first.clone()), "after a SIGKILL");
    signing.replica.acknowledge(&id, "bob").await;
    signing.signed_up_to(3).await;

    signing.replica.terminate().await;
    let data_dir = signing.replica.data_dir();
    let rebuilt = tidings(&["admin", "rebuild", "--data-dir", data_dir.to_str().unwrap()]).await;
    assert!(rebuilt.status.success(), "{}", errors(&rebuilt));
    signing.nats.restart().await;
    signing.replica.start_again().await;
    for user in ["ann", "bob"] {
        let (status, later) = proof_from(&signing.replica, &id, Some(user)).await;
        assert_eq!((status, signing.check(&later).checkpoint.size), (200, 3), "{later}");
        assert_eq!(later, signing.proof(&id, Some(user)).await);
    }

    let log = signing.nats.log().await;
    for n in 0..300 {
        log.append(acknowledged(id.parse().unwrap(), &[&format!("user {n}")])).await.unwrap();
    }
    signing.signed_up_to(303).await;
    assert_eq!(signing.check(&first), proven, "what was proven once");
    let now = signing.check(&proof_from(&signing.replica, &id, Some("ann")).await.1);
    assert_eq!((now.event, now.checkpoint.size), (proven.event, 303));
}

#[tokio::test]
async fn the_replica_of_make_run_proves_with_the_key_that_it_made() {
    let replica = Replica::start_with(Spec::embedded()).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    // The first event is signed at once; what comes after it waits, as it is set up.
    eventually("the first event is signed", || async { get(&replica, "checkpoint").await.0 == 200 }).await;
    let output = prove(&replica, &id, None, &[]).await;
    let key = replica.data_dir().join("checkpoint.pub");
    let checked = check(&String::from_utf8(output.stdout).unwrap(), &["--key", key.to_str().unwrap()]).await;
    assert_eq!(checked.status.code(), Some(0), "{}", errors(&checked));
    replica.acknowledge(&id, "42").await;
    let early = prove(&replica, &id, Some("42"), &[]).await;
    assert_eq!(early.status.code(), Some(4));
    assert!(
        errors(&early).contains("event 2 is not signed yet: the newest checkpoint ends at event 1"),
        "{early:?}"
    );
    assert!(errors(&early).contains("within a minute") && early.stdout.is_empty(), "{early:?}");
    let (status, error) = proof_from(&replica, &id, Some("42")).await;
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!((status, &error["code"], &error["sequence"]), (503, &json!("not_signed"), &json!(2)));
}
