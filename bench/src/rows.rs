//! The rows of the table, a file each, and what they have in common.

mod acknowledgements;
mod alone;
mod crowded;
mod heartbeat;
mod hostile;
mod slow;
mod one;
mod rebuild;
mod shards;
mod storm;
mod twenty;

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::cores::Cores;
use crate::identity::Issuer;
use crate::load::{Load, Plan};
use crate::measure::{CpuTime, Measured, own_cpu};
use crate::nats::Nats;
use crate::options::Options;
use crate::peers::{Peer, Started};
use crate::replica::Replica;
use crate::statistics::{Summary, counted};
use crate::table::{Column, Table};

/// What the table calls a replica.
pub const TIDINGS: &str = "tidings";

/// Whom an acknowledgement is compared with.
pub const APPEND: &str = "a bare append";

/// Whom a table of several servers is about, and whom it compares with.
const PEERS: (&str, &str) = (TIDINGS, Peer::SendLoop.name());

/// A heartbeat that does not come while something else is measured.
const NO_HEARTBEAT: [&str; 4] = ["--heartbeat-seconds", "36000", "--liveness-seconds", "72000"];

/// Handshakes under way at once where no storm is meant.
const CALM: usize = 256;

/// What everything is measured with.
pub struct Bench {
    /// What was chosen.
    pub options: Options,
    /// Who runs where.
    pub cores: Cores,
    /// What came of it.
    pub table: Table,
    /// Loads so far: each has addresses of its own.
    loads: u32,
}

/// Measures a row once.
type Round = fn(&mut Bench, u32) -> anyhow::Result<()>;

/// Every row, with its name for `ONLY`.
const ROWS: [(&str, Round); 11] = [
    ("one", one::round),
    ("twenty", twenty::round),
    ("storm", storm::round),
    ("acks", acknowledgements::round),
    ("alone", alone::round),
    ("crowded", crowded::round),
    ("rebuild", rebuild::round),
    ("heartbeat", heartbeat::round),
    ("slow", slow::round),
    ("hostile", hostile::round),
    ("shards", shards::round),
];

impl Bench {
    /// Nothing is measured yet.
    pub fn new(options: Options, cores: Cores) -> Self {
        Self { options, cores, table: Table::default(), loads: 0 }
    }

    /// Measures all rows that are wanted, round by round.
    pub fn run(&mut self) -> anyhow::Result<()> {
        for round in 1..=self.options.rounds {
            for (name, measure) in ROWS {
                if self.options.wants(name) {
                    let begun = Instant::now();
                    measure(self, round)?;
                    eprintln!("round {round}: {name}, {:.1} s", begun.elapsed().as_secs_f64());
                }
            }
        }
        Ok(())
    }

    /// A replica on a nats-server of its own.
    fn replica(&self, arguments: &[&str]) -> anyhow::Result<Server> {
        self.replica_on(Nats::start(&self.cores)?, arguments)
    }

    fn replica_on(&self, nats: Nats, arguments: &[&str]) -> anyhow::Result<Server> {
        let replica = Replica::start(&nats, &self.cores, arguments)?;
        let (address, process) = (replica.address, Measured::new(replica.pid()?)?);
        let running = Kept::Replica(replica, nats);
        Ok(Server { name: TIDINGS, address, process, greets: true, most: usize::MAX, running })
    }

    fn peer(&self, peer: Peer) -> anyhow::Result<Server> {
        let started = peer.start(&self.cores, self.options.peers.as_deref())?;
        let (address, process) = (started.address, Measured::together(started.pids())?);
        let (most, running) = (peer.most_clients(), Kept::Peer(started));
        Ok(Server { name: peer.name(), address, process, greets: false, most, running })
    }

    /// A replica and everybody that it is compared with, one after the other, each time another one first.
    fn each_server(
        &mut self,
        round: u32,
        mut measure: impl FnMut(&mut Self, &Server) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let peers = Peer::all(self.options.peers.is_some()).map(Some);
        let mut servers = [None].into_iter().chain(peers).collect::<Vec<_>>();
        another_first(round, &mut servers)?;
        for server in servers {
            let server = match server {
                None => self.replica(&NO_HEARTBEAT)?,
                Some(peer) => self.peer(peer)?,
            };
            measure(self, &server)?;
        }
        Ok(())
    }

    /// So many clients of a server, not connected yet.
    fn load(&mut self, server: &Server, clients: usize) -> anyhow::Result<Load> {
        self.load_as(server, Plan { clients, deaf: 0, at_once: CALM, greeted: server.greets, long: false })
    }

    fn load_as(&mut self, server: &Server, plan: Plan) -> anyhow::Result<Load> {
        self.loads += 1;
        Load::of(server.address, plan, self.loads, &Issuer::new()?)
    }
}

/// A server under load. It ends with this value.
struct Server {
    name: &'static str,
    address: SocketAddrV4,
    process: Measured,
    /// Whether it tells a client the state on connect.
    greets: bool,
    /// How many clients it is given at most.
    most: usize,
    running: Kept,
}

#[expect(dead_code, reason = "the processes live as long as this")]
enum Kept {
    Replica(Replica, Nats),
    Peer(Started),
}

/// What broadcasts cost, however many.
struct Cost {
    before: CpuTime,
    deliveries_before: u64,
    own_before: Duration,
}

impl Cost {
    /// From now on.
    fn begin(server: &Server, load: &Load) -> anyhow::Result<Self> {
        Ok(Self {
            before: server.process.cpu_at_rest()?,
            deliveries_before: load.heard.deliveries,
            own_before: own_cpu(),
        })
    }

    /// The processor time of the server and of the load for each delivery since then, in microseconds.
    fn a_delivery(&self, server: &Server, load: &Load) -> anyhow::Result<(f64, f64)> {
        let own = own_cpu().saturating_sub(self.own_before);
        let cpu = server.process.cpu_at_rest()?.since(&self.before);
        let deliveries = counted(usize::try_from(load.heard.deliveries - self.deliveries_before)?.max(1));
        Ok((micros(cpu) / deliveries, micros(own) / deliveries))
    }
}

/// What one broadcast to idle clients took.
struct Delivered {
    /// A delivery, of the server and of the load, in microseconds.
    cpu: (f64, f64),
    /// From the answer to the creator until the last client has it, in milliseconds.
    from_answer: f64,
    /// The same from when it was posted.
    from_post: f64,
}

/// Sends one broadcast to clients that are idle, and waits until all have it.
fn deliver(server: &Server, load: &mut Load) -> anyhow::Result<Delivered> {
    let cost = Cost::begin(server, load)?;
    let number = load.post()?;
    let accepted = load.accepted()?;
    let last = load.delivered(number)?;
    Ok(Delivered {
        cpu: cost.a_delivery(server, load)?,
        from_answer: millis(last.saturating_duration_since(accepted.at)),
        from_post: millis(last.saturating_duration_since(accepted.posted)),
    })
}

/// Turns what is measured one after the other, so that each round begins with another one.
fn another_first<T>(round: u32, turns: &mut [T]) -> anyhow::Result<()> {
    let first = usize::try_from(round)? % turns.len();
    turns.rotate_left(first);
    Ok(())
}

/// The median of what came of a few tries within one round.
fn middle<T>(tries: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let values: Vec<_> = tries.iter().map(value).collect();
    Summary::of(&values).map_or(f64::NAN, |summary| summary.median)
}

/// What clients must be able to rely on: zeros. The benchmark fails at its end if they are none.
fn keep_faults(column: &mut Column<'_>, load: &Load) -> anyhow::Result<()> {
    column.none("lost, doubled or out of order", "deliveries", counted(usize::try_from(load.heard.wrong())?));
    column.none("refused or disconnected", "clients", counted(load.refused + load.lost));
    if let Some(trouble) = &load.heard.trouble {
        eprintln!("{trouble}");
    }
    Ok(())
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
