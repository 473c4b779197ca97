//! Clients that do not read, among others that do: what the others' deliveries cost then.

use std::time::{Duration, Instant};

use super::{Bench, CALM, Cost, NO_HEARTBEAT, another_first, millis};
use crate::load::Plan;
use crate::replica::metric;
use crate::statistics::counted;

const CLIENTS: usize = 5_000;

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let clients = bench.options.at_most(CLIENTS);
    let mut parts = [("all read", 0), ("a tenth does not read", clients / 10)];
    another_first(round, &mut parts)?;
    for (name, deaf) in parts {
        measure(bench, round, name, clients, deaf)?;
    }
    Ok(())
}

fn measure(
    bench: &mut Bench,
    round: u32,
    name: &'static str,
    clients: usize,
    deaf: usize,
) -> anyhow::Result<()> {
    let server = bench.replica(&NO_HEARTBEAT)?;
    let plan = Plan { clients, deaf, at_once: CALM, greeted: true, long: true };
    let mut load = bench.load_as(&server, plan)?;
    load.connect()?;
    server.process.settle()?;
    let cost = Cost::begin(&server, &load)?;
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    for _ in 0..bench.options.broadcasts {
        let number = load.post()?;
        let posted = load.accepted()?.posted;
        slowest = slowest.max(load.delivered(number)?.saturating_duration_since(posted));
    }
    let took = begun.elapsed();
    let (cpu, _) = cost.a_delivery(&server, &load)?;
    load.overhear()?;
    let row =
        format!("{} broadcasts to {clients} clients, a tenth of whom do not read", bench.options.broadcasts);
    let mut column = bench.table.column(&row, ("a tenth does not read", "all read"), name, round);
    column.compare("CPU a delivery to those who read", "µs", cpu);
    column.compare("all broadcasts", "s", took.as_secs_f64());
    column.compare("slowest, from the post to the last client who reads", "ms", millis(slowest));
    let slow = metric(server.address, "tidings_slow_clients_total")?;
    match deaf {
        0 => column.none("let go because they do not read", "clients", slow),
        _ => column.keep("let go because they do not read", "clients", slow),
    }
    column.none("lost, doubled or out of order", "deliveries", counted(usize::try_from(load.heard.wrong())?));
    column.none("refused or disconnected though they read", "clients", counted(load.refused + load.lost));
    Ok(())
}
