//! How far it goes: what was measured, times users. `README.md` beside the benchmark says what is assumed, and what then.

use std::fmt::Write as _;

use crate::table::{Table, short};

/// How many users there are: all of them are connected, and all of them acknowledge.
const USERS: [f64; 2] = [1e6, 1e8];

/// The last of them sees a broadcast so many seconds after it was accepted, with one core a replica that does nothing else.
const WITHIN_SECONDS: f64 = 1.0;

/// Bytes that a replica's connections may take in the process. What the kernel has for their sockets comes on top.
const MEMORY: f64 = 4e9;

/// Connections that a replica is given all the same, however little they take: files, and how many come back when it goes.
const MOST_CONNECTIONS: f64 = 100_000.0;

/// Their acknowledgements come in within so many seconds.
const ACKNOWLEDGED_WITHIN_SECONDS: f64 = 600.0;

/// Broadcasts a day.
const A_DAY: f64 = 10.0;

/// What a replica keeps of an acknowledgement of a broadcast that is loaded: 16 bytes of the user, 8 of the sequence, and the table
/// that they stand in, which is three quarters full on average.
const LOADED_ACKNOWLEDGEMENT: f64 = (16.0 + 8.0 + 1.0) * 4.0 / 3.0;

/// What one replica and one log can do, as it was measured.
struct Measured {
    delivery_us: f64,
    connection_bytes: f64,
    handshakes: f64,
    confirmed: f64,
    applied: f64,
    log_bytes: f64,
    appends: f64,
}

impl Measured {
    fn of(table: &Table, who: &str, append: &str) -> Option<Self> {
        let median = |row, measure, unit| table.median(row, measure, unit, who);
        Some(Self {
            delivery_us: median("idle clients", "CPU a delivery", "µs")?,
            connection_bytes: median("idle clients", "an idle connection, RssAnon", "bytes")?,
            handshakes: median("handshakes at once", "handshakes", "a second")?,
            confirmed: median("acknowledgements at once", "confirmed", "a second")?,
            applied: median("500 an event", "read", "acknowledgements a second")?,
            log_bytes: median("acknowledgements at once", "an acknowledgement in the log", "bytes")?,
            appends: table.median("alone, on one node", "one after the other", "a second", append)?,
        })
    }

    /// How many connections a replica takes, and what sets the limit.
    fn connections(&self) -> (f64, &'static str) {
        let limits = [
            (WITHIN_SECONDS * 1e6 / self.delivery_us, "its core"),
            (MEMORY / self.connection_bytes, "its memory"),
            (MOST_CONNECTIONS, "choice"),
        ];
        let smallest = |a: (f64, &'static str), b: (f64, &'static str)| if b.0 < a.0 { b } else { a };
        limits.into_iter().fold((f64::INFINITY, ""), smallest)
    }
}

/// The model, in Markdown, of what was measured of a replica and of bare appends to its log; `None` while that is not all there.
pub fn model(table: &Table, who: &str, append: &str) -> Option<String> {
    let measured = Measured::of(table, who, append)?;
    let (connections, limit) = measured.connections();
    let mut text = format!(
        "\n**what follows from it**\n\n| | {} users |\n| --- | ---: | ---: |\n",
        USERS.map(short).join(" users | ")
    );
    let mut line = |name: &str, value: &dyn Fn(f64) -> f64| {
        let _ = writeln!(text, "| {name} | {} |", USERS.map(|users| short(value(users))).join(" | "));
    };
    let replicas = |users: f64| (users / connections).ceil();
    let acknowledged = |users: f64| users / ACKNOWLEDGED_WITHIN_SECONDS;
    line(&format!("replicas, {} connections each ({limit} is the limit)", short(connections)), &replicas);
    line("a broadcast is at the last client after, s", &|users| {
        users / replicas(users) * measured.delivery_us / 1e6
    });
    line("everybody of one replica is back after, s", &|users| {
        let others = (replicas(users) - 1.0).max(1.0);
        users / replicas(users) / (others * measured.handshakes)
    });
    line("acknowledgements a second", &acknowledged);
    line("of what one replica confirms, %", &|users| {
        100.0 * acknowledged(users) / replicas(users) / measured.confirmed
    });
    line("of what every replica applies, %", &|users| 100.0 * acknowledged(users) / measured.applied);
    // A replica has one append in flight: when the log is busy, more acknowledgements share each.
    line("acknowledgements that have to share an append", &|users| {
        (acknowledged(users) / measured.appends).max(1.0)
    });
    line("an acknowledgement waits for its append at most, s", &|users| {
        replicas(users).max(1.0) / measured.appends
    });
    line("NATS sends of them to all replicas, MB a second", &|users| {
        acknowledged(users) * measured.log_bytes * replicas(users) / 1e6
    });
    line("acknowledgements of one broadcast in memory, GB a replica", &|users| {
        users * LOADED_ACKNOWLEDGEMENT / 1e9
    });
    line("growth of the log, GB a day", &|users| users * A_DAY * measured.log_bytes / 1e9);
    line("a replica from an empty disk, h for each year of the log", &|users| {
        users * A_DAY * 365.0 / measured.applied / 3600.0
    });
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::model;
    use crate::table::Table;

    fn measured(delivery_us: f64, connection_bytes: f64) -> Table {
        let mut table = Table::default();
        let (alone, compared) = ("one acknowledges alone, on one node", ("tidings", "append"));
        table.column(alone, compared, "append", 1).keep("one after the other", "a second", 2_000.0);
        let acks = "9 acknowledgements at once";
        let mut keep = |row, measure, unit, value| {
            table.column(row, ("tidings", "append"), "tidings", 1).keep(measure, unit, value);
        };
        keep("one broadcast to 9 idle clients", "CPU a delivery", "µs", delivery_us);
        keep("one broadcast to 9 idle clients", "an idle connection, RssAnon", "bytes", connection_bytes);
        keep("9 handshakes at once", "handshakes", "a second", 10_000.0);
        keep(acks, "confirmed", "a second", 20_000.0);
        keep(acks, "an acknowledgement in the log", "bytes", 60.0);
        keep("a log of 9 acknowledgements, 500 an event", "read", "acknowledgements a second", 500_000.0);
        table
    }

    #[test]
    fn the_narrowest_limit_counts() {
        for (delivery_us, connection_bytes, replicas) in [
            (5.0, 1_000.0, "| replicas, 100,000 connections each (choice is the limit) | 10.0 | 1,000 |"),
            (20.0, 1_000.0, "| replicas, 50,000 connections each (its core is the limit) | 20.0 | 2,000 |"),
            (5.0, 80_000.0, "| replicas, 50,000 connections each (its memory is the limit) | 20.0 | 2,000 |"),
        ] {
            let model = model(&measured(delivery_us, connection_bytes), "tidings", "append").unwrap();
            assert!(model.contains(replicas), "{model}");
        }
    }

    #[test]
    fn the_rest_follows() {
        let model = model(&measured(5.0, 1_000.0), "tidings", "append").unwrap();
        for line in [
            "| a broadcast is at the last client after, s | 0.50 | 0.50 |",
            "| everybody of one replica is back after, s | 1.11 | 0.01 |",
            "| acknowledgements a second | 1,667 | 166,667 |",
            "| of what every replica applies, % | 0.33 | 33.3 |",
            "| acknowledgements that have to share an append | 1.00 | 83.3 |",
            "| an acknowledgement waits for its append at most, s | 5.0e-3 | 0.50 |",
            "| NATS sends of them to all replicas, MB a second | 1.00 | 10,000 |",
            "| growth of the log, GB a day | 0.60 | 60.0 |",
            "| a replica from an empty disk, h for each year of the log | 2.03 | 203 |",
        ] {
            assert!(model.contains(line), "{line} is not in {model}");
        }
        assert_eq!(super::model(&Table::default(), "tidings", "append"), None);
    }
}
