//! Everybody connects at the same moment, as they do when another replica is gone.

use super::{Bench, PEERS, Server, keep_faults, micros};
use crate::load::Plan;
use crate::statistics::counted;

const CLIENTS: usize = 15_000;

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    bench.each_server(round, |bench, server| measure(bench, server, round))
}

fn measure(bench: &mut Bench, server: &Server, round: u32) -> anyhow::Result<()> {
    let wanted = bench.options.at_most(CLIENTS);
    let clients = wanted.min(server.most);
    server.process.settle()?;
    let before = server.process.cpu_at_rest()?;
    let plan = Plan { clients, deaf: 0, at_once: clients, greeted: server.greets, long: false };
    let mut load = bench.load_as(server, plan)?;
    let took = load.connect()?;
    server.process.settle()?;
    let cpu = server.process.cpu_at_rest()?.since(&before);
    let row = format!("{wanted} handshakes at once");
    let mut column = bench.table.column(&row, PEERS, server.name, round);
    column.keep("clients, fewer of who is slow", "", counted(clients));
    column.compare("all are in", "s", took.as_secs_f64());
    column.compare("handshakes", "a second", counted(load.upgraded) / took.as_secs_f64());
    column.compare("CPU a handshake", "µs", micros(cpu) / counted(clients));
    keep_faults(&mut column, &load)
}
