//! How healthy clients fare while others misbehave: one flood at a time, and calm before and after it.

use std::time::{Duration, Instant};

use super::{Bench, CALM, NO_HEARTBEAT, Server, keep_faults, micros, millis};
use crate::flood::Flood;
use crate::flood::kinds::Kind;
use crate::load::{Load, Plan};
use crate::statistics::{counted, percentile};
use crate::table::Column;

/// The healthy ones.
const CLIENTS: usize = 500;

/// From a broadcast to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// How long others may take for what they never end: short, so that they are cut off and come back while they are watched.
const SHORT: [&str; 8] = [
    "--head-timeout-seconds",
    "2",
    "--request-timeout-seconds",
    "2",
    "--message-seconds",
    "2",
    "--unsent-seconds",
    "2",
];

/// Whom each table compares.
const FLOOD: &str = "meanwhile";
const QUIET: &str = "in calm";

const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    for kind in Kind::ALL {
        measure(bench, round, kind)?;
    }
    Ok(())
}

fn measure(bench: &mut Bench, round: u32, kind: Kind) -> anyhow::Result<()> {
    let clients = bench.options.at_most(CLIENTS);
    let window = bench.options.window;
    let server = bench.replica(&[&NO_HEARTBEAT[..], &SHORT].concat())?;
    let long = kind == Kind::ReadNothing;
    let mut load = bench.load_as(&server, Plan { clients, deaf: 0, at_once: CALM, greeted: true, long })?;
    load.connect()?;
    server.process.settle()?;
    let before = server.process.anonymous()?;
    let (mut calm, mut hostile) = (Watched::default(), Watched::default());
    let broadcast = calm.watch(&server, &mut load, window / 2)?;
    let flood = Flood::begin(kind, kind.pace(), server.address, load.spare_address(), &broadcast)?;
    hostile.watch(&server, &mut load, window)?;
    let done = flood.end()?;
    server.process.settle()?;
    calm.watch(&server, &mut load, window / 2)?;
    load.overhear()?;
    server.process.settle()?;
    let after = server.process.anonymous()?;

    let row = format!("{clients} clients, of others {}", kind.words());
    calm.keep(&mut bench.table.column(&row, (FLOOD, QUIET), QUIET, round));
    let mut column = bench.table.column(&row, (FLOOD, QUIET), FLOOD, round);
    hostile.keep(&mut column);
    column.keep("RssAnon before the flood", "MiB", mib(before));
    column.keep("RssAnon after it", "MiB", mib(after));
    keep_faults(&mut column, &load)?;
    let a_second = |count: usize| counted(count) / done.took.as_secs_f64();
    column.keep("the flood kept its pace", "%", 100.0 * counted(done.turns) / counted(done.planned.max(1)));
    column.keep("connections of the flood", "a second", a_second(done.opened));
    column.keep("connections of the flood that were cut off", "a second", a_second(done.cut_off));
    column.keep("connections of the flood that failed", "a second", a_second(done.failed));
    column.keep("bytes of the flood", "kB a second", a_second(done.bytes) / 1e3);
    column.keep("the flood's own share of the load's core", "%", share(done.cpu, done.took));
    Ok(())
}

/// What healthy clients and the replica were seen to do.
#[derive(Default)]
struct Watched {
    /// Of each broadcast, from its post until the last client had it, in milliseconds.
    from_post: Vec<f64>,
    /// The same from the answer to the creator.
    from_answer: Vec<f64>,
    /// The most of its own memory that the replica was seen to have, in bytes.
    most: u64,
    /// Its processor time.
    cpu: Duration,
    took: Duration,
}

impl Watched {
    /// Posts a broadcast at each pause for so long, and waits for each to be everywhere. Returns the id of the last.
    fn watch(&mut self, server: &Server, load: &mut Load, how_long: Duration) -> anyhow::Result<String> {
        let (begun, cpu) = (Instant::now(), server.process.cpu()?);
        let mut due = begun;
        let id = loop {
            let number = load.post()?;
            let accepted = load.accepted()?;
            let last = load.delivered(number)?;
            self.from_post.push(millis(last.saturating_duration_since(accepted.posted)));
            self.from_answer.push(millis(last.saturating_duration_since(accepted.at)));
            self.most = self.most.max(server.process.anonymous()?);
            due = (due + PAUSE).max(Instant::now());
            load.listen(due.saturating_duration_since(Instant::now()))?;
            if begun.elapsed() >= how_long {
                break accepted.id;
            }
        };
        self.cpu += server.process.cpu()?.since(&cpu);
        self.took += begun.elapsed();
        Ok(id)
    }

    fn keep(&self, column: &mut Column<'_>) {
        column.compare("the post to the last client, median", "ms", percentile(&self.from_post, 50));
        column.compare("the post to the last client, 99th percentile", "ms", percentile(&self.from_post, 99));
        column.compare("the answer to the last client, median", "ms", percentile(&self.from_answer, 50));
        column.compare(
            "the answer to the last client, 99th percentile",
            "ms",
            percentile(&self.from_answer, 99),
        );
        column.keep("broadcasts", "", counted(self.from_post.len()));
        column.compare("CPU of the replica, share of its core", "%", share(self.cpu, self.took));
        column.compare("RssAnon at most", "MiB", mib(self.most));
    }
}

fn share(cpu: Duration, of: Duration) -> f64 {
    100.0 * micros(cpu) / micros(of)
}

#[expect(clippy::cast_precision_loss, reason = "no process has more than 52 bits of memory")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
