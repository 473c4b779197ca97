//! What may be chosen, by variables of the environment, so that `make bench ROUNDS=3 CLIENTS=1000` is a quick look.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;

/// The choices.
#[derive(Clone, Debug)]
pub struct Options {
    /// `ROUNDS`: how often everything is measured. Six are the fewest that give an interval of 95 %.
    pub rounds: u32,
    /// `CLIENTS`: to how many clients one broadcast goes, several numbers apart by commas. The other rows have at most the
    /// largest of them.
    pub clients: Vec<usize>,
    /// `ONLY`: the rows to measure, apart by commas; all, if it is empty.
    pub only: Vec<String>,
    /// `EVENTS`: how many acknowledgements the logs have that are read anew.
    pub events: u64,
    /// `SECONDS`: how long idle connections are watched.
    pub watched: Duration,
    /// `BROADCASTS`: how many go out while some clients do not read.
    pub broadcasts: u32,
    /// `WINDOW`: how long each flood is watched, and the calm around it.
    pub window: Duration,
    /// `PEERS`: the folder of the servers that are no Rust; `make bench-peers` names it, and without it they are not measured.
    pub peers: Option<PathBuf>,
    /// `PIN=0` leaves it to the kernel where the server and the load run.
    pub pin: bool,
}

impl Options {
    /// As the environment has them.
    pub fn of_environment() -> anyhow::Result<Self> {
        let clients = list::<usize>("CLIENTS")?;
        Ok(Self {
            rounds: number("ROUNDS", 9)?,
            clients: if clients.is_empty() { vec![1_000, 5_000, 15_000] } else { clients },
            only: list("ONLY")?,
            events: number("EVENTS", 1_000_000)?,
            watched: Duration::from_secs(number("SECONDS", 60)?),
            broadcasts: number("BROADCASTS", 400)?,
            window: Duration::from_secs(number("WINDOW", 5)?),
            peers: env::var_os("PEERS").filter(|folder| !folder.is_empty()).map(PathBuf::from),
            pin: number("PIN", 1)? != 0,
        })
    }

    /// As many clients as a row wants, and no more than are allowed.
    pub fn at_most(&self, wanted: usize) -> usize {
        self.clients.iter().copied().max().unwrap_or(wanted).min(wanted)
    }

    /// Whether a row is wanted.
    pub fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }
}

fn list<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str) -> anyhow::Result<Vec<T>> {
    let text = env::var(name).unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().with_context(|| format!("{name}={text}"))).collect()
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    name: &str,
    default: T,
) -> anyhow::Result<T> {
    Ok(list(name)?.into_iter().next().unwrap_or(default))
}
