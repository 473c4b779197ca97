//! Servers that are no Rust, as `make bench-peers` installs them: processes of programs of others, which run what is in `bench/peers`.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::Started;
use crate::cores::Cores;
use crate::process::{Running, folder, until};

/// Where their own code is.
fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(file)
}

/// Bun, with a topic that everybody is subscribed to.
pub(super) fn bun(installed: &Path, cores: &Cores) -> anyhow::Result<Started> {
    let folder = folder()?;
    let log = folder.path().join("log");
    let mut command = Running::command(installed.join("bun"), &log)?;
    command.arg(source("bun.ts"));
    let (running, address) = listening(cores, &mut command, &log)?;
    Ok(Started { running: vec![running], address, _folder: Some(folder) })
}

/// `FastAPI` on one process of uvicorn, and a Redis of its own that keeps nothing on disk: on the server's core both.
pub(super) fn fastapi_redis(installed: &Path, cores: &Cores) -> anyhow::Result<Started> {
    let folder = folder()?;
    let socket = folder.path().join("redis");
    let redis_log = folder.path().join("redis.log");
    let mut command = Running::command("redis-server", &redis_log)?;
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
    let mut redis = Running::of(cores.spawn_server(&mut command)?);
    until("Redis listens", || {
        if redis.has_ended() {
            bail!("redis-server ended: {}", std::fs::read_to_string(&redis_log)?);
        }
        Ok(socket.exists().then_some(()))
    })?;

    let log = folder.path().join("log");
    let mut command = Running::command("python3", &log)?;
    command.arg(source("fastapi_redis.py")).arg(&socket).env("PYTHONPATH", installed.join("python"));
    let (python, address) = listening(cores, &mut command, &log)?;
    // The one that is connected to the other ends first.
    Ok(Started { running: vec![python, redis], address, _folder: Some(folder) })
}

/// Starts a process on the server's core that says on its stdout where it listens.
fn listening(cores: &Cores, command: &mut Command, log: &Path) -> anyhow::Result<(Running, SocketAddrV4)> {
    let mut child = cores.spawn_server(command.stdout(Stdio::piped()))?;
    let said = child.stdout.take().context("its stdout is a pipe")?;
    let running = Running::of(child);
    let mut address = String::new();
    BufReader::new(said).read_line(&mut address)?;
    let address = address.trim().parse().with_context(|| {
        let log = std::fs::read_to_string(log).unwrap_or_default();
        format!("{} does not say where it listens: {log}", command.get_program().display())
    })?;
    Ok((running, address))
}
