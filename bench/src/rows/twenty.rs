//! Twenty broadcasts back to back: whether they share what they cost, and whether the first waits for the last.

use super::{Bench, Cost, PEERS, Server, deliver, keep_faults, middle, millis};
use crate::statistics::counted;

const CLIENTS: usize = 10_000;
const BROADCASTS: usize = 20;
const TRIES: usize = 3;

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    bench.each_server(round, |bench, server| measure(bench, server, round))
}

/// What one burst took.
struct Burst {
    cpu: f64,
    /// From the first post until everybody has the first, and until everybody has the last, in milliseconds.
    first: f64,
    last: f64,
}

fn measure(bench: &mut Bench, server: &Server, round: u32) -> anyhow::Result<()> {
    let wanted = bench.options.at_most(CLIENTS);
    let clients = wanted.min(server.most);
    let mut load = bench.load(server, clients)?;
    load.connect()?;
    let (mut alone, mut bursts) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        server.process.settle()?;
        alone.push(deliver(server, &mut load)?);
        server.process.settle()?;
        let cost = Cost::begin(server, &load)?;
        let first_number = load.post()?;
        let begun = load.accepted()?.posted;
        for _ in 1..BROADCASTS {
            load.post()?;
            load.accepted()?;
        }
        let last = load.delivered(first_number + BROADCASTS as u64 - 1)?;
        let first = load.delivered(first_number)?;
        bursts.push(Burst {
            cpu: cost.a_delivery(server, &load)?.0,
            first: millis(first.saturating_duration_since(begun)),
            last: millis(last.saturating_duration_since(begun)),
        });
    }
    load.overhear()?;

    let row = format!("{BROADCASTS} broadcasts back to back to {wanted} clients");
    let mut column = bench.table.column(&row, PEERS, server.name, round);
    column.keep("clients, fewer of who is slow", "", counted(clients));
    column.compare("CPU a delivery", "µs", middle(&bursts, |burst| burst.cpu));
    column.compare("CPU a delivery, one alone", "µs", middle(&alone, |alone| alone.cpu.0));
    column.compare(
        "the first post to the first at the last client",
        "ms",
        middle(&bursts, |burst| burst.first),
    );
    column.compare("the same, one alone", "ms", middle(&alone, |alone| alone.from_post));
    column.compare(
        "the first post to the last at the last client",
        "ms",
        middle(&bursts, |burst| burst.last),
    );
    let seconds = middle(&bursts, |burst| burst.last) / 1e3;
    column.compare("deliveries", "a second", counted(clients * BROADCASTS) / seconds);
    keep_faults(&mut column, &load)
}
