//! What the smallest steps cost on their own: `make bench-micro`, `ARGS=evolve` for some of them.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on fails")]

use std::hint::black_box;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use tempfile::TempDir;
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::{
    Acknowledged, Acknowledgement, Broadcast, BroadcastId, Channel, Digest, Event, Fingerprint, Recorded,
    Severity, State, Timestamp, UserId, evolve,
};
use tidings::log::Epoch;
use tidings::log::envelope::{decode, encode};
use tidings::log::names::Subject;
use tidings::log::reader::LogEntry;
use tidings::log::{NewEvent, RawMessage};
use tidings::projection::decoded_entry::DecodedEntry;
use tidings::projection::materializer::Materializer;
use tidings::projection::store::Store;
use tidings::push::heartbeat::{Heartbeat, Present};
use tidings::push::local::{ChannelPresence, LocalPresence, PresentUsers};
use tidings::push::peers::Peers;
use tidings::push::wire::{Place, ServerMessage};

/// Acknowledgements an event: alone, and as a storm brings them.
const TOGETHER: [usize; 2] = [1, 500];

/// Events that are applied in one batch.
const BATCH: usize = 256;

fn main() {
    divan::main();
}

fn now() -> Timestamp {
    SystemClock.now()
}

fn broadcast() -> Broadcast {
    Broadcast {
        id: BroadcastId(SystemClock.new_id()),
        message: "x".repeat(120).try_into().expect("a message"),
        severity: Severity::Info,
        created_by: "ann".parse().expect("a user"),
        created_at: now(),
    }
}

/// The so many-th acknowledgement event of a broadcast; no user is in two of them.
fn acknowledged(broadcast: BroadcastId, event: usize, together: usize) -> Event {
    let users = event * together..(event + 1) * together;
    let one = |user| Acknowledgement { user: format!("user-{user}").parse().expect("a user"), at: now() };
    Event::Acknowledged(Acknowledged {
        broadcast_id: broadcast,
        acknowledgements: users.map(one).collect(),
        salt: Some(SystemClock.new_salt()),
    })
}

fn recorded(sequence: u64, event: Event) -> Recorded {
    let channel = "creator".parse().expect("a channel");
    Recorded {
        sequence,
        recorded_at: now(),
        channel,
        id: SystemClock.new_id(),
        late: false,
        relayed: false,
        sent_to: None,
        event,
    }
}

/// A state with one broadcast, which is active.
fn state() -> (State, BroadcastId) {
    let (mut state, broadcast) = (State::default(), broadcast());
    let id = broadcast.id;
    evolve(&mut state, &recorded(1, Event::Created(broadcast)));
    (state, id)
}

/// As it stands in the log.
fn stored(sequence: u64, event: Event) -> RawMessage {
    let channel = "creator".parse().expect("a channel");
    let about = event.broadcast_id();
    let (subject, id) = match &event {
        Event::Acknowledged(_) => (Subject::Acks(channel, about), SystemClock.new_id()),
        Event::Created(_) | Event::Cleared(_) => (Subject::Lifecycle(channel), about.0),
    };
    let source = "/tidings/bench".to_owned();
    let new =
        NewEvent { subject, id, event, time: now(), source, expected: None, trace: None, sent_to: None };
    let (headers, body) = encode(&new).expect("an event");
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    RawMessage { sequence, time_ns: 0, subject: new.subject.to_string(), headers, body }
}

#[divan::bench]
fn evolve_a_broadcast(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(|| (state().0, recorded(2, Event::Created(broadcast()))))
        .bench_refs(|(state, created)| evolve(state, created));
}

#[divan::bench(args = TOGETHER)]
fn evolve_acknowledgements(bencher: Bencher<'_, '_>, together: usize) {
    let prepared = || {
        let (state, broadcast) = state();
        (state, recorded(2, acknowledged(broadcast, 0, together)))
    };
    bencher
        .counter(ItemsCount::new(together))
        .with_inputs(prepared)
        .bench_refs(|(state, acknowledged)| evolve(state, acknowledged));
}

#[divan::bench]
fn encode_the_message_of_a_broadcast(bencher: Bencher<'_, '_>) {
    let broadcast = broadcast();
    bencher.bench(|| {
        let message = ServerMessage::NewBroadcast {
            broadcast: black_box(&broadcast).into(),
            place: Place::of(Some(Epoch::from_bits(7)), 7),
        };
        message.frame()
    });
}

#[divan::bench(args = TOGETHER)]
fn decode_acknowledgements_of_the_log(bencher: Bencher<'_, '_>, together: usize) {
    let message = stored(2, acknowledged(state().1, 0, together));
    bencher.counter(ItemsCount::new(together)).bench(|| decode(black_box(&message)));
}

/// A replica's projection, at its start.
struct Projecting {
    store: Store,
    materializer: Materializer,
    _folder: TempDir,
}

impl Projecting {
    fn begin() -> Self {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("a folder");
        let store = Store::open(folder.path(), Duration::from_mins(1)).expect("a store");
        Self { store, materializer: Materializer::default(), _folder: folder }
    }
}

/// From what was read to what is in the store, with the leaves of the Merkle tree.
#[divan::bench(args = TOGETHER, sample_count = 10, sample_size = 1)]
fn apply_a_batch(bencher: Bencher<'_, '_>, together: usize) {
    let first = broadcast();
    let id = first.id;
    let mut entries = vec![LogEntry::Message(stored(1, Event::Created(first)))];
    for event in 1..BATCH {
        let sequence = u64::try_from(event).expect("a sequence") + 1;
        entries.push(LogEntry::Message(stored(sequence, acknowledged(id, event, together))));
    }
    bencher.counter(ItemsCount::new(BATCH)).with_inputs(Projecting::begin).bench_refs(|projecting| {
        let Projecting { store, materializer, .. } = projecting;
        let entries = entries.iter().map(DecodedEntry::of).collect();
        let applied = materializer.apply_and_write(store, entries, |_, _| {});
        applied.expect("it is applied and written");
    });
}

/// Users of each replica of a large cluster, and how many replicas that has.
const USERS: usize = 20_000;
const REPLICAS: usize = 100;

/// Heartbeats that all replicas of a large cluster together send in a second at most.
const HEARTBEATS_A_SECOND: usize = 50;

fn audience(replica: usize) -> ChannelPresence {
    let hash = |user: usize| {
        let user: UserId = format!("user-{user}").parse().expect("a user");
        let Fingerprint { high, low } = user.fingerprint();
        high ^ low
    };
    let users = replica * USERS..(replica + 1) * USERS;
    ChannelPresence {
        connections: USERS as u64,
        users: USERS as u64,
        who: PresentUsers::Sketch(users.map(hash).collect()),
    }
}

fn heartbeat(replica: usize) -> Vec<u8> {
    let channel: Channel = "creator".parse().expect("a channel");
    let heartbeat = Heartbeat {
        replica: format!("replica-{replica}"),
        instance: SystemClock.new_id(),
        started_at: now(),
        at: now(),
        mode: "cluster".to_owned(),
        serving: true,
        epoch: None,
        sequence: 0,
        digest: Digest::default(),
        milestone: (0, Digest::default()),
        warnings: Vec::new(),
        channels: [(channel, Present::of(&audience(replica)))].into(),
    };
    serde_json::to_vec(&heartbeat).expect("it encodes")
}

/// What 100 replicas of 20,000 users cost one of them in a second: 10 ms would be 1 % of a core.
#[divan::bench]
fn presence_of_a_hundred_replicas_for_a_second(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _entered = runtime.enter();
    let channel: Channel = "creator".parse().expect("a channel");
    let local: LocalPresence = [(channel.clone(), audience(0))].into();
    let mut peers = Peers::new([channel.clone()].into());
    let heartbeats: Vec<_> = (1..REPLICAS).map(heartbeat).collect();
    let hear = |peers: &mut Peers, heartbeat: &[u8]| {
        let heartbeat: Heartbeat = serde_json::from_slice(heartbeat).expect("it is one");
        peers.hear(&heartbeat, tokio::time::Instant::now());
    };
    for heartbeat in &heartbeats {
        hear(&mut peers, heartbeat);
    }
    let counts = peers.sum(&local, false)[&channel];
    let users = counts.with_local(counts.here.0, counts.here.1).users;
    assert!(users.abs_diff((REPLICAS * USERS) as u64) < (REPLICAS * USERS) as u64 / 20, "{users} users");
    bencher.bench_local(|| {
        for heartbeat in heartbeats.iter().take(HEARTBEATS_A_SECOND) {
            hear(&mut peers, heartbeat);
        }
        black_box(peers.sum(&local, false))
    });
}
