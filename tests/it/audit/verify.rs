//! `tidings audit verify` on real streams: an untouched log passes, and whatever was done to one is found and named.

use std::fs;
use std::path::PathBuf;

use async_nats::HeaderMap;
use async_nats::jetstream;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::domain::Digest;
use tidings::log::merkle::Hash;
use tidings::log::names::{ACKS_BUCKET, ACTIVE_BUCKET, CHECKPOINT_SUBJECT, LOG_STREAM, REPLICAS_BUCKET};
use tidings::log::{Epoch, EventLog as _, RawMessage};
use tidings::notary::checkpoint::Checkpoint;
use tidings::notary::note::{Note, SecretKey};
use tidings::notary::stream::CheckpointStream;

use crate::support::checkpoints::{KeyFile, in_stream};
use crate::support::log::everything;
use crate::support::{Nats, Replica, Spec, eventually};

/// A log with a bit of everything in it, a replica that signs it, and its auditor.
struct Case {
    nats: Nats,
    replica: Replica,
    folder: TempDir,
    key: KeyFile,
    /// The broadcast that is active.
    active: String,
}

/// What a verification said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    findings: Vec<Value>,
    end: Value,
    stderr: String,
}

impl Said {
    /// The findings of a kind, each with its sequence.
    fn of(&self, kind: &str) -> Vec<(Option<u64>, &str)> {
        let of_kind = self.findings.iter().filter(|finding| finding["finding"] == kind);
        of_kind.map(|f| (f["sequence"].as_u64(), f["message"].as_str().unwrap())).collect()
    }

    fn passes(&self) {
        assert_eq!((self.code, &self.findings), (Some(0), &vec![]), "{self:?}");
        assert_eq!((&self.end["verified"], &self.end["findings"]), (&json!(true), &json!(0)), "{self:?}");
    }

    /// There is one finding of this kind, at this place, that says this, and none of another kind.
    #[track_caller]
    fn finds(&self, kind: &str, sequence: Option<u64>, words: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.end["verified"], false, "{self:?}");
        let found = self.of(kind);
        assert!(found.iter().any(|(at, what)| *at == sequence && what.contains(words)), "{self:?}");
    }

    /// And nothing but these kinds.
    #[track_caller]
    fn only(&self, kinds: &[&str]) {
        let others = self.findings.iter().filter(|f| !kinds.contains(&f["finding"].as_str().unwrap()));
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&Value>::new());
    }
}

impl Case {
    async fn new() -> Self {
        let nats = Nats::start().await;
        let folder = tempfile::tempdir().unwrap();
        let key = KeyFile::of("example.com/tidings", 3);
        fs::write(folder.path().join("checkpoint.pub"), format!("{}\n", key.public())).unwrap();
        let file = key.path();
        let signing = ["--checkpoint-key", file.to_str().unwrap(), "--checkpoint-every-events", "5"];
        let replica = Replica::start_with(Spec::joining(nats.url()).with(&signing)).await;
        let mut ids = Vec::new();
        for n in 0..3 {
            let id = replica.post_broadcast(&format!("number {n}")).await["id"].as_str().unwrap().to_owned();
            for user in ["ann", "bob", "a.b c"] {
                replica.acknowledge(&id, user).await;
            }
            ids.push(id);
        }
        let case = Self { nats, replica, folder, key, active: ids.pop().unwrap() };
        case.signed().await;
        case
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn context(&self) -> jetstream::Context {
        self.nats.jetstream().await
    }

    async fn head(&self) -> u64 {
        self.nats.log().await.info().await.unwrap().last_sequence
    }

    /// Waits until five events more would be too many.
    async fn signed(&self) {
        let checkpoints = CheckpointStream::of(self.context().await).await.unwrap();
        eventually("the log is signed nearly to its end", || async {
            let head = self.head().await;
            let last = in_stream(&checkpoints).await.pop();
            let size = last.and_then(|noted| noted.text.lines().nth(1)?.parse::<u64>().ok());
            size.is_some_and(|size| size + 5 > head)
        })
        .await;
    }

    async fn verify(&self, options: &[&str]) -> Said {
        let key = self.file("checkpoint.pub");
        let output = self
            .replica
            .tidings(&[&["audit", "verify", "--key", key.to_str().unwrap()], options].concat())
            .await;
        let mut lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let end = lines.pop().unwrap_or_else(|| panic!("{stderr}"));
        Said { code: output.status.code(), findings: lines, end, stderr }
    }

    async fn verify_for_people(&self) -> String {
        let output = self.replica.tidings(&["audit", "verify", "--format", "text"]).await;
        String::from_utf8(output.stdout).unwrap()
    }

    /// Publishes into the log, past the service.
    async fn publish(&self, subject: &str, headers: &[(&str, &str)], body: Vec<u8>) -> u64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let context = self.context().await;
        let sent = context.publish_with_headers(subject.to_owned(), map, body.into()).await.unwrap();
        sent.await.unwrap().sequence
    }

    /// Publishes a changed copy of a message, under another id.
    async fn publish_like(&self, like: &RawMessage, change: impl FnOnce(&mut RawMessage)) -> u64 {
        let mut copy = like.clone();
        copy.headers.retain(|(name, _)| !name.starts_with("Nats-"));
        change(&mut copy);
        let headers: Vec<_> = copy.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        self.publish(&copy.subject, &headers, copy.body.to_vec()).await
    }

    async fn messages(&self) -> Vec<RawMessage> {
        everything(&self.nats.log().await).await
    }

    async fn epoch(&self) -> Epoch {
        self.nats.log().await.info().await.unwrap().epoch
    }

    async fn sign(&self, keys: &[SecretKey], size: u64, root: Hash) {
        let log = keys[0].public().name().clone();
        let checkpoint = Checkpoint { log, epoch: self.epoch().await, size, root };
        let note = Note::sign(checkpoint.to_string(), keys).to_string();
        self.publish(CHECKPOINT_SUBJECT, &[], note.into()).await;
    }
}

#[tokio::test]
async fn an_untouched_log_passes_again_and_again() {
    let case = Case::new().await;
    let known = case.file("kept.json");
    for round in 1..=3 {
        let said = case.verify(&["--known", known.to_str().unwrap()]).await;
        said.passes();
        let head = case.head().await;
        assert_eq!((&said.end["size"], &said.end["replicas"]), (&json!(head), &json!(1)));
        let ready = case.replica.readyz().await;
        assert_eq!(said.end["digest"], ready["digest"], "the replica's own");
        assert!(said.end["compared"].as_u64().unwrap() > u64::from(round > 1), "{said:?}");
        let kept: Value = serde_json::from_slice(&fs::read(&known).unwrap()).unwrap();
        assert_eq!((&kept["size"], &kept["root"]), (&json!(head), &said.end["root"]));
        case.replica.clear().await;
        let id = case.replica.post_broadcast("one more").await["id"].as_str().unwrap().to_owned();
        case.replica.acknowledge(&id, "ann").await;
    }
    let text = case.verify_for_people().await;
    assert!(text.starts_with("Nothing is wrong.\n") && text.contains("1 live replica\n"), "{text}");
}

#[tokio::test]
async fn what_was_put_into_the_log_past_the_service_is_found() {
    let case = Case::new().await;
    let messages = case.messages().await;
    let is = |kind: &str| messages.iter().find(|message| message.header("ce-type") == Some(kind)).unwrap();
    let (created, acknowledged) = (is("broadcast.created"), is("broadcast.acknowledged"));
    let replace = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        move |message: &mut RawMessage| {
            let body = String::from_utf8(message.body.to_vec()).unwrap();
            assert!(body.contains(&from), "{body}");
            message.body = body.replace(&from, &to).into();
        }
    };

    let foreign = case.publish("broadcasts.creator.other", &[], b"hello".to_vec()).await;
    let moved = case.publish_like(acknowledged, replace("\"ann\"", "\"eve\"")).await;
    let unguarded = case.publish_like(created, |_| {}).await;
    let elsewhere = case
        .publish_like(acknowledged, |message| message.subject = message.subject.replace("creator", "forum"))
        .await;
    let malformed = case.publish_like(acknowledged, replace("\"at\":\"2", "\"at\":\"x2")).await;
    let said = case.verify(&[]).await;
    said.finds("unknown", Some(foreign), "it is no event of Tidings");
    said.finds("facts", Some(moved), "who acknowledged, or when, was changed");
    said.finds("guard", Some(unguarded), "without the guard");
    said.finds("order", Some(unguarded), "once more");
    said.finds("envelope", Some(elsewhere), "ce-subject");
    said.finds("order", Some(elsewhere), "not created before it");
    said.finds("unknown", Some(malformed), "its body is not a broadcast.acknowledged");
    said.only(&["unknown", "facts", "guard", "order", "envelope", "schema"]);
}

#[tokio::test]
async fn a_message_that_the_disk_has_lost_is_found_and_where_the_tree_differs() {
    let mut case = Case::new().await;
    // In order, so that it knows how long its streams are: else what comes behind the damage is gone too.
    case.nats.stop();
    case.nats.damage("number 1");
    case.nats.start_again().await;
    eventually("NATS answers", || async { case.replica.is_ready().await }).await;
    let said = case.verify(&[]).await;
    said.finds("hole", Some(5), "lost its message");
    let signed = said.of("checkpoint");
    assert!(signed.iter().any(|(_, what)| what.contains("was changed")), "{said:?}");
}

#[tokio::test]
async fn false_checkpoints_are_found() {
    let case = Case::new().await;
    let stranger = SecretKey::new("example.com/tidings".parse().unwrap(), &[7; 32]);
    let before = case.head().await;
    let wrong = Hash::leaf(b"wrong");
    case.publish(CHECKPOINT_SUBJECT, &[], b"hello".to_vec()).await;
    case.sign(&[stranger], 3, wrong).await;
    let mine = case.key.key.clone();
    case.sign(std::slice::from_ref(&mine), before + 100, wrong).await;
    let said = case.verify(&[]).await;
    let found: Vec<_> = said.of("checkpoint").into_iter().map(|(_, what)| what).collect();
    for words in ["it has no signatures", "signed by none of the keys", "the tail is missing"] {
        assert!(found.iter().any(|what| what.contains(words)), "{words}: {said:?}");
    }
    said.only(&["checkpoint"]);

    let forked = Case::new().await;
    let key = forked.key.key.clone();
    let checkpoints = in_stream(&CheckpointStream::of(forked.context().await).await.unwrap()).await;
    let size = checkpoints[0].text.lines().nth(1).unwrap().parse().unwrap();
    forked.sign(&[key], size, wrong).await;
    let said = forked.verify(&[]).await;
    said.finds("checkpoint", Some(size), "is false");
}

#[tokio::test]
async fn a_mirror_and_a_replica_that_say_something_else_are_found() {
    let case = Case::new().await;
    let context = case.context().await;
    case.verify(&[]).await.passes();
    let acks = context.get_key_value(ACKS_BUCKET).await.unwrap();
    let key = format!("{}.ann", case.active);
    let value: Value = serde_json::from_slice(&acks.get(&key).await.unwrap().unwrap()).unwrap();
    let mut later = value.clone();
    later["at"] = json!("2026-01-01T00:00:00.000Z");
    acks.put(&key, later.to_string().into()).await.unwrap();
    acks.put(format!("{}.mallory", case.active), value.to_string().into()).await.unwrap();
    acks.delete(format!("{}.bob", case.active)).await.unwrap();
    let active = context.get_key_value(ACTIVE_BUCKET).await.unwrap();
    active.put("creator", json!({"message": "another"}).to_string().into()).await.unwrap();
    let replicas = context.get_key_value(REPLICAS_BUCKET).await.unwrap();
    let ours = replicas.keys().await.unwrap();
    let name = futures_util::TryStreamExt::try_collect::<Vec<String>>(ours).await.unwrap();
    let name = name.into_iter().find(|key| key != "mirror").unwrap();
    let heartbeat = async || {
        let said = replicas.get(&name).await.unwrap().unwrap_or_default();
        serde_json::from_slice::<Value>(&said).unwrap_or_default()
    };
    eventually("its heartbeat says how far it is", || async { heartbeat().await["sequence"] == 12 }).await;
    let mut ghost = heartbeat().await;
    ghost["replica"] = json!("ghost");
    ghost["digest"] = json!(Digest::default());
    replicas.put("ghost", ghost.to_string().into()).await.unwrap();
    ghost["replica"] = json!("ahead");
    ghost["sequence"] = json!(1_000);
    replicas.put("ahead", ghost.to_string().into()).await.unwrap();

    let said = case.verify(&[]).await;
    let mirror: Vec<_> = said.of("mirror").into_iter().map(|(_, what)| what).collect();
    for words in [
        ".ann says",
        ".mallory is an acknowledgement",
        "for creator the bucket has",
        "acknowledgements that are young",
    ] {
        assert!(mirror.iter().any(|what| what.contains(words)), "{words}: {said:?}");
    }
    let found: Vec<_> = said.of("replica").into_iter().map(|(_, what)| what).collect();
    for words in ["ghost has the digest", "ahead: it has read up to 1000"] {
        assert!(found.iter().any(|what| what.contains(words)), "{words}: {said:?}");
    }
    said.only(&["mirror", "replica"]);
}

#[tokio::test]
async fn an_older_log_and_a_rewritten_one_are_found_by_what_was_kept() {
    let mut case = Case::new().await;
    let known = case.file("kept.json");
    let keep = ["--known", known.to_str().unwrap()];
    case.nats.stop();
    let older = case.nats.backup();
    case.nats.start_again().await;
    for n in 0..4 {
        case.replica.post_until_taken(&format!("later {n}")).await;
    }
    eventually("it is in the log", || async { case.head().await >= 16 }).await;
    case.signed().await;
    case.verify(&keep).await.passes();
    let kept = fs::read(&known).unwrap();

    // Everything as it was, checkpoints and all: only the auditor knows better.
    case.replica.terminate().await;
    case.nats.stop();
    case.nats.restore(&older);
    case.nats.start_again().await;
    let said = case.verify(&keep).await;
    said.finds("known", Some(case.head().await), "the tail is missing: what this auditor kept");
    assert_eq!(fs::read(&known).unwrap(), kept, "it is kept until the log is as it was");

    // Rewritten, and signed anew by somebody else.
    let messages = case.messages().await;
    let context = case.context().await;
    context.delete_stream(LOG_STREAM).await.unwrap();
    let _ = case.nats.log().await;
    for message in &messages {
        case.publish_like(message, |message| {
            let body = String::from_utf8(message.body.to_vec()).unwrap();
            message.body = body.replace("number 1", "number 9").into();
        })
        .await;
    }
    let thief = SecretKey::new("example.com/tidings".parse().unwrap(), &[9; 32]);
    let mut tree = tidings::log::merkle::Frontier::default();
    tree.extend(case.messages().await.iter().map(RawMessage::leaf));
    case.sign(&[thief], tree.size(), tree.root()).await;
    let said = case.verify(&keep).await;
    said.finds("known", None, "the one verified before had");
    let found = said.of("checkpoint");
    assert!(found.iter().any(|(_, what)| what.contains("of another log, with the epoch")), "{said:?}");
    assert!(found.iter().any(|(_, what)| what.contains("signed by none of the keys")), "{said:?}");
    assert!(said.of("guard").len() >= 3, "{said:?}");
}

#[tokio::test]
async fn a_verification_without_a_log_or_with_wrong_keys_says_what_is_the_matter() {
    let case = Case::new().await;
    for (options, code, words) in [
        (&["--key", "nosuchfile"][..], 3, "neither a public key nor a file"),
        (&["--known", "/dev/null"], 3, "is not what `audit verify` keeps"),
        (&["--format", "yaml"], 2, "--format"),
    ] {
        let output = case.replica.tidings(&[&["audit", "verify"], options].concat()).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
    let unreachable = ["audit", "verify", "--nats", "127.0.0.1:1"];
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings")).args(unreachable).output().await;
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("127.0.0.1:1"), "{stderr}");
    let said = case.verify(&[]).await;
    assert!(!said.stderr.contains("no --key was given"), "{said:?}");
    let output = case.replica.tidings(&["audit", "verify"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("no --key was given"));
    assert!(case.replica.request(Method::GET, "/active").send().await.is_ok());
}
