//! Everybody acknowledges at once, on a NATS that syncs each message; and one alone, beside a bare append to the same NATS.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{
    APPEND, Bench, Column, Kept, NO_HEARTBEAT, Server, TIDINGS, keep_faults, micros, middle, millis,
};
use crate::fanout::load::Load;
use crate::fanout::logs::Client;
use crate::fanout::peers::Peer;
use crate::fanout::relay::Relay;
use crate::fanout::statistics::counted;

/// The send loop answers at once, and keeps nothing: what sockets and the load take alone.
const ECHO: &str = "an echo";

const CLIENTS: usize = 15_000;

/// Acknowledgements alone, and as many appends: their median counts.
const ALONE: usize = 100;

/// The least that stands between a client and the log.
const RELAY: &str = "a relay";

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let clients = bench.options.at_most(CLIENTS);
    let row = format!("{clients} acknowledgements at once, and one alone");
    let echoed = {
        let server = bench.peer(Peer::SendLoop)?;
        let mut load = bench.load(&server, clients)?;
        load.connect()?;
        let storm = Storm::at(&server, &mut load, clients)?;
        let mut column = bench.table.column(&row, (TIDINGS, APPEND), ECHO, round);
        storm.keep(&mut column, clients);
        keep_faults(&mut column, &load)?;
        storm.a_second(clients)
    };

    let server = bench.replica(&NO_HEARTBEAT)?;
    let mut load = bench.load(&server, clients)?;
    load.connect()?;
    let Kept::Replica(_, nats) = &server.running else { bail!("replicas have a log") };
    let log = Client::of(nats)?;
    let storm = Storm::at(&server, &mut load, clients)?;
    let events = load.heard.confirmed_in.len();
    let bytes = log.bytes()?.saturating_sub(storm.log_before);

    let alone = one_by_one(&server, &mut load, &log, Relay::start(&bench.cores, nats)?)?;

    let mut column = bench.table.column(&row, (TIDINGS, APPEND), TIDINGS, round);
    storm.keep(&mut column, clients);
    column.keep("confirmed, of what the echo answers", "%", 100.0 * storm.a_second(clients) / echoed);
    column.keep("acknowledgements an event", "", counted(clients) / counted(events.max(1)));
    column.keep(
        "an acknowledgement in the log",
        "bytes",
        counted(usize::try_from(bytes)?) / counted(clients),
    );
    keep_faults(&mut column, &load)?;
    for (who, took) in [TIDINGS, RELAY, APPEND].into_iter().zip(alone) {
        let mut column = bench.table.column(&row, (TIDINGS, APPEND), who, round);
        column.compare("one alone is confirmed", "ms", middle(&took, |took| millis(*took)));
    }
    Ok(())
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

    fn a_second(&self, clients: usize) -> f64 {
        counted(clients) / self.took.as_secs_f64()
    }

    fn keep(&self, column: &mut Column<'_>, clients: usize) {
        column.keep("confirmed", "a second", self.a_second(clients));
        column.keep("all are sent", "ms", millis(self.all_sent));
        column.keep("all are confirmed", "ms", millis(self.took));
        let each = |cpu| micros(cpu) / counted(clients);
        column.keep("CPU an acknowledgement, until all are confirmed", "µs", each(self.cpu.0));
        column.keep("CPU an acknowledgement, with its place in the KV mirror", "µs", each(self.cpu.1));
    }
}

/// A new broadcast, which clients acknowledge one after the other, each when nothing else goes on: the KV mirror has the one before.
/// In between an append through a relay and a bare one, under the same conditions. How long each took.
fn one_by_one(
    server: &Server,
    load: &mut Load,
    log: &Client,
    mut relay: Relay,
) -> anyhow::Result<[Vec<Duration>; 3]> {
    let number = load.post()?;
    let broadcast = load.accepted()?.id;
    load.delivered(number)?;
    server.process.settle()?;
    log.append()?;
    let mut took = <[Vec<Duration>; 3]>::default();
    for client in 0..ALONE.min(load.upgraded) {
        let (confirmed, mirrored) = (load.heard.confirmed, log.mirrored()?);
        let begun = Instant::now();
        load.acknowledge(client, &broadcast)?;
        load.until("an acknowledgement is confirmed", |load| load.heard.confirmed > confirmed)?;
        took[0].push(begun.elapsed());
        while log.mirrored()? == mirrored {}
        took[1].push(relay.append()?);
        took[2].push(log.append()?);
    }
    ensure!(!took[0].is_empty(), "somebody acknowledges");
    Ok(took)
}
