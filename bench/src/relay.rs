//! The least that can stand between a client and the log: a process that appends a message for whoever sends it some bytes, and
//! answers when the log has it. It has no users, no store and no second client.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::cores::Cores;
use crate::logs::APPENDED;
use crate::nats::Nats;
use crate::process::Running;

/// The argument by which the benchmark becomes one; the address of NATS follows.
pub const BECOME: &str = "relay";

/// As many bytes as a client's frame that acknowledges has, and as the one that confirms it.
const ASKED: usize = 92;
const ANSWERED: usize = 109;

/// A relay that was started, and the one connection to it. It ends with this value.
pub struct Relay {
    stream: TcpStream,
    _running: Running,
}

impl Relay {
    /// Starts one on the server's core.
    pub fn start(cores: &Cores, nats: &Nats) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args([BECOME, &nats.url]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = cores.spawn_server(&mut command)?;
        let said = child.stdout.take().context("its stdout is a pipe")?;
        let running = Running::of(child);
        let mut address = String::new();
        BufReader::new(said).read_line(&mut address)?;
        let stream = TcpStream::connect(address.trim()).context("the relay says where it listens")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, _running: running })
    }

    /// Asks for an append to the stream that [`crate::logs::Client::prepare`] made, and returns how long it took until the answer.
    pub fn append(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.stream.write_all(&[b'x'; ASKED])?;
        self.stream.read_exact(&mut [0; ANSWERED])?;
        Ok(begun.elapsed())
    }
}

/// Is one until it is killed, its parent dies, or its client goes.
pub fn run(nats: &str) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let context = jetstream::new(async_nats::connect(nats).await?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut asked = [0; ASKED];
        while stream.read_exact(&mut asked).await.is_ok() {
            context.publish(APPENDED.0, vec![b'x'; APPENDED.1].into()).await?.await?;
            stream.write_all(&[b'x'; ANSWERED]).await?;
        }
        Ok(())
    })
}
