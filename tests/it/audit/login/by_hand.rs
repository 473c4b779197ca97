//! The log, its checkpoints and the buckets with nothing of ours: the protocol by hand, and tools that everybody has.

use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use tidings::log::names::{ACTIVE_BUCKET, CHECKPOINT_STREAM, LOG_STREAM, bucket_stream};
use tidings::log::time::{parse_rfc3339, rfc3339};

use crate::support::checkpoints::signed;
use crate::support::shipped;
use crate::support::users::World;
use crate::support::wire::{Delivered, Wire, decoded, read_headers};

/// What a message of the log says, read by hand.
#[derive(Clone, Debug, PartialEq)]
struct Fact {
    sequence: u64,
    subject: String,
    time: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Fact {
    fn new(
        sequence: u64,
        subject: &str,
        time_ns: i64,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Self {
        let mut headers = headers;
        // What a direct get adds to say where it stands.
        let added = ["Stream", "Subject", "Sequence", "Time-Stamp", "Num-Pending", "Last-Sequence"];
        headers.retain(|(name, _)| !name.strip_prefix("Nats-").is_some_and(|name| added.contains(&name)));
        headers.sort();
        Self { sequence, subject: subject.to_owned(), time: rfc3339(time_ns), headers, body }
    }

    /// The answer to `STREAM.MSG.GET`.
    fn got(answer: &Value) -> Self {
        let message = &answer["message"];
        let head = String::from_utf8(decoded(&message["hdrs"])).unwrap();
        let time_ns = parse_rfc3339(message["time"].as_str().unwrap()).unwrap();
        let subject = message["subject"].as_str().unwrap();
        let headers = read_headers(&head).1;
        Self::new(message["seq"].as_u64().unwrap(), subject, time_ns, headers, decoded(&message["data"]))
    }

    /// A message of a batch of direct gets.
    fn direct(message: &Delivered) -> Self {
        let header = |name| message.header(name).unwrap();
        let time_ns = parse_rfc3339(header("Nats-Time-Stamp")).unwrap();
        let sequence = header("Nats-Sequence").parse().unwrap();
        Self::new(sequence, header("Nats-Subject"), time_ns, message.headers.clone(), message.body.clone())
    }

    /// A delivery of a consumer: `$JS.ACK.{stream}.{consumer}.{delivered}.{sequence}.{its sequence}.{time}.{pending}`.
    fn delivered(message: &Delivered) -> Self {
        let place: Vec<_> = message.reply.split('.').collect();
        let (sequence, time_ns) = (place[5].parse().unwrap(), place[7].parse().unwrap());
        Self::new(sequence, &message.subject, time_ns, message.headers.clone(), message.body.clone())
    }

    /// As a CloudEvent, put together from its headers as the NATS binding says.
    fn cloud_event(&self) -> Value {
        let mut event = Map::new();
        for (name, value) in &self.headers {
            if let Some(name) = name.strip_prefix("ce-") {
                let value = percent_encoding::percent_decode_str(value).decode_utf8().unwrap();
                event.insert(name.to_owned(), value.into());
            }
        }
        event.insert("data".to_owned(), serde_json::from_slice(&self.body).unwrap());
        event.insert("sequence".to_owned(), format!("{:020}", self.sequence).into());
        event.insert("recordedtime".to_owned(), self.time.clone().into());
        event.into()
    }
}

async fn by_single_gets(auditor: &mut Wire) -> Vec<Fact> {
    let info = auditor.answer(&format!("$JS.API.STREAM.INFO.{LOG_STREAM}"), json!({})).await;
    let mut facts = Vec::new();
    for sequence in 1..=info["state"]["last_seq"].as_u64().unwrap() {
        let subject = format!("$JS.API.STREAM.MSG.GET.{LOG_STREAM}");
        facts.push(Fact::got(&auditor.answer(&subject, json!({"seq": sequence})).await));
    }
    facts
}

/// `nats req '$JS.API.DIRECT.GET.BROADCASTS' '{"seq":1,"batch":1000}' --replies=0`
async fn by_a_batch(auditor: &mut Wire) -> Vec<Fact> {
    let subject = format!("$JS.API.DIRECT.GET.{LOG_STREAM}");
    let ended = |_, message: &Delivered| message.status.starts_with("204");
    let mut messages = auditor.ask(&subject, &json!({"seq": 1, "batch": 1_000}), ended).await;
    assert_eq!(messages.pop().unwrap().header("Nats-Num-Pending"), Some("0"), "that was all");
    messages.iter().map(Fact::direct).collect()
}

/// As `nats stream view` does it, with a login that may create a consumer.
async fn by_a_consumer(reader: &mut Wire) -> Vec<Fact> {
    let config = json!({"ack_policy": "none", "deliver_policy": "all", "mem_storage": true});
    let create = json!({"stream_name": LOG_STREAM, "config": config});
    let made = reader.answer(&format!("$JS.API.CONSUMER.CREATE.{LOG_STREAM}"), create).await;
    let pending = usize::try_from(made["num_pending"].as_u64().unwrap()).unwrap();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{LOG_STREAM}.{}", made["name"].as_str().unwrap());
    let messages = reader.ask(&next, &json!({"batch": pending}), |count, _| count == pending).await;
    messages.iter().map(Fact::delivered).collect()
}

#[tokio::test]
async fn the_log_by_hand_is_the_log_that_a_replay_prints() {
    let world = World::new().await;
    world.replica.clear().await;
    let mut auditor = world.auditor().await;
    let facts = by_single_gets(&mut auditor).await;
    assert_eq!(facts.len(), 10);
    assert_eq!(by_a_batch(&mut auditor).await, facts);
    let mut reader = Wire::connect(&world.nats, "tidings", "sgnidit").await;
    assert_eq!(by_a_consumer(&mut reader).await, facts);

    let replayed = world.run(&["audit", "replay"]).await.stdout;
    let replayed: Vec<Value> = String::from_utf8(replayed)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(facts.iter().map(Fact::cloud_event).collect::<Vec<_>>(), replayed);
}

#[tokio::test]
async fn the_buckets_are_read_by_hand() {
    let world = World::new().await;
    let mut auditor = world.auditor().await;
    let bucket = bucket_stream(ACTIVE_BUCKET);
    let subject = format!("$JS.API.DIRECT.GET.{bucket}.$KV.{ACTIVE_BUCKET}.creator");
    let active = auditor.ask(&subject, &Value::Null, |_, _| true).await.remove(0).json();
    let of_log = by_single_gets(&mut auditor).await;
    let created = of_log.iter().rev().find(|fact| fact.subject.ends_with(".lifecycle")).unwrap();
    let data: Value = serde_json::from_slice(&created.body).unwrap();
    assert_eq!((&active["id"], &active["message"]), (&data["id"], &data["message"]));
    assert_eq!(active["sequence"], created.sequence);
}

/// The script of the page for auditors, as it stands there.
fn script(begins: &str) -> String {
    let page = shipped("nats/README.md");
    let blocks = page.split("```").skip(1).step_by(2);
    let block = blocks.map(|block| block.split_once('\n').unwrap().1).find(|block| block.starts_with(begins));
    block.unwrap_or_else(|| panic!("no block begins with {begins}")).to_owned()
}

/// Whether a program is on this machine.
fn is_here(program: &str, arguments: &[&str]) -> bool {
    let ran = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_checkpoint_is_checked_with_tools_that_everybody_has() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let newest = signed(&world.nats).await.pop().unwrap();
    let mut auditor = world.auditor().await;
    let subject = format!("$JS.API.STREAM.MSG.GET.{CHECKPOINT_STREAM}");
    let answer = auditor.answer(&subject, json!({"seq": newest.number})).await;
    let text = String::from_utf8(decoded(&answer["message"]["data"])).unwrap();
    assert_eq!(text, newest.text);
    std::fs::write(folder.path().join("checkpoint.pub"), format!("{}\n", world.key.public())).unwrap();
    let size = newest.checkpoint.size;
    for (text, holds) in [(text.clone(), true), (text.replace(&format!("\n{size}\n"), "\n1000000\n"), false)]
    {
        std::fs::write(folder.path().join("checkpoint.txt"), text).unwrap();
        let mut scripts = vec![];
        if is_here("openssl", &["version"]) && is_here("bash", &["--version"]) {
            scripts.push(("bash", script("# With openssl")));
        }
        if is_here("python3", &["-c", "import cryptography"]) {
            scripts.push(("python3", script("# With Python")));
        }
        for (program, script) in scripts {
            let ran =
                Command::new(program).args(["-c", &script]).current_dir(folder.path()).output().unwrap();
            assert_eq!(ran.status.success(), holds, "{program}: {ran:?}");
        }
    }
}
