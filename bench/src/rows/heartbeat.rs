//! Connections that only wait: two rounds of heartbeats, and a replica that has nobody.

use super::{Bench, Server, TIDINGS, keep_faults};
use crate::statistics::counted;

const CLIENTS: usize = 15_000;

/// A replica that has nobody.
const NOBODY: &str = "nobody is connected";

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let watched = bench.options.watched;
    let every = (watched.as_secs() / 2).max(1);
    let (heartbeat, liveness) = (every.to_string(), (every * 5 / 2 + 1).to_string());
    let server = bench.replica(&["--heartbeat-seconds", &heartbeat, "--liveness-seconds", &liveness])?;
    let clients = bench.options.at_most(CLIENTS);
    let row = format!("{clients} idle connections over {} s, a heartbeat every {every} s", watched.as_secs());
    measure(bench, &server, &row, NOBODY, round, 0)?;
    measure(bench, &server, &row, TIDINGS, round, clients)
}

fn measure(
    bench: &mut Bench,
    server: &Server,
    row: &str,
    who: &'static str,
    round: u32,
    clients: usize,
) -> anyhow::Result<()> {
    let watched = bench.options.watched;
    let mut load = bench.load(server, clients)?;
    load.connect()?;
    // What came of connecting passes, and pings are answered meanwhile.
    load.listen(watched / 2)?;
    let (before, pings) = (server.process.cpu_at_rest()?, load.heard.pings);
    load.listen(watched)?;
    let cpu = server.process.cpu_at_rest()?.since(&before);
    let pings = load.heard.pings - pings;
    let mut column = bench.table.column(row, (TIDINGS, NOBODY), who, round);
    column.keep("share of one core", "%", 100.0 * cpu.as_secs_f64() / watched.as_secs_f64());
    if clients > 0 {
        column.keep("pings", "a connection", counted(pings) / counted(clients));
    }
    keep_faults(&mut column, &load)
}
