//! Everybody acknowledges at once, on a NATS that syncs each message.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::{Bench, Column, Kept, NO_HEARTBEAT, Server, TIDINGS, another_first, keep_faults, micros, millis};
use crate::load::Load;
use crate::logs::Client;
use crate::peers::Peer;
use crate::statistics::counted;

/// The send loop answers at once, and keeps nothing: what sockets and the load take alone.
const ECHO: &str = "an echo";

/// One that answers later, as whoever syncs to disk first has to: other sockets have had the processor's caches meanwhile.
const LATE: &str = Peer::LateEcho.name();

const CLIENTS: usize = 15_000;

/// How long the load looks away when it has read all answers that there are.
const LOOKS_AWAY: Duration = Duration::from_millis(1);

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let clients = bench.options.at_most(CLIENTS);
    let row = format!("{clients} acknowledgements at once");
    let mut servers = [None, Some((ECHO, Peer::SendLoop)), Some((LATE, Peer::LateEcho))];
    another_first(round, &mut servers)?;
    servers.into_iter().try_for_each(|server| match server {
        None => replica(bench, round, &row, clients),
        Some((name, peer)) => echo(bench, round, (&row, name), peer, clients),
    })
}

fn echo(
    bench: &mut Bench,
    round: u32,
    (row, name): (&str, &'static str),
    peer: Peer,
    clients: usize,
) -> anyhow::Result<()> {
    let server = bench.peer(peer)?;
    let mut load = bench.load(&server, clients)?;
    load.connect()?;
    let storm = Storm::at(&server, &mut load, clients)?;
    let mut column = bench.table.column(row, (TIDINGS, ECHO), name, round);
    storm.keep(&mut column, clients);
    keep_faults(&mut column, &load)
}

fn replica(bench: &mut Bench, round: u32, row: &str, clients: usize) -> anyhow::Result<()> {
    let server = bench.replica(&NO_HEARTBEAT)?;
    let mut load = bench.load(&server, clients)?;
    load.connect()?;
    let Kept::Replica(_, nats) = &server.running else { bail!("replicas have a log") };
    let log = Client::of(nats)?;
    let storm = Storm::at(&server, &mut load, clients)?;
    let events = load.heard.confirmed_in.len();
    let bytes = log.bytes()?.saturating_sub(storm.log_before);
    let mut column = bench.table.column(row, (TIDINGS, ECHO), TIDINGS, round);
    storm.keep(&mut column, clients);
    column.keep("acknowledgements an event", "", counted(clients) / counted(events.max(1)));
    column.keep(
        "an acknowledgement in the log",
        "bytes",
        counted(usize::try_from(bytes)?) / counted(clients),
    );
    keep_faults(&mut column, &load)
}

/// Everybody acknowledged at once.
struct Storm {
    log_before: u64,
    all_sent: Duration,
    took: Duration,
    /// Until the last one is confirmed, and until the server has come to rest.
    cpu: (Duration, Duration),
}

impl Storm {
    /// A new broadcast, which all clients acknowledge.
    fn at(server: &Server, load: &mut Load, clients: usize) -> anyhow::Result<Self> {
        server.process.settle()?;
        let number = load.post()?;
        let broadcast = load.accepted()?.id;
        load.delivered(number)?;
        server.process.settle()?;
        let log_before = match &server.running {
            Kept::Replica(_, nats) => Client::of(nats)?.bytes()?,
            Kept::Peer(_) => 0,
        };
        load.look_away_for(LOOKS_AWAY);
        let before = server.process.cpu_at_rest()?;
        let begun = Instant::now();
        for client in 0..clients {
            load.acknowledge(client, &broadcast)?;
        }
        let all_sent = begun.elapsed();
        load.until("every acknowledgement is confirmed", |load| load.heard.confirmed >= clients)?;
        let took = begun.elapsed();
        let until_confirmed = server.process.cpu()?.since(&before);
        server.process.settle()?;
        let cpu = (until_confirmed, server.process.cpu_at_rest()?.since(&before));
        Ok(Self { log_before, all_sent, took, cpu })
    }

    fn keep(&self, column: &mut Column<'_>, clients: usize) {
        column.compare("confirmed", "a second", counted(clients) / self.took.as_secs_f64());
        column.keep("all are sent", "ms", millis(self.all_sent));
        column.compare("all are confirmed", "ms", millis(self.took));
        let each = |cpu| micros(cpu) / counted(clients);
        column.compare("CPU an acknowledgement, until all are confirmed", "µs", each(self.cpu.0));
        column.keep("CPU an acknowledgement, with its place in the KV mirror", "µs", each(self.cpu.1));
    }
}
