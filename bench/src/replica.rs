//! A replica as a process with a data directory of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::cores::Cores;
use crate::identity::{BELIEVING, SECRET};
use crate::nats::Nats;
use crate::process::{Running, folder, tidings, until};

/// A replica.
pub struct Replica {
    running: Option<Running>,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddrV4,
    /// From its start until it was ready.
    pub took: Duration,
}

impl Replica {
    /// Starts one with a data directory of its own on the server's core, and waits until it is ready.
    pub fn start(nats: &Nats, cores: &Cores, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut replica = Self::prepared()?;
        replica.begin(nats, arguments, |command| cores.spawn_server(command))?;
        Ok(replica)
    }

    /// The same with all cores.
    pub fn start_anywhere(nats: &Nats, cores: &Cores, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut replica = Self::prepared()?;
        replica.start_again(nats, cores, arguments)?;
        Ok(replica)
    }

    /// Starts it again with all cores, on what it has on disk.
    pub fn start_again(&mut self, nats: &Nats, cores: &Cores, arguments: &[&str]) -> anyhow::Result<()> {
        self.begin(nats, arguments, |command| cores.spawn_anywhere(command))
    }

    fn prepared() -> anyhow::Result<Self> {
        let address = SocketAddrV4::new([127, 0, 0, 1].into(), 0);
        Ok(Self { running: None, folder: folder()?, address, took: Duration::ZERO })
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn begin(
        &mut self,
        nats: &Nats,
        arguments: &[&str],
        spawn: impl FnOnce(&mut Command) -> anyhow::Result<Child>,
    ) -> anyhow::Result<()> {
        let (data, log) = (self.data_dir(), self.folder.path().join("log"));
        let _ = fs::remove_file(data.join("http.url"));
        let mut command = Running::command(tidings()?, &log)?;
        command.args(["serve", "--listen", "127.0.0.1:0", "--nats", &nats.url]).arg("--data-dir").arg(&data);
        let secret = self.folder.path().join("secret");
        fs::write(&secret, SECRET)?;
        command.args(BELIEVING).arg("--auth-secret-file").arg(secret);
        let begun = Instant::now();
        let mut running = Running::of(spawn(command.args(arguments).env("TIDINGS_LOG", "warn"))?);
        self.address = until("the replica is ready", || {
            if running.has_ended() {
                bail!("the replica ended: {}", fs::read_to_string(&log)?);
            }
            let url = fs::read_to_string(data.join("http.url")).unwrap_or_default();
            let address = url.trim().trim_start_matches("http://").parse().ok();
            Ok(address.filter(|address| is_ready(*address)))
        })?;
        self.took = begun.elapsed();
        self.running = Some(running);
        Ok(())
    }

    /// The id of its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running.as_ref().context("it runs")?.pid())
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.terminate())
    }
}

fn is_ready(address: SocketAddrV4) -> bool {
    get(address, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// What a replica's metric says; 0 before there is anything to count.
pub fn metric(address: SocketAddrV4, name: &str) -> anyhow::Result<f64> {
    let metrics = get(address, "/metrics")?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?.unwrap_or_default())
}

/// The whole answer.
fn get(address: SocketAddrV4, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
