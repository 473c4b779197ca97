//! One broadcast by one shard and by two, on all cores: whether two of them share the work, and what that costs.

use std::time::Duration;

use super::{Bench, Kept, NO_HEARTBEAT, Server, another_first, deliver, keep_faults, middle, millis};
use crate::measure::Measured;
use crate::nats::Nats;
use crate::replica::Replica;

const CLIENTS: usize = 15_000;

/// Broadcasts of a round: their median counts.
const TRIES: usize = 5;

const ONE: &str = "--shards 1";
const TWO: &str = "--shards 2";

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let cores = bench.cores;
    let mut parts = [(ONE, "1"), (TWO, "2")];
    another_first(round, &mut parts)?;
    cores.unpinned(|| parts.into_iter().try_for_each(|(name, shards)| measure(bench, round, name, shards)))
}

/// What one broadcast took.
struct Try {
    cpu: f64,
    from_answer: f64,
    from_post: f64,
    /// Of each of the replica's threads, the busiest first, in milliseconds.
    threads: Vec<f64>,
}

impl Try {
    fn all_threads(&self) -> f64 {
        self.threads.iter().sum()
    }

    fn thread(&self, place: usize) -> f64 {
        self.threads.get(place).copied().unwrap_or_default()
    }
}

fn measure(bench: &mut Bench, round: u32, name: &'static str, shards: &str) -> anyhow::Result<()> {
    let clients = bench.options.at_most(CLIENTS);
    let server = server(bench, name, shards)?;
    let mut load = bench.load(&server, clients)?;
    load.connect()?;
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        server.process.settle()?;
        let before = server.process.cpu_at_rest()?;
        let delivered = deliver(&server, &mut load)?;
        let threads = server.process.cpu_at_rest()?.of_threads_since(&before);
        tries.push(Try {
            cpu: delivered.cpu.0,
            from_answer: delivered.from_answer,
            from_post: delivered.from_post,
            threads: threads.into_iter().map(|cpu: Duration| millis(cpu)).collect(),
        });
    }
    load.overhear()?;

    let row = format!("one broadcast to {clients} clients on all cores, by shards");
    let mut column = bench.table.column(&row, (TWO, ONE), name, round);
    column.compare("CPU a delivery", "µs", middle(&tries, |tried| tried.cpu));
    column.compare("the answer to the last client", "ms", middle(&tries, |tried| tried.from_answer));
    column.compare("the post to the last client", "ms", middle(&tries, |tried| tried.from_post));
    column.keep("CPU of the busiest thread", "ms", middle(&tries, |tried| tried.thread(0)));
    column.keep("CPU of the next thread", "ms", middle(&tries, |tried| tried.thread(1)));
    let rest = |tried: &Try| tried.all_threads() - tried.thread(0) - tried.thread(1);
    column.keep("CPU of all other threads", "ms", middle(&tries, rest));
    column.compare(
        "CPU in relation to the time from the post",
        "cores",
        middle(&tries, |tried| tried.all_threads() / tried.from_post),
    );
    keep_faults(&mut column, &load)
}

/// A replica that may use all cores, as the load may here.
fn server(bench: &Bench, name: &'static str, shards: &str) -> anyhow::Result<Server> {
    let nats = Nats::start(&bench.cores)?;
    let arguments = [&NO_HEARTBEAT[..], &["--shards", shards]].concat();
    let replica = Replica::start_anywhere(&nats, &bench.cores, &arguments)?;
    let (address, process) = (replica.address, Measured::new(replica.pid()?)?);
    let running = Kept::Replica(replica, nats);
    Ok(Server { name, address, process, greets: true, most: usize::MAX, running })
}
