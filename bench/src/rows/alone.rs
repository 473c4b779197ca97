//! One acknowledges while nothing else goes on, beside a bare append to the same NATS: on one node, and on three.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{APPEND, Bench, Kept, NO_HEARTBEAT, Server, TIDINGS, keep_faults, middle, millis};
use crate::load::Load;
use crate::logs::Client;
use crate::nats::Nats;
use crate::relay::Relay;

const CLIENTS: usize = 15_000;

/// Those of them who acknowledge, and as many appends: their median counts.
const ALONE: usize = 100;

/// Appends one after the other, to tell how many there are a second.
const IN_A_ROW: u32 = 300;

/// So long nothing is asked of anybody before: the KV mirror and the store have what came before, and the cores are idle.
const QUIET: Duration = Duration::from_millis(30);

/// The least that stands between a client and the log.
const RELAY: &str = "a relay";

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let nats = Nats::start(&bench.cores)?;
    measure(bench, round, "one acknowledges alone, on one node", nats, &NO_HEARTBEAT)?;
    let nats = Nats::start_cluster(&bench.cores)?;
    let arguments = [&NO_HEARTBEAT[..], &["--stream-replicas", "3"]].concat();
    measure(bench, round, "one acknowledges alone, on three nodes", nats, &arguments)
}

fn measure(bench: &mut Bench, round: u32, row: &str, nats: Nats, arguments: &[&str]) -> anyhow::Result<()> {
    let server = bench.replica_on(nats, arguments)?;
    let mut load = bench.load(&server, bench.options.at_most(CLIENTS))?;
    load.connect()?;
    let Kept::Replica(_, nats) = &server.running else { bail!("replicas have a log") };
    let log = Client::of(nats)?;
    log.prepare(nats.copies)?;
    let took = one_by_one(&server, &mut load, &log, Relay::start(&bench.cores, nats)?)?;
    let rate = log.appends_a_second(IN_A_ROW)?;
    for (who, took) in [TIDINGS, RELAY, APPEND].into_iter().zip(took) {
        let mut column = bench.table.column(row, (TIDINGS, APPEND), who, round);
        column.compare("it has its answer", "ms", middle(&took, |took| millis(*took)));
        match who {
            TIDINGS => keep_faults(&mut column, &load)?,
            APPEND => column.keep("one after the other", "a second", rate),
            _ => {}
        }
    }
    Ok(())
}

/// A new broadcast, which clients acknowledge one after the other, and as many appends through a relay and bare ones, all under
/// the same conditions: each after the same time of quiet, another one first each time. How long each took.
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
    let mut took = <[Vec<Duration>; 3]>::default();
    for client in 0..ALONE.min(load.upgraded) {
        for turn in 0..took.len() {
            load.listen(QUIET)?;
            let who = (client + turn) % took.len();
            took[who].push(match who {
                0 => acknowledged(load, client, &broadcast)?,
                1 => relay.append()?,
                _ => log.append()?,
            });
        }
    }
    ensure!(!took[0].is_empty(), "somebody acknowledges");
    Ok(took)
}

/// How long it takes until an acknowledgement is confirmed.
fn acknowledged(load: &mut Load, client: usize, broadcast: &str) -> anyhow::Result<Duration> {
    let confirmed = load.heard.confirmed;
    let begun = Instant::now();
    load.acknowledge(client, broadcast)?;
    load.until("an acknowledgement is confirmed", |load| load.heard.confirmed > confirmed)?;
    Ok(begun.elapsed())
}
