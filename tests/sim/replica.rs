//! A simulated replica: composed as `serve` composes one, without HTTP and NATS; and how it dies.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings::config::SOCKET_LIMITS;
use tidings::critical_tasks::CriticalTasks;
use tidings::domain::Channel;
use tidings::log::EventLog;
use tidings::metrics::Metrics;
use tidings::projection::{self, Projection, Supervisor};
use tidings::push::hub::{self, Hub};
use tidings::submit::mode::{CurrentMode, Mode};
use tidings::submit::outbox::{Outbox, OutboxLimits};
use tidings::submit::{self, Acks, Submit};
use tidings::warnings::Warnings;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::clock::VirtualClock;
use crate::dice::Dice;
use crate::link::Link;

/// What becomes of the projection's store when the process dies. The outbox always keeps what it has synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It has all that was folded.
    Whole,
    /// It has lost all that this run folded.
    Stale,
    /// It is gone.
    Lost,
}

/// Since when one run of a replica was in which mode.
pub type ModeLog = Arc<Mutex<Vec<(Instant, Mode)>>>;

/// What a run of a replica needs to know.
pub struct Spec {
    pub number: usize,
    pub run: u16,
    pub began: Instant,
    pub skew_ms: i64,
    pub channels: Vec<Channel>,
    pub directory: PathBuf,
    pub mode_log: ModeLog,
    /// Whether it accepts anything while the log is away.
    pub accepts_alone: bool,
    /// What its death leaves of the store.
    pub store: Store,
}

/// One run of a replica.
pub struct Replica {
    pub spec: Spec,
    pub link: Link,
    pub projection: Projection,
    pub submit: Arc<Submit>,
    pub acks: Acks,
    pub hub: Hub,
    supervisor: Mutex<Option<Supervisor>>,
    dead: AtomicBool,
    died: Notify,
}

impl Replica {
    pub fn start(spec: Spec, link: Link) -> Arc<Self> {
        if spec.store == Store::Stale {
            copy(&spec.projection(), &spec.stale());
        }
        let log: Arc<dyn EventLog> = Arc::new(link.clone());
        let metrics = Metrics::default();
        let (announce, announcements) = mpsc::channel(hub::ANNOUNCEMENTS);
        let options = projection_options(spec.projection(), &metrics);
        let (projection, supervisor) =
            Projection::start(log.clone(), options, link.generation(), vec![announce]);
        let submit = spec.submit(log, projection.clone(), &metrics);
        let acks = Acks::start(submit.clone(), None);
        let options = hub::Options {
            channels: spec.channels.clone(),
            max_connections: 100,
            acks: acks.clone(),
            tokens: Arc::new(()),
            limits: SOCKET_LIMITS,
            metrics,
            modes: submit.modes().watch(),
            tasks: CriticalTasks::default(),
        };
        let (_, counts) = watch::channel(BTreeMap::new());
        let hub = Hub::start(options, &projection, vec![announcements], &counts).unwrap();
        tokio::spawn(follow(submit.modes().clone(), spec.mode_log.clone()));
        Arc::new(Self {
            acks,
            spec,
            link,
            projection,
            submit,
            hub,
            supervisor: Mutex::new(Some(supervisor)),
            dead: AtomicBool::new(false),
            died: Notify::new(),
        })
    }

    /// The run ends in order: everything is written.
    pub async fn stop(&self) {
        let supervisor = self.supervisor.lock().unwrap().take();
        supervisor.expect("it ends once").stop().await;
        released(&self.spec.projection());
    }

    /// Ends when the process has died.
    pub async fn died(&self) {
        while !self.dead.load(Ordering::Relaxed) {
            self.died.notified().await;
        }
    }

    /// The process dies at this moment. Its tasks cannot be killed, so they are left without a log, without clients and
    /// without a directory that anybody reads again. Leaves what the next run finds.
    pub async fn die(&self, next: &Spec, dice: &mut Dice) {
        self.dead.store(true, Ordering::Relaxed);
        self.link.sever();
        copy(&self.spec.outbox(), &next.outbox());
        if dice.percent(30) {
            cut_off_a_write(&next.outbox(), dice);
        }
        self.died.notify_waiters();
        self.stop().await;
        match self.spec.store {
            Store::Whole => fs::rename(self.spec.projection(), next.projection()).unwrap(),
            Store::Stale if self.spec.stale().exists() => {
                fs::rename(self.spec.stale(), next.projection()).unwrap();
            }
            Store::Stale | Store::Lost => {}
        }
    }
}

impl Spec {
    fn home(&self) -> PathBuf {
        self.directory.join(format!("{}-{}", self.number, self.run))
    }

    fn projection(&self) -> PathBuf {
        self.home().join("projection")
    }

    fn stale(&self) -> PathBuf {
        self.home().join("stale")
    }

    fn outbox(&self) -> PathBuf {
        self.home().join("outbox")
    }

    fn submit(&self, log: Arc<dyn EventLog>, projection: Projection, metrics: &Metrics) -> Arc<Submit> {
        let outbox = Outbox::open(&self.outbox(), OutboxLimits { entries: 1_000, bytes: 1 << 20 }).unwrap();
        let options = submit::SubmitOptions {
            replica: format!("r{}", self.number),
            channels: self.channels.clone(),
            append_timeout: Duration::from_secs(3),
            accept_on_outage: self.accepts_alone,
            warnings: Warnings::default(),
            tasks: CriticalTasks::default(),
            metrics: metrics.clone(),
        };
        let name = u16::try_from(self.number).unwrap() << 8 | self.run;
        let clock = VirtualClock::new(self.began, self.skew_ms, name);
        Submit::start(log, projection, Arc::new(clock), outbox, options)
    }
}

pub fn projection_options(directory: PathBuf, metrics: &Metrics) -> projection::Options {
    projection::Options { directory, open_timeout: Duration::from_secs(20), metrics: metrics.clone() }
}

async fn follow(modes: CurrentMode, log: ModeLog) {
    let mut modes = modes.watch();
    loop {
        let mode = *modes.borrow_and_update();
        log.lock().unwrap().push((Instant::now(), mode));
        if modes.changed().await.is_err() {
            return;
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if entry.is_dir() {
            copy(&entry, &to.join(name));
        } else {
            fs::copy(&entry, to.join(name)).unwrap();
        }
    }
}

/// The process died while it wrote the next entry, of which nobody was told.
fn cut_off_a_write(outbox: &Path, dice: &mut Dice) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(outbox.join("entries")).unwrap();
    let bytes: Vec<_> = (0..dice.within(1..40)).map(|_| *dice.pick(b"0123456789abcdef {\"")).collect();
    file.write_all(&bytes).unwrap();
}

/// Waits until the store's own threads have let go of its files. They know no virtual time.
fn released(projection: &Path) {
    let database = projection.join("db");
    for _ in 0..20_000 {
        if fs::File::open(&database).map_or(true, |file| file.try_lock().is_ok()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} is not released", database.display());
}
