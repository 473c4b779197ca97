//! One broadcast to idle clients; and on the way there, what it costs to let clients in and to have them.

use super::{Bench, PEERS, Server, deliver, keep_faults, micros, middle};
use crate::statistics::counted;

/// Broadcasts of a round: their median counts.
const TRIES: usize = 5;

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    for clients in bench.options.clients.clone() {
        bench.each_server(round, |bench, server| measure(bench, server, round, clients))?;
    }
    Ok(())
}

fn measure(bench: &mut Bench, server: &Server, round: u32, wanted: usize) -> anyhow::Result<()> {
    let clients = wanted.min(server.most);
    server.process.settle()?;
    let (empty, cpu_before) = (server.process.memory()?, server.process.cpu_at_rest()?);
    let mut load = bench.load(server, clients)?;
    let took = load.connect()?;
    server.process.settle()?;
    let (full, cpu) = (server.process.memory()?, server.process.cpu_at_rest()?.since(&cpu_before));

    let mut tries = Vec::new();
    for _ in 0..TRIES {
        tries.push(deliver(server, &mut load)?);
        server.process.settle()?;
    }
    load.overhear()?;

    let row = format!("one broadcast to {wanted} idle clients");
    let mut column = bench.table.column(&row, PEERS, server.name, round);
    column.keep("clients, fewer of who is slow", "", counted(clients));
    column.compare("CPU a delivery", "µs", middle(&tries, |tried| tried.cpu.0));
    column.compare("the answer to the last client", "ms", middle(&tries, |tried| tried.from_answer));
    column.compare("the post to the last client", "ms", middle(&tries, |tried| tried.from_post));
    column.keep("a delivery, with its frame's head", "bytes", counted(load.heard.delivered_bytes));
    column.keep("CPU of the load for a delivery", "µs", middle(&tries, |tried| tried.cpu.1));
    column.compare("handshakes", "a second", counted(load.upgraded) / took.as_secs_f64());
    column.compare("CPU a handshake", "µs", micros(cpu) / counted(clients));
    let each = |full: u64, empty: u64| {
        Ok::<_, anyhow::Error>(counted(usize::try_from(full.saturating_sub(empty))?) / counted(clients))
    };
    column.keep("an idle connection, RssAnon", "bytes", each(full.anonymous, empty.anonymous)?);
    column.keep("an idle connection, Pss", "bytes", each(full.proportional, empty.proportional)?);
    let mib = |bytes: u64| Ok::<_, anyhow::Error>(counted(usize::try_from(bytes)?) / f64::from(1 << 20));
    column.keep("without connections, RssAnon", "MiB", mib(empty.anonymous)?);
    column.keep("without connections, Pss", "MiB", mib(empty.proportional)?);
    keep_faults(&mut column, &load)
}
