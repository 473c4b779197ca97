//! Broadcasts that very many have acknowledged, beside broadcasts that nobody has: whether what one user does costs more.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tidings::domain::BroadcastId;

use super::{Bench, NO_HEARTBEAT, TIDINGS, middle, millis};
use crate::caller::Caller;
use crate::identity::Issuer;
use crate::logs::{Client, MIRRORED_SECONDS};
use crate::measure::Measured;
use crate::nats::Nats;
use crate::replica::Replica;
use crate::statistics::counted;

/// Each request is made so often, turn by turn on both replicas: the median counts.
const TRIES: u32 = 40;

/// Posts, alone and beside repeats.
const POSTS: u32 = 10;

/// How long after a broadcast was superseded its acknowledgements are being sealed: see `SEALED_AFTER` in `projection/fold.rs`.
const UNTIL_SEALING: Duration = Duration::from_millis(300);

/// Acknowledgements that one user repeats at one moment, each on a connection of its own.
const REPEATS: usize = 60;

/// Whose broadcasts nobody has acknowledged.
const EMPTY: &str = "nobody acknowledged";

/// A replica, and what it is asked about.
struct Place {
    name: &'static str,
    replica: Replica,
    log: Client,
    _nats: Nats,
    /// A broadcast that was superseded, and the active one.
    broadcasts: [BroadcastId; 2],
    creator: Caller,
    took: Took,
}

/// How long requests took.
#[derive(Default)]
struct Took {
    new: [Vec<Duration>; 2],
    repeated: [Vec<Duration>; 2],
    active: Vec<Duration>,
    guard: Duration,
    post: Vec<Duration>,
    post_beside: Vec<Duration>,
}

pub(super) fn round(bench: &mut Bench, round: u32) -> anyhow::Result<()> {
    let users = bench.options.events;
    let issuer = Issuer::new()?;
    let mut places =
        [Place::prepare(bench, &issuer, TIDINGS, users)?, Place::prepare(bench, &issuer, EMPTY, 0)?];
    for number in 0..TRIES {
        for place in &mut places {
            place.acknowledge(&issuer, number)?;
        }
    }
    for place in &mut places {
        place.took.guard = place.log.last_lifecycle()?;
    }
    // The first of them supersedes the active broadcast, which is sealed while the others are made.
    for number in 0..POSTS {
        if number == 1 {
            thread::sleep(UNTIL_SEALING);
        }
        for place in &mut places {
            let took = place.post(number)?;
            place.took.post.push(took);
        }
    }
    for number in 0..POSTS {
        for place in &mut places {
            let took = place.post_beside_repeats(&issuer, number)?;
            place.took.post_beside.push(took);
        }
    }
    let row = format!("two broadcasts that {users} users acknowledged each, one of them active");
    for place in &places {
        place.keep(bench, &row, round)?;
    }
    Ok(())
}

impl Place {
    fn prepare(bench: &Bench, issuer: &Issuer, name: &'static str, users: u64) -> anyhow::Result<Self> {
        let nats = Nats::start(&bench.cores)?;
        let log = Client::of(&nats)?;
        let broadcasts = log.fill_two(users)?;
        let arguments = [&NO_HEARTBEAT[..], &["--acks-max-age-seconds", MIRRORED_SECONDS]].concat();
        let replica = Replica::start(&nats, &bench.cores, &arguments)?;
        let creator = Caller::connect(replica.address, issuer.token("bench", "creator")?)?;
        let place = Self { name, replica, log, _nats: nats, broadcasts, creator, took: Took::default() };
        // What is repeated has been made before, where the log does not have it.
        for number in 0..TRIES {
            for which in 0..place.broadcasts.len() {
                place.acknowledged(issuer, &format!("user-{number}"), which)?;
            }
        }
        Ok(place)
    }

    fn acknowledged(&self, issuer: &Issuer, user: &str, which: usize) -> anyhow::Result<(bool, Duration)> {
        let mut caller = Caller::connect(self.replica.address, issuer.token(user, "user")?)?;
        let body = json!({"broadcast_id": self.broadcasts.get(which).context("there are two")?});
        let answer = caller.succeed("POST", "/acknowledge", Some(&body))?;
        Ok((answer.body["already"] == Value::Bool(true), answer.took))
    }

    /// Somebody new and somebody again acknowledges each of the broadcasts, and looks what is active.
    fn acknowledge(&mut self, issuer: &Issuer, number: u32) -> anyhow::Result<()> {
        for which in 0..self.broadcasts.len() {
            let (already, took) = self.acknowledged(issuer, &format!("new-{number}"), which)?;
            ensure!(!already, "somebody new is new");
            self.took.new[which].push(took);
            let (already, took) = self.acknowledged(issuer, &format!("user-{number}"), which)?;
            ensure!(already, "what is repeated is known");
            self.took.repeated[which].push(took);
        }
        let token = issuer.token(&format!("reader-{number}"), "user")?;
        let active = Caller::connect(self.replica.address, token)?.succeed("GET", "/active", None)?;
        self.took.active.push(active.took);
        Ok(())
    }

    fn post(&mut self, number: u32) -> anyhow::Result<Duration> {
        let body = json!({"message": format!("another {number}"), "type": "info"});
        Ok(self.creator.succeed("POST", "", Some(&body))?.took)
    }

    /// A post, while a user repeats an acknowledgement of the superseded broadcast on sixty connections.
    fn post_beside_repeats(&mut self, issuer: &Issuer, number: u32) -> anyhow::Result<Duration> {
        let token = issuer.token(&format!("user-{number}"), "user")?;
        let callers = (0..REPEATS).map(|_| Caller::connect(self.replica.address, token.clone()));
        let callers = callers.collect::<Result<Vec<_>, _>>()?;
        let body = json!({"broadcast_id": self.broadcasts[0]});
        let begin = Barrier::new(REPEATS + 1);
        thread::scope(|scope| {
            let repeat = |mut caller: Caller| {
                let (begin, body) = (&begin, &body);
                scope.spawn(move || {
                    begin.wait();
                    caller.succeed("POST", "/acknowledge", Some(body)).map(|answer| answer.body)
                })
            };
            let repeats: Vec<_> = callers.into_iter().map(repeat).collect();
            begin.wait();
            let took = self.post(number);
            for repeat in repeats {
                let answer = repeat.join().ok().context("a caller panicked")??;
                ensure!(answer["already"] == true, "what is repeated is known: {answer}");
            }
            took
        })
    }

    fn keep(&self, bench: &mut Bench, row: &str, round: u32) -> anyhow::Result<()> {
        let memory = Measured::new(self.replica.pid()?)?.memory()?;
        let took = &self.took;
        let median = |took: &[Duration]| middle(took, |took| millis(*took));
        let mut column = bench.table.column(row, (TIDINGS, EMPTY), self.name, round);
        column.compare("somebody acknowledges the superseded one", "ms", median(&took.new[0]));
        column.compare("somebody acknowledges the active one", "ms", median(&took.new[1]));
        column.compare("the same again, the superseded one", "ms", median(&took.repeated[0]));
        column.compare("the same again, the active one", "ms", median(&took.repeated[1]));
        column.compare("what is active", "ms", median(&took.active));
        column.keep("NATS finds the last post behind all that", "ms", millis(took.guard));
        let first = took.post.first().map_or(f64::NAN, |first| millis(*first));
        column.compare("a post that supersedes the active one", "ms", first);
        column.compare("a post", "ms", median(&took.post));
        column.compare("a post beside sixty repeats", "ms", median(&took.post_beside));
        column.keep("RssAnon", "MiB", counted(usize::try_from(memory.anonymous)?) / f64::from(1 << 20));
        Ok(())
    }
}
