//! A world: replicas over one network, people who use them, trouble, and the time after it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings::clock::Clock as _;
use tidings::domain::{BroadcastId, Channel, Timestamp};
use tidings::log::EventLog as _;
use tidings::submit::mode::Mode;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::client::client;
use crate::clock::VirtualClock;
use crate::dice::Dice;
use crate::evidence::Evidence;
use crate::link::Link;
use crate::network::Network;
use crate::people::{PATIENCE, Tried, creator, crowd, user};
use crate::replica::{ModeLog, Replica, Spec, Store};
use crate::trace::Trace;
use crate::trouble;

/// After the last trouble everything is where it belongs within this, in virtual time.
const SETTLED_WITHIN: Duration = Duration::from_mins(3);

/// Clients are told of a change of mode at most every 5 s, and then it is the last one.
const TOLD_WITHIN: Duration = Duration::from_secs(6);

/// How far a clock is off at most.
pub const MOST_SKEW_MS: u64 = 100;

pub struct World {
    pub seed: u64,
    pub trace: Trace,
    pub channels: Vec<Channel>,
    pub network: Arc<Network>,
    /// Those of every run.
    pub modes: Mutex<Vec<ModeLog>>,
    began: Instant,
    directory: std::path::PathBuf,
    replicas: Mutex<Vec<Option<Arc<Replica>>>>,
    known: Mutex<Vec<(Channel, BroadcastId)>>,
    /// What was accepted by which replica alone.
    kept: Mutex<Vec<(usize, Channel, BroadcastId)>>,
    /// Since when the log is this one, if it is not the first.
    replaced: Mutex<Option<Instant>>,
    is_closing: AtomicBool,
    is_over: AtomicBool,
    over: Notify,
}

impl World {
    fn new(seed: u64, directory: &Path, trace: &Trace) -> Arc<Self> {
        let replicas = if Dice::of(&[seed, 1]).percent(30) { 3 } else { 2 };
        Arc::new(Self {
            seed,
            trace: trace.clone(),
            channels: ["creator", "forum"].map(|name| name.parse().unwrap()).to_vec(),
            network: Network::new(seed, replicas, trace.clone()),
            modes: Mutex::default(),
            began: Instant::now(),
            directory: directory.to_owned(),
            replicas: Mutex::new(vec![None; replicas]),
            known: Mutex::default(),
            kept: Mutex::default(),
            replaced: Mutex::default(),
            is_closing: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            over: Notify::new(),
        })
    }

    /// What a clock says that is not off.
    pub fn now(&self) -> Timestamp {
        VirtualClock::new(self.began, 0, 0).now()
    }

    pub fn replicas(&self) -> usize {
        self.replicas.lock().unwrap().len()
    }

    /// The present run of a replica, when it runs.
    pub fn replica(&self, number: usize) -> Option<Arc<Replica>> {
        self.replicas.lock().unwrap()[number].clone()
    }

    /// Nobody asks for anything new any more.
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub async fn over(&self) {
        while !self.is_over() {
            self.over.notified().await;
        }
    }

    /// Somebody was told of a broadcast, and tells others.
    pub fn heard_of(&self, replica: usize, local: bool, channel: &Channel, id: BroadcastId) {
        self.known.lock().unwrap().push((channel.clone(), id));
        if local {
            self.kept.lock().unwrap().push((replica, channel.clone(), id));
        }
    }

    /// A replica that begins knows what its earlier runs accepted alone, once it shows anything. One whose store is stale
    /// has to catch up with what left its outbox since.
    pub async fn remembers(&self, number: usize, stale: bool) {
        let Some(replica) = self.replica(number) else { return };
        let mut position = replica.projection.watch();
        tokio::select! {
            biased;
            () = replica.died() => return,
            _ = position.wait_for(|position| position.serving && (position.caught_up || !stale)) => {}
        }
        sleep(Duration::from_millis(1)).await;
        let kept = self.kept.lock().unwrap().clone();
        let lost = self.network.lost();
        for (_, channel, id) in kept.into_iter().filter(|(by, ..)| *by == number) {
            if lost.iter().any(|message| message.header("ce-id") == Some(&id.to_string())) {
                continue;
            }
            let known = replica.projection.record(channel, id).await;
            assert!(!matches!(known, Ok(None)), "replica {number} does not know {id} any more");
        }
    }

    /// The log is another one: nobody talks any more of what the old one had.
    pub fn forget(&self) {
        self.known.lock().unwrap().clear();
        self.kept.lock().unwrap().clear();
        *self.replaced.lock().unwrap() = Some(Instant::now());
    }

    /// Since when the log is this one, if it is not the first.
    pub fn replaced(&self) -> Option<Instant> {
        *self.replaced.lock().unwrap()
    }

    /// One of the last broadcasts that people talk of in a channel.
    pub fn known(&self, dice: &mut Dice, channel: &Channel) -> Option<BroadcastId> {
        let known = self.known.lock().unwrap();
        let here: Vec<_> = known.iter().rev().filter(|(of, _)| of == channel).take(4).collect();
        (!here.is_empty()).then(|| dice.pick(&here).1)
    }

    pub fn spec(&self, number: usize, run: u16) -> Spec {
        let (seed, replica) = (self.seed, number as u64);
        let mut dice = Dice::of(&[seed, 2, replica, run.into()]);
        let skew = Dice::of(&[seed, 7, replica]).within(0..2 * MOST_SKEW_MS);
        Spec {
            number,
            run,
            began: self.began,
            skew_ms: i64::try_from(skew).unwrap() - i64::try_from(MOST_SKEW_MS).unwrap(),
            channels: self.channels.clone(),
            directory: self.directory.clone(),
            mode_log: ModeLog::default(),
            accepts_alone: !Dice::of(&[seed, 9]).percent(20),
            store: *dice.pick(&[Store::Whole, Store::Whole, Store::Stale, Store::Lost]),
        }
    }

    pub fn start(&self, spec: Spec) {
        let number = spec.number;
        self.trace.note(format_args!("{number} starts, run {}", spec.run));
        self.modes.lock().unwrap().push(spec.mode_log.clone());
        let replica = Replica::start(spec, Link::new(&self.network, number));
        self.replicas.lock().unwrap()[number] = Some(replica);
    }

    /// A replica dies; it can be started with what this gives back. Also whether its store is stale then.
    pub async fn kill(&self, number: usize, dice: &mut Dice) -> Option<(Spec, bool)> {
        let replica = self.replicas.lock().unwrap()[number].take()?;
        let next = self.spec(number, replica.spec.run + 1);
        self.trace.note(format_args!("{number} dies, its store {:?}", replica.spec.store));
        // The store of one that has not caught up since its own start is as old as that found it.
        let stale = replica.spec.store == Store::Stale || !replica.projection.position().caught_up;
        replica.die(&next, dice).await;
        Some((next, stale))
    }

    /// What is not yet as it should be; nothing at the end.
    async fn unsettled(&self) -> Option<String> {
        if !self.network.is_quiet() {
            return Some("somebody is not connected, or something is under way to the log".to_owned());
        }
        let head = self.network.log.info().await.unwrap().last_sequence;
        for number in 0..self.replicas() {
            let Some(replica) = self.replica(number) else { return Some(format!("{number} does not run")) };
            let (mode, standing) = (replica.submit.modes().now(), replica.submit.outbox_stats());
            let position = replica.projection.position();
            let at_head = position.caught_up && position.sequence == head;
            if mode != Mode::Cluster || standing.entries > 0 || !at_head {
                return Some(format!("{number}: {mode:?}, {standing:?}, {position:?}, the head is {head}"));
            }
        }
        None
    }

    /// Waits until everything has been as it should be for a while.
    async fn settle(&self, long: Duration) {
        let began = Instant::now();
        let mut since = began;
        while since.elapsed() < long {
            if let Some(unsettled) = self.unsettled().await {
                assert!(began.elapsed() < SETTLED_WITHIN, "not settled in time: {unsettled}");
                since = Instant::now();
            }
            // A mode that came and went between two looks counts, too.
            since = since.max(self.last_change_of_mode());
            sleep(Duration::from_millis(50)).await;
        }
        self.trace.note(format_args!("settled"));
    }

    /// When a replica was last in another mode than before.
    fn last_change_of_mode(&self) -> Instant {
        let logs = self.modes.lock().unwrap();
        let last = |log: &ModeLog| log.lock().unwrap().last().map(|(at, _)| *at);
        logs.iter().filter_map(last).max().unwrap_or(self.began)
    }

    /// Creators whose commands are still open ask until they know.
    async fn close(&self, tried: &mut [Tried]) {
        for command in tried {
            for _ in 0..20 {
                if !command.is_open() {
                    break;
                }
                command.again(self, 0, PATIENCE).await;
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Runs the world of a seed from its beginning to its end, and gives what is known of it then.
pub async fn run(seed: u64, directory: &Path, trace: &Trace) -> Evidence {
    let world = World::new(seed, directory, trace);
    let mut dice = Dice::of(&[seed, 8]);
    (0..world.replicas()).for_each(|number| world.start(world.spec(number, 1)));
    let until = Instant::now() + dice.ms(6_000..16_000);
    let clients: Vec<_> = (0..4).map(|n| tokio::spawn(client(world.clone(), n))).collect();
    let creators: Vec<_> = (0..2).map(|n| tokio::spawn(creator(world.clone(), n, until))).collect();
    let users: Vec<_> = (0..2).map(|n| tokio::spawn(user(world.clone(), n, until))).collect();
    let crowd = tokio::spawn(crowd(world.clone(), until));
    trouble::make(world.clone(), until).await;
    let (mut tried, mut acked, mut visits) = (vec![], crowd.await.unwrap(), vec![]);
    for creator in creators {
        tried.extend(creator.await.unwrap());
    }
    for user in users {
        acked.extend(user.await.unwrap());
    }
    world.is_closing.store(true, Ordering::Relaxed);
    world.close(&mut tried).await;
    world.settle(TOLD_WITHIN).await;
    world.is_over.store(true, Ordering::Relaxed);
    world.over.notify_waiters();
    for client in clients {
        visits.extend(client.await.unwrap());
    }
    assert_eq!(world.unsettled().await, None, "nobody did anything since it was settled");
    acked.extend(visits.iter().flat_map(|visit| visit.acked.clone()));
    let evidence = Evidence::collect(&world, tried, acked, visits).await;
    for number in 0..world.replicas() {
        world.replica(number).expect("it runs at the end").stop().await;
    }
    evidence
}
