//! The seeds: each one run, on a thread and a runtime of its own.

use std::cell::RefCell;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidings::log::RawMessage;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::rules::judge;
use crate::tally::Tally;
use crate::trace::{Trace, ordered};
use crate::world;

/// What `make test` runs.
pub const SEEDS: u64 = 500;

/// Runs at the same time.
const THREADS: u64 = 2;

/// Real time that a run may take. It takes a fraction of a second, and one that hangs has to be told.
const PATIENCE: Duration = Duration::from_mins(1);

/// Failures that are told in full.
const TOLD: usize = 3;

/// What came of a seed.
struct Ran {
    seed: u64,
    trace: Vec<String>,
    tally: Tally,
    findings: Vec<String>,
}

thread_local! {
    /// What panicked on this thread, tasks of the service included.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            if std::thread::current().name() != Some("seeds") {
                before(panic);
            }
        }));
    });
}

/// A directory in memory, where there is one: stores and outboxes sync a lot.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let home = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    tempfile::Builder::new().prefix("tidings-sim-").tempdir_in(home).unwrap()
}

/// A runtime whose clock moves only when all wait, and the trace of a run in it.
fn virtual_time() -> (Runtime, Trace) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let trace = {
        let _virtual_time = runtime.enter();
        Trace::begin()
    };
    (runtime, trace)
}

fn run(seed: u64) -> Ran {
    watch_for_panics();
    PANICS.with_borrow_mut(Vec::clear);
    let directory = directory();
    let (runtime, trace) = virtual_time();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let evidence = runtime.block_on(world::run(seed, directory.path(), &trace));
        (Tally::of(&evidence), judge(&evidence))
    }));
    let (tally, judged) = played.unwrap_or_default();
    drop(runtime);
    let findings = [PANICS.take(), judged].concat();
    Ran { seed, trace: trace.lines(), tally, findings }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Runs seeds on some threads, and hands over what came of them as it comes.
fn run_all(seeds: std::ops::Range<u64>, mut each: impl FnMut(Ran)) {
    let next = AtomicU64::new(seeds.start);
    let (sender, ran) = sync_channel(1);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (sender, next, seeds) = (sender.clone(), &next, seeds.clone());
            let work = move || {
                while let Some(seed) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| seeds.contains(n))
                {
                    let _ = sender.send(run(seed));
                }
            };
            std::thread::Builder::new().name("seeds".to_owned()).spawn_scoped(scope, work).unwrap();
        }
        drop(sender);
        let mut open: std::collections::BTreeSet<_> = seeds.clone().collect();
        while !open.is_empty() {
            let Ok(ran) = ran.recv_timeout(PATIENCE) else {
                let hang: Vec<_> = open.iter().take(usize::try_from(THREADS).unwrap()).collect();
                // The threads cannot be ended, and a panic would wait for them.
                eprintln!("a run hangs: SEED is one of {hang:?}");
                std::process::abort();
            };
            open.remove(&ran.seed);
            each(ran);
        }
    });
}

fn tell(ran: &Ran) {
    println!("SEED={} cargo test --test sim -- --nocapture", ran.seed);
    for finding in &ran.findings {
        let cut: String = finding.chars().take(2_000).collect();
        println!("  {cut}");
    }
}

#[test]
fn whatever_happens_the_log_is_right_and_everybody_knows() {
    if let Some(seed) = number("SEED") {
        tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).init();
        let ran = run(seed);
        ran.trace.iter().for_each(|line| println!("{line}"));
        tell(&ran);
        println!("{:?}", ran.tally);
        assert!(ran.findings.is_empty(), "seed {seed} fails");
        return;
    }
    let (first, seeds) = (number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(SEEDS));
    let began = Instant::now();
    let mut failed = Vec::new();
    let mut tally = Tally::default();
    run_all(first..first + seeds, |ran| {
        tally.add(&ran.tally);
        if !ran.findings.is_empty() {
            if failed.len() < TOLD {
                tell(&ran);
            }
            failed.push(ran.seed);
        }
    });
    failed.sort_unstable();
    println!("{seeds} seeds in {:?}: {tally:?}", began.elapsed());
    assert!(failed.is_empty(), "{} of {seeds} seeds fail: {failed:?}", failed.len());
    if seeds >= SEEDS {
        tally.require_all();
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut differ = Vec::new();
    for seed in 1..=number("TWICE").unwrap_or(10) {
        let [one, other] = [(); 2].map(|()| ordered(run(seed).trace));
        if one != other {
            let place = one.iter().zip(&other).position(|(one, other)| one != other);
            let place = place.unwrap_or(one.len().min(other.len()));
            println!("seed {seed}, line {place}:\n{:?}\n{:?}", one.get(place), other.get(place));
            differ.push(seed);
        }
    }
    assert!(differ.is_empty(), "two runs differ: {differ:?}");
}

#[test]
fn a_log_that_lost_doubled_or_reordered_an_event_is_noticed() {
    let ((runtime, trace), directory) = (virtual_time(), directory());
    let mut evidence = runtime.block_on(world::run(1, directory.path(), &trace));
    assert_eq!(judge(&evidence), Vec::<String>::new());
    let log = evidence.log.clone();
    let posts =
        log.iter().enumerate().filter(|(_, message)| message.header("ce-type") == Some("broadcast.created"));
    let posts: Vec<_> = posts.map(|(at, _)| at).collect();
    let (lost, doubled, reordered) = (&mut log.clone(), &mut log.clone(), &mut log.clone());
    lost.remove(posts[1]);
    doubled.push(RawMessage { sequence: log.len() as u64 + 1, ..log[posts[1]].clone() });
    (reordered[posts[0]].sequence, reordered[posts[1]].sequence) =
        (log[posts[1]].sequence, log[posts[0]].sequence);
    for changed in [lost, doubled, reordered] {
        evidence.log = std::mem::take(changed);
        assert!(!judge(&evidence).is_empty(), "nothing is noticed");
    }
}
