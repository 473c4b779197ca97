//! Tests of the loop: every round serves sockets and timers, and what is told to many goes out in steps.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::clock::SystemClock;
use crate::critical_tasks::CriticalTasks;
use crate::domain::{Acknowledgement, BroadcastId, Change, EndReason, Timestamp};
use crate::log::memory::MemoryLog;
use crate::metrics::Metrics;
use crate::projection::{self, Changed, Projection};
use crate::push::admission::Admission;
use crate::push::client::{Limits, Permits};
use crate::push::session;
use crate::push::tick::ShardClock;
use crate::push::wire::Frame;
use crate::submit::outbox::{Outbox, OutboxLimits};
use crate::submit::{Acks, Submit};
use crate::warnings::Warnings;

/// A text of a client, masked with zeros.
const PING: &[u8] = b"\x81\x84\0\0\0\0ping";
const PONG: &[u8] = b"\x81\x04pong";
/// The heartbeat of the server.
const HEARTBEAT: &[u8] = b"\x81\x04ping\x89\x00";

const HEARTBEAT_AFTER: Duration = Duration::from_millis(1);

const LIMITS: Limits = Limits {
    session: session::Limits {
        heartbeat: HEARTBEAT_AFTER,
        liveness: Duration::from_mins(10),
        messages_per_second: 20,
        message_burst: 40,
    },
    message_bytes: 4_096,
    message_time: Duration::from_secs(10),
    unsent_bytes: 256 * 1024,
    unsent_time: Duration::from_secs(10),
};

fn channel() -> Channel {
    "creator".parse().unwrap()
}

fn connecting(user: &str) -> Connecting {
    Connecting { channel: channel(), user: user.parse().unwrap(), staff: false, heartbeat_seconds: 30 }
}

/// A shard over an empty log.
struct World {
    shard: Shard,
    _directory: tempfile::TempDir,
    _supervisor: projection::Supervisor,
}

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let options = projection::Options {
        directory: directory.path().join("projection"),
        open_timeout: Duration::from_secs(20),
        metrics: Metrics::default(),
    };
    let (_, generation) = watch::channel(0);
    let log = Arc::new(MemoryLog::default());
    let (projection, supervisor) = Projection::start(log.clone(), options, generation, vec![]);
    let outbox =
        Outbox::open(&directory.path().join("outbox"), OutboxLimits { entries: 10, bytes: 10_000 }).unwrap();
    let options = submit::SubmitOptions {
        replica: "test".to_owned(),
        channels: vec![channel()],
        append_timeout: Duration::from_secs(3),
        accept_on_outage: false,
        metrics: Metrics::default(),
        warnings: Warnings::default(),
        tasks: CriticalTasks::default(),
    };
    let submit = Submit::start(log, projection.clone(), Arc::new(SystemClock), outbox, options);
    let ctx = Context {
        projection,
        metrics: Metrics::default(),
        acks: Acks::start(submit, None),
        tokens: Arc::new(()),
        limits: LIMITS,
        clock: ShardClock::start(),
    };
    let channels = [channel(), "alerts".parse().unwrap()];
    let local = Arc::new(Local::new(&channels, 1, 10_000));
    let (_, counts) = watch::channel(BTreeMap::new());
    let (_, modes) = watch::channel(submit::mode::Mode::Cluster);
    let shard = Shard::new((0, 1), &channels, ctx, local, counts, modes).unwrap();
    World { shard, _directory: directory, _supervisor: supervisor }
}

/// Connects a WebSocket after its handshake; returns the client's end.
fn adopt(shard: &mut Shard, inbox: &mpsc::WeakSender<Request>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let who = connecting("ann");
    let of_user = Admission::new(None).enter(&who.user).unwrap();
    let upgraded = Upgraded {
        stream: mio::net::TcpStream::from_std(accepted),
        read: bytes::Bytes::new(),
        lasts: None,
        permits: Permits { of_user, of_edge: Arc::new(()) },
    };
    shard.adopt(&who, upgraded, inbox);
    client
}

fn has(heard: &[u8], what: &[u8]) -> bool {
    heard.windows(what.len()).any(|part| part == what)
}

#[tokio::test]
async fn sockets_and_timers_are_served_while_requests_never_end() {
    const REQUESTS: usize = 500_000;
    let mut world = world();
    let (inbox, requests) = mpsc::channel(REQUESTS);
    let mut client = adopt(&mut world.shard, &inbox.downgrade());
    client.write_all(PING).unwrap();
    // Requests that are always ready, and ask for nothing.
    while inbox.try_send(Request::SendState(u64::MAX)).is_ok() {}
    std::thread::sleep(2 * HEARTBEAT_AFTER);
    let (_announce, announcements) = mpsc::channel(1);
    let shard = tokio::spawn(world.shard.run(inbox.downgrade(), requests, announcements));
    let mut heard = Vec::new();
    while !(has(&heard, PONG) && has(&heard, HEARTBEAT)) {
        assert!(inbox.capacity() < REQUESTS, "it is served while requests wait, and not after all of them");
        tokio::task::yield_now().await;
        let mut buffer = [0; 4_096];
        if let Ok(read) = client.read(&mut buffer) {
            heard.extend_from_slice(&buffer[..read]);
        }
    }
    shard.abort();
}

/// Event streams of users `0`, `1`, …, as many as that.
fn attach(shard: &mut Shard, users: std::ops::Range<usize>) -> Vec<Attached> {
    users.map(|n| shard.attach(&connecting(&n.to_string())).unwrap()).collect()
}

/// The types of what came since the last time.
fn types(attached: &mut Attached) -> Vec<String> {
    let said = std::iter::from_fn(|| attached.outgoing.try_recv().ok());
    let kind = |frame: Frame| {
        let message: serde_json::Value = serde_json::from_slice(frame.json()).unwrap();
        message["type"].as_str().unwrap().to_owned()
    };
    said.map(kind).collect()
}

#[tokio::test]
async fn a_resync_goes_out_in_steps_and_announcements_wait_for_its_end() {
    let mut world = world();
    let shard = &mut world.shard;
    let mut attached = attach(shard, 0..600);
    for one in &mut attached {
        types(one);
    }
    shard.channels[0].resync(None, 7);
    let mut told = Vec::new();
    while shard.is_sending() {
        shard.fanout_step(256);
        let heard = attached.iter_mut().filter_map(|one| Some(types(one)).filter(|types| !types.is_empty()));
        let heard: Vec<_> = heard.collect();
        assert!(heard.iter().all(|types| types[..] == ["resync", "active_broadcast", "broadcast_cleared"]));
        told.push(heard.len());
        if told.len() == 1 {
            attached.extend(attach(shard, 600..601));
            assert_eq!(types(&mut attached[600])[0], "connected");
        }
    }
    assert_eq!(told, [256, 256, 88], "who came meanwhile has the state already");
}

#[tokio::test]
async fn notices_of_acknowledgements_go_out_in_steps() {
    let mut world = world();
    let shard = &mut world.shard;
    let mut attached = attach(shard, 0..600);
    for one in &mut attached {
        types(one);
    }
    let at = Timestamp::from_unix_ms(0);
    let new = (0..600).map(|n| Acknowledgement { user: n.to_string().parse().unwrap(), at }).collect();
    let id = BroadcastId(uuid::Uuid::from_u128(7));
    let change = Change::Acknowledged { id, new };
    let changed = Changed { sequence: 7, channel: channel(), change, activated: None, trace: None };
    shard.announce(Announcement::Changed(Arc::new(changed)));
    let mut told = Vec::new();
    while shard.is_sending() {
        shard.fanout_step(256);
        told.push(attached.iter_mut().filter_map(|one| types(one).pop()).count());
    }
    assert_eq!(told, [256, 256, 88]);
}

fn changed(channel: &str, sequence: u64, change: Change) -> Announcement {
    let channel = channel.parse().unwrap();
    Announcement::Changed(Arc::new(Changed { sequence, channel, change, activated: None, trace: None }))
}

#[tokio::test]
async fn a_burst_on_one_channel_does_not_delay_another_one() {
    let mut world = world();
    let shard = &mut world.shard;
    let mut busy = attach(shard, 0..1_000);
    let mut quiet =
        shard.attach(&Connecting { channel: "alerts".parse().unwrap(), ..connecting("eve") }).unwrap();
    for one in busy.iter_mut().chain([&mut quiet]) {
        types(one);
    }
    let id = BroadcastId(uuid::Uuid::from_u128(7));
    let acknowledged = || {
        let at = Timestamp::from_unix_ms(0);
        let new = (0..1_000).map(|n| Acknowledgement { user: n.to_string().parse().unwrap(), at }).collect();
        Change::Acknowledged { id, new }
    };
    for sequence in 1..=10 {
        shard.announce(changed("creator", sequence, acknowledged()));
    }
    shard.announce(changed("alerts", 11, Change::Ended { id, reason: EndReason::Cleared }));
    shard.fanout_step(256);
    assert!(
        shard.channels[0].is_backlogged() && !shard.is_full(),
        "the burst waits, the projection does not"
    );
    assert_eq!(types(&mut busy[999]), [] as [&str; 0], "the burst is still on its way");
    assert_eq!(types(&mut quiet), ["broadcast_cleared"]);

    while shard.is_sending() {
        shard.fanout_step(256);
    }
    assert_eq!(types(&mut busy[999]), ["broadcast_acknowledged"; 10], "all of the burst arrives, in order");
}

#[tokio::test]
async fn who_was_let_go_may_come_back_when_it_goes_on_and_never_when_the_replica_stops() {
    let mut world = world();
    let shard = &mut world.shard;
    let (inbox, _requests) = mpsc::channel(1);
    let inbox = inbox.downgrade();
    let mut attached = attach(shard, 0..2);
    shard.answer(Request::Release(Duration::ZERO), &inbox);
    assert!(matches!(shard.attach(&connecting("eve")), Err(Close::Restart { .. })));
    shard.drain_some();
    for one in &mut attached {
        assert!(matches!(one.close.try_recv(), Ok(Close::Restart { .. })));
    }
    shard.answer(Request::Resume, &inbox);
    assert!(shard.attach(&connecting("eve")).is_ok());

    let (done, _drained) = oneshot::channel();
    shard.answer(Request::Drain(Duration::ZERO, done), &inbox);
    shard.answer(Request::Resume, &inbox);
    assert!(shard.attach(&connecting("bob")).is_err(), "it stops");
}
