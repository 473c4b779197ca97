//! What a replica is compared with: servers of this benchmark itself, processes of its own binary.
//!
//! They take connections and broadcasts at the same addresses as a replica and send the same bytes, but have no log, no users and
//! no bounds. Another one is another variant of [`Peer`] and a file beside these.

mod axum_plain;
mod send_loop;

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, SocketAddrV4};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};

use super::cores::Cores;
use super::replica::Running;

/// The argument by which the benchmark becomes one.
pub const BECOME: &str = "peer";

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `send(2)` in a loop over all sockets: nothing can cost less that makes a call for each client.
    SendLoop,
    /// A task a connection on axum's WebSocket as it is: it keeps 128 KiB for reading for each.
    AxumDefaults,
    /// The same with 4 KiB.
    AxumSmall,
}

impl Peer {
    /// All, in the order of the table.
    pub const ALL: [Self; 3] = [Self::SendLoop, Self::AxumDefaults, Self::AxumSmall];

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendLoop => "send loop",
            Self::AxumDefaults => "axum, defaults",
            Self::AxumSmall => "axum, 4 KiB",
        }
    }

    /// Starts it on the server's core.
    pub fn start(self, cores: &Cores) -> anyhow::Result<(Running, SocketAddrV4)> {
        let mut command = Command::new(env::current_exe()?);
        command.args([BECOME, self.name()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = cores.spawn_server(&mut command)?;
        let said = child.stdout.take().context("its stdout is a pipe")?;
        let running = Running::of(child);
        let mut address = String::new();
        BufReader::new(said).read_line(&mut address)?;
        Ok((
            running,
            address.trim().parse().with_context(|| format!("{} says where it listens", self.name()))?,
        ))
    }

    /// Is this server until it is killed, or its parent dies.
    pub fn run(name: &str) -> anyhow::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        match Self::ALL.into_iter().find(|peer| peer.name() == name).context("a peer has a name")? {
            Self::SendLoop => send_loop::run(),
            Self::AxumDefaults => axum_plain::run(None),
            Self::AxumSmall => axum_plain::run(Some(4 * 1024)),
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
        "sequence": 1,
    });
    message.to_string()
}

/// What the creator is answered.
fn answer() -> Value {
    json!({"status": "success", "id": ID})
}
