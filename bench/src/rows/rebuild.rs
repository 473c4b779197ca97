//! Reading a long log anew: from an empty disk, from one that has it all, and by who only reads.

use std::time::Duration;

use super::{Bench, TIDINGS};
use crate::logs::{Client, MIRRORED_SECONDS};
use crate::measure::Measured;
use crate::nats::Nats;
use crate::replica::Replica;
use crate::statistics::counted;

/// Acknowledgements in an event of a storm.
const TOGETHER: u64 = 500;

/// Of events with one acknowledgement there are this many times fewer, so that the row ends.
const FEWER: u64 = 5;

/// Who only reads.
const READER: &str = "a bare reader";

/// Who only reads a log whose events have one acknowledgement each: what a message costs, whatever is in it.
const READER_OF_SINGLE_ONES: &str = "a bare reader of single ones";

const ARGUMENTS: [&str; 2] = ["--acks-max-age-seconds", MIRRORED_SECONDS];

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    // What a start takes that reads nothing.
    let empty = Nats::start_lazy(&bench.cores)?;
    let start = Replica::start_anywhere(&empty, &bench.cores, &ARGUMENTS)?.took;
    let mut column = bench.table.column("a start without a log", (TIDINGS, TIDINGS), TIDINGS, round);
    column.keep("ready after", "s", start.as_secs_f64());
    let acknowledgements = bench.options.events;
    let single_ones = measure(bench, round, (acknowledgements / FEWER).max(1), 1, start)?;
    compare(bench, round, &single_ones, (READER, single_ones.read));
    let storms = measure(bench, round, acknowledgements, TOGETHER, start)?;
    compare(bench, round, &storms, (READER_OF_SINGLE_ONES, single_ones.read));
    Ok(())
}

/// What came of one log.
struct Rebuilt {
    row: String,
    /// Acknowledgements a second, by a replica that begins with nothing,
    built: f64,
    /// and by who only reads.
    read: f64,
}

/// A replica's acknowledgements a second in relation to somebody's.
fn compare(bench: &mut Bench, round: u32, rebuilt: &Rebuilt, (base, rate): (&'static str, f64)) {
    for (who, rate) in [(TIDINGS, rebuilt.built), (READER, rebuilt.read), (base, rate)] {
        let mut column = bench.table.column(&rebuilt.row, (TIDINGS, base), who, round);
        column.compare("read", "acknowledgements a second", rate);
    }
}

fn measure(
    bench: &mut Bench,
    round: u32,
    acknowledgements: u64,
    an_event: u64,
    start: Duration,
) -> anyhow::Result<Rebuilt> {
    let nats = Nats::start_lazy(&bench.cores)?;
    let client = Client::of(&nats)?;
    let events = client.fill(acknowledgements, an_event)?;
    let read = client.read(events)?.as_secs_f64();

    let mut replica = Replica::start_anywhere(&nats, &bench.cores, &ARGUMENTS)?;
    let built = replica.took;
    let memory = Measured::new(replica.pid()?)?.memory()?;
    replica.stop()?;
    replica.start_again(&nats, &bench.cores, &ARGUMENTS)?;
    let again = replica.took;
    replica.stop()?;

    let row = format!("a log of {acknowledgements} acknowledgements, {an_event} an event");
    let base = if an_event == 1 { READER } else { READER_OF_SINGLE_ONES };
    let (events, acknowledgements) =
        (counted(usize::try_from(events)?), counted(usize::try_from(acknowledgements)?));
    let reading = built.saturating_sub(start).as_secs_f64();
    let mut column = bench.table.column(&row, (TIDINGS, base), TIDINGS, round);
    column.keep("read", "events a second", events / reading);
    column.keep("ready after, from an empty disk", "s", built.as_secs_f64());
    column.keep("ready after, with all of it on disk", "s", again.as_secs_f64());
    let mib = counted(usize::try_from(memory.anonymous)?) / f64::from(1 << 20);
    column.keep("RssAnon when it has read it", "MiB", mib);
    let mut column = bench.table.column(&row, (TIDINGS, base), READER, round);
    column.keep("read", "events a second", events / read);
    Ok(Rebuilt { row, built: acknowledgements / reading, read: acknowledgements / read })
}
