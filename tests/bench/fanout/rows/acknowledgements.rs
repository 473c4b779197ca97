//! Everybody acknowledges at once, on a NATS that syncs each message; and one alone, beside a bare append to the same NATS.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{APPEND, Bench, Kept, NO_HEARTBEAT, TIDINGS, keep_faults, micros, middle, millis};
use crate::fanout::load::Load;
use crate::fanout::logs::Client;
use crate::fanout::statistics::counted;

const CLIENTS: usize = 15_000;

/// Acknowledgements one after the other, and appends: their median counts.
const ALONE: usize = 50;

/// As many bytes as the event of one acknowledgement has, with its headers.
const EVENT_BYTES: usize = 650;

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let clients = bench.options.at_most(CLIENTS);
    let server = bench.replica(&NO_HEARTBEAT)?;
    let mut load = bench.load(&server, clients)?;
    load.connect()?;
    server.process.settle()?;

    let number = load.post()?;
    let broadcast = load.accepted()?.id;
    load.delivered(number)?;
    let Kept::Replica(_, nats) = &server.running else { bail!("replicas have a log") };
    let log = Client::of(nats)?;
    server.process.settle()?;
    let (bytes_before, before) = (log.bytes()?, server.process.cpu_at_rest()?);
    let begun = Instant::now();
    for client in 0..clients {
        load.acknowledge(client, &broadcast)?;
    }
    let all_sent = begun.elapsed();
    load.until("every acknowledgement is confirmed", |load| load.heard.confirmed >= clients)?;
    let took = begun.elapsed();
    server.process.settle()?;
    let cpu = server.process.cpu_at_rest()?.since(&before);
    let events = load.heard.confirmed_in.len();
    let bytes = log.bytes()?.saturating_sub(bytes_before);

    let alone = one_by_one(&mut load, ALONE.min(clients))?;
    let appends = log.append_one_by_one(ALONE, EVENT_BYTES)?;

    let row = format!("{clients} acknowledgements at once, and one alone");
    let mut column = bench.table.column(&row, (TIDINGS, APPEND), TIDINGS, round);
    column.keep("confirmed", "a second", counted(clients) / took.as_secs_f64());
    column.keep("all are sent", "ms", millis(all_sent));
    column.keep("all are confirmed", "ms", millis(took));
    column.keep("acknowledgements an event", "", counted(clients) / counted(events.max(1)));
    column.keep(
        "an acknowledgement in the log",
        "bytes",
        counted(usize::try_from(bytes)?) / counted(clients),
    );
    column.keep(
        "CPU an acknowledgement, with its place in the KV mirror",
        "µs",
        micros(cpu) / counted(clients),
    );
    column.compare("one alone is confirmed", "ms", middle(&alone, |took| millis(*took)));
    keep_faults(&mut column, &load)?;
    let mut column = bench.table.column(&row, (TIDINGS, APPEND), APPEND, round);
    column.compare("one alone is confirmed", "ms", middle(&appends, |took| millis(*took)));
    Ok(())
}

/// A new broadcast, which clients acknowledge one after the other.
fn one_by_one(load: &mut Load, clients: usize) -> anyhow::Result<Vec<Duration>> {
    let number = load.post()?;
    let broadcast = load.accepted()?.id;
    load.delivered(number)?;
    let mut took = Vec::new();
    for client in 0..clients {
        let confirmed = load.heard.confirmed;
        let begun = Instant::now();
        load.acknowledge(client, &broadcast)?;
        load.until("an acknowledgement is confirmed", |load| load.heard.confirmed > confirmed)?;
        took.push(begun.elapsed());
    }
    ensure!(!took.is_empty(), "somebody acknowledges");
    Ok(took)
}
