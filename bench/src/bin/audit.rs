//! How long `tidings audit verify` takes over a long log, and how much memory; and what the Merkle tree costs a replica that
//! reads that log: `make bench-audit`, `EVENTS=1000000 CHECKPOINTS=525600` by default.
//!
//! It fills a nats-server of its own with events as replicas write them, a twentieth of them broadcasts and the others
//! acknowledgements of one to three users, then verifies it by the release binary, as an auditor does: unsigned first, and then
//! with as many checkpoints as a replica signs in a year, one a minute. The difference is what the checkpoints cost.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on fails")]

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use futures_util::{StreamExt as _, stream};
use tidings::audit::source::Source;
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::{Acknowledged, Acknowledgement, Broadcast, BroadcastId, Event, Severity, State};
use tidings::log::NewEvent;
use tidings::log::envelope::encode;
use tidings::log::jetstream::JetStreamLog;
use tidings::log::merkle::Frontier;
use tidings::log::names::{CHECKPOINT_SUBJECT, Subject};
use tidings::log::provision::{Provision, context};
use tidings::log::reader::{LogEntry, MAX_BATCH};
use tidings::notary::checkpoint::Checkpoint;
use tidings::notary::note::{Note, PublicKey, SecretKey};
use tidings::projection::cursor::CursorRecord;
use tidings::projection::decoded_entry::DecodedEntry;
use tidings::projection::materializer::Materializer;
use tidings::projection::store::Store;
use tidings::projection::tree::Tree;
use tidings_bench::cores::Cores;
use tidings_bench::nats::Nats;
use tidings_bench::process::{folder, tidings};

/// Publishes that wait for their acknowledgement at once.
const IN_FLIGHT: usize = 4_096;

/// Events that are folded to see what the tree costs: they are all in memory.
const FOLDED: u64 = 200_000;

/// One broadcast and this many acknowledgement events after it.
const ROUND: u64 = 20;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench());
}

async fn bench() {
    let events: u64 = env::var("EVENTS").map_or(1_000_000, |n| n.parse().expect("EVENTS is a number"));
    let cores = Cores::share_out(false).expect("the cores of this machine");
    let nats = Nats::start_lazy(&cores).expect("a nats-server");
    let client = async_nats::connect(&nats.url).await.expect("nats-server answers");
    let provision = Provision {
        replicas: 1,
        log_max_bytes: 4 << 30,
        acks_max_age: Duration::from_hours(1),
        acks_max_bytes: 64 << 20,
    };
    let context = context(&client);
    for name in ["BROADCASTS", "BROADCAST_CHECKPOINTS"] {
        provision.stream(&context, name).await.expect("the stream");
    }
    let begun = Instant::now();
    fill(&context, events).await;
    println!("{events} events written in {:.1} s", begun.elapsed().as_secs_f64());
    for round in 1..=3 {
        verify(&nats.url, round, None);
    }
    let checkpoints: u64 =
        env::var("CHECKPOINTS").map_or(525_600, |n| n.parse().expect("CHECKPOINTS is a number"));
    let begun = Instant::now();
    let key = sign(&context, &client, checkpoints).await;
    println!("{checkpoints} checkpoints written in {:.1} s", begun.elapsed().as_secs_f64());
    for round in 1..=3 {
        verify(&nats.url, round, Some(&key));
    }
    tree_cost(client).await;
}

/// Events as replicas write them; the lifecycle ones say under which guard they were appended.
fn event(number: u64, active: &mut BroadcastId, guard: &mut u64) -> (NewEvent, Option<u64>) {
    let (id, now) = (SystemClock.new_id(), SystemClock.now());
    let channel = "creator".parse().expect("a channel");
    let (subject, event, guarded) = if number % ROUND == 1 {
        *active = BroadcastId(id);
        let message = format!("number {number}").try_into().expect("a message");
        let broadcast = Broadcast {
            id: *active,
            message,
            severity: Severity::Info,
            created_by: "ann".parse().expect("a user"),
            created_at: now,
        };
        let before = std::mem::replace(guard, number);
        (Subject::Lifecycle(channel), Event::Created(broadcast), Some(before))
    } else {
        let users = (0..=number % 3).map(|n| Acknowledgement {
            user: format!("user-{number}-{n}").parse().expect("a user"),
            at: now,
        });
        let acknowledged = Acknowledged {
            broadcast_id: *active,
            acknowledgements: users.collect(),
            salt: Some(SystemClock.new_salt()),
        };
        (Subject::Acks(channel, *active), Event::Acknowledged(acknowledged), None)
    };
    let new = NewEvent {
        subject,
        id,
        event,
        time: now,
        source: "/tidings/bench".to_owned(),
        expected: None,
        trace: None,
        sent_to: None,
    };
    (new, guarded)
}

async fn fill(context: &jetstream::Context, events: u64) {
    let (mut active, mut guard) = (BroadcastId(SystemClock.new_id()), 0);
    let published = (1..=events).map(|number| {
        let (new, guarded) = event(number, &mut active, &mut guard);
        let (headers, body) = encode(&new).expect("an event");
        let mut message = PublishMessage::build().payload(body);
        for (name, value) in headers {
            message = message.header(name, value.as_str());
        }
        if let Some(guarded) = guarded {
            message = message.expected_last_subject_sequence(guarded);
        }
        (new.subject.to_string(), message)
    });
    publish(context, published).await;
}

/// Signs the log so many times, at sizes that are spread evenly over it. Returns the key that an auditor has.
async fn sign(context: &jetstream::Context, client: &async_nats::Client, checkpoints: u64) -> PublicKey {
    let key = SecretKey::new("example.com/tidings".parse().expect("a name"), &[1; 32]);
    let source = Source::Log(Arc::new(JetStreamLog::read_only(client.clone())));
    let head = source.head().await.expect("the log");
    let mut roots = Vec::new();
    let (mut tree, mut signed) = (Frontier::default(), 0);
    let read = |entry: LogEntry| {
        tree.push(entry.leaf());
        let due = tree.size() * checkpoints / head.last_sequence;
        if due > signed {
            roots.push((tree.size(), tree.root(), due - signed));
            signed = due;
        }
        Ok(())
    };
    source.each_entry(1, head.last_sequence, read).await.expect("the log is read");
    let notes = roots.into_iter().flat_map(|(size, root, times)| {
        let checkpoint = Checkpoint { log: key.public().name().clone(), epoch: head.epoch, size, root };
        let note = Note::sign(checkpoint.to_string(), std::slice::from_ref(&key)).to_string();
        (0..times).map(move |_| {
            let message = PublishMessage::build().payload(note.clone().into());
            (CHECKPOINT_SUBJECT.to_owned(), message)
        })
    });
    publish(context, notes).await;
    key.public().clone()
}

async fn publish(context: &jetstream::Context, messages: impl Iterator<Item = (String, PublishMessage)>) {
    // Sent in order, and acknowledged whenever that comes.
    let sent = stream::iter(messages).then(|(subject, message)| async move {
        context.send_publish(subject, message).await.expect("it is sent")
    });
    let acknowledged = sent.map(|sent| async move { sent.await.expect("it is taken") });
    acknowledged.buffered(IN_FLIGHT).for_each(|_| async {}).await;
}

/// Folds the start of the log as a replica does, three times, and prints how much of that is the tree.
async fn tree_cost(client: async_nats::Client) {
    let source = Source::Log(Arc::new(JetStreamLog::read_only(client)));
    let head = source.head().await.expect("the log");
    let mut entries = Vec::new();
    let read = |entry| {
        entries.push(entry);
        Ok(())
    };
    source.each_entry(1, head.last_sequence.min(FOLDED), read).await.expect("the log is read");
    let events = u32::try_from(entries.len()).expect("they are in memory");
    for round in 1..=3 {
        let begun = Instant::now();
        let mut tree = Tree::default();
        for entry in &entries {
            tree.push(entry.leaf());
        }
        let tree_alone = begun.elapsed();
        let folder = folder().expect("a folder");
        let store = Store::open(folder.path(), Duration::from_mins(1)).expect("a store");
        let mut materializer = Materializer::new(State::default(), CursorRecord::of(head.epoch));
        let begun = Instant::now();
        for batch in entries.chunks(MAX_BATCH) {
            let entries = batch.iter().map(DecodedEntry::of).collect();
            let applied = materializer.apply_and_write(&store, entries, |_, _| {});
            applied.expect("it is applied and written");
        }
        let whole = begun.elapsed();
        let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(events);
        println!(
            "round {round}: folding an event takes {:.2} µs, of which the tree takes {:.2} ({:.0} %)",
            each(whole),
            each(tree_alone),
            100.0 * tree_alone.as_secs_f64() / whole.as_secs_f64()
        );
    }
}

/// Runs the command, and prints how long it took, by the clock and of the processor, and the most memory it had.
fn verify(url: &str, round: u32, key: Option<&PublicKey>) {
    let begun = Instant::now();
    let key_arguments = key.map(|key| ["--key".to_owned(), key.to_string()]);
    let mut child = Command::new(tidings().expect("the program"))
        .args(["audit", "verify", "--nats", url])
        .args(key_arguments.into_iter().flatten())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let (mut peak_kib, mut ticks) = (0, 0);
    while child.try_wait().expect("it is ours").is_none() {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        let memory = read("status").lines().find_map(|line| line.strip_prefix("VmHWM:").map(str::to_owned));
        let memory = memory.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak_kib = peak_kib.max(memory.unwrap_or(0));
        let stat = read("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
        let used = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        ticks = ticks.max(used(12) + used(13));
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begun.elapsed().as_secs_f64();
    let mut said = String::new();
    if let Some(mut out) = child.stdout.take() {
        let _ = std::io::Read::read_to_string(&mut out, &mut said);
    }
    // No replica runs here, so that there is no mirror.
    let wrong = said.lines().find(|line| line.starts_with("{\"finding\"") && !line.contains("\"mirror\""));
    assert_eq!(wrong, None, "what was written is verified");
    let last = said.lines().last().unwrap_or_default();
    // A hundred ticks a second, on every Linux that there is.
    let processor = std::time::Duration::from_millis(ticks * 10).as_secs_f64();
    println!(
        "round {round}: {took:.1} s, {processor:.1} s of the processor, {} MiB at most: {last}",
        peak_kib / 1024
    );
}
