//! What a replica is compared with: servers of this benchmark itself, processes of its own binary or, if they are no Rust, of
//! programs that `make bench-peers` installs.
//!
//! They take connections and broadcasts at the same addresses as a replica and send the same bytes, but have no log, no users and
//! no bounds. Another one is another variant of [`Peer`] and a file beside these.

mod axum_plain;
mod installed;
mod send_loop;

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cores::Cores;
use crate::process::Running;

/// The argument by which the benchmark becomes one.
pub const BECOME: &str = "peer";

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `send(2)` in a loop over all sockets: nothing can cost less that makes a call for each client.
    SendLoop,
    /// The same, but that who acknowledges is answered only when [`LATER`] others have done so too, or nobody does.
    LateEcho,
    /// A task a connection on axum's WebSocket as it is: it keeps 128 KiB for reading for each.
    AxumDefaults,
    /// The same with 4 KiB.
    AxumSmall,
    /// Bun's own WebSocket server, with uWebSockets inside.
    Bun,
    /// What Tidings replaces: `FastAPI` with its WebSockets, and Redis between its processes, of which there is one.
    FastApiRedis,
}

/// Acknowledgements in the meantime, where an answer comes late: as many as share an event in a storm.
const LATER: usize = 750;

/// A peer that was started. It ends with this value.
pub struct Started {
    running: Vec<Running>,
    /// Where it listens.
    pub address: SocketAddrV4,
    /// What it writes.
    _folder: Option<TempDir>,
}

impl Started {
    /// The ids of its processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.running.iter().map(Running::pid)
    }
}

impl Peer {
    /// Those that are this binary, but for those that differ in answers alone.
    const OWN: [Self; 3] = [Self::SendLoop, Self::AxumDefaults, Self::AxumSmall];

    /// Those that have to be installed.
    const INSTALLED: [Self; 2] = [Self::Bun, Self::FastApiRedis];

    /// All that broadcasts are compared of.
    pub fn all(installed: bool) -> impl Iterator<Item = Self> {
        let others = if installed { &Self::INSTALLED[..] } else { &[] };
        Self::OWN.into_iter().chain(others.iter().copied())
    }

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendLoop => "send loop",
            Self::LateEcho => "a late echo",
            Self::AxumDefaults => "axum, defaults",
            Self::AxumSmall => "axum, 4 KiB",
            Self::Bun => "Bun",
            Self::FastApiRedis => "FastAPI + Redis",
        }
    }

    /// How many clients it is given at most: more of them take minutes to connect to the slow.
    pub const fn most_clients(self) -> usize {
        match self {
            Self::FastApiRedis => 2_000,
            Self::SendLoop | Self::LateEcho | Self::AxumDefaults | Self::AxumSmall | Self::Bun => usize::MAX,
        }
    }

    /// Starts it on the server's core; one that has to be installed from the folder where it is.
    pub fn start(self, cores: &Cores, installed: Option<&Path>) -> anyhow::Result<Started> {
        let folder = || installed.context("PEERS names the folder; `make bench-peers` sets it");
        match self {
            Self::SendLoop | Self::LateEcho | Self::AxumDefaults | Self::AxumSmall => self.start_own(cores),
            Self::Bun => installed::bun(folder()?, cores),
            Self::FastApiRedis => installed::fastapi_redis(folder()?, cores),
        }
    }

    fn start_own(self, cores: &Cores) -> anyhow::Result<Started> {
        let mut command = Command::new(env::current_exe()?);
        command.args([BECOME, self.name()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = cores.spawn_server(&mut command)?;
        let said = child.stdout.take().context("its stdout is a pipe")?;
        let running = Running::of(child);
        let mut address = String::new();
        BufReader::new(said).read_line(&mut address)?;
        let address =
            address.trim().parse().with_context(|| format!("{} says where it listens", self.name()))?;
        Ok(Started { running: vec![running], address, _folder: None })
    }

    /// Is this server until it is killed, or its parent dies.
    pub fn run(name: &str) -> anyhow::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut own = Self::OWN.into_iter().chain([Self::LateEcho]);
        match own.find(|peer| peer.name() == name).context("it is none of this binary")? {
            Self::SendLoop => send_loop::run(0),
            Self::LateEcho => send_loop::run(LATER),
            Self::AxumDefaults => axum_plain::run(None),
            Self::AxumSmall => axum_plain::run(Some(4 * 1024)),
            Self::Bun | Self::FastApiRedis => bail!("{name} is a program of its own"),
        }
    }
}

/// Tells the parent where to connect.
fn say(address: SocketAddr) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{address}")?;
    Ok(stdout.flush()?)
}

/// How many may wait to be accepted; as many as a replica lets wait.
const BACKLOG: u16 = 4_096;

/// The id of every broadcast of a peer.
const ID: &str = "01a215d7-b34d-712f-989d-235a2e6acb60";

/// What every client is told when this is posted: as long as what a replica says.
fn told(posted: &Value) -> String {
    let message = json!({
        "type": "new_broadcast",
        "broadcast": {
            "id": ID, "message": posted["message"], "type": "info", "message_type": "info", "created_by": "bench",
            "created_at": "2026-11-26T03:13:07.772Z",
        },
        "position": "9f2c41d07be3a865-1",
    });
    message.to_string()
}

/// What a client is told that acknowledges: as long as what a replica says.
fn confirmation() -> String {
    json!({"type": "acknowledged", "broadcast_id": ID, "already": false, "position": "9f2c41d07be3a865-42"})
        .to_string()
}

/// What the creator is answered.
fn answer() -> Value {
    json!({"status": "success", "id": ID})
}
