//! `admin`: looks after a deployment.

mod status;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::data_dir::{self, DataDir, InUse};
use super::{connect_read_only, embedded_nats, keys, print, tokens};
use crate::config::{Admin, NatsOptions, StreamOptions};
use crate::log::names::LOG_STREAM;
use crate::notary::note::KeyName;
use crate::projection::store::quarantine;

/// The exit code of a command that needs a stopped replica and met a running one.
const RUNNING: u8 = 3;

/// A health check that takes longer has its answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn run(command: Admin) -> anyhow::Result<ExitCode> {
    match command {
        Admin::Provision { nats, streams, adopt } => provision(&nats, &streams, adopt).await,
        Admin::Status { nats, format } => status::status(&nats, format).await,
        Admin::NatsUrl { data_dir } => {
            print(&format!("{}\n", embedded_nats(&data_dir)?))?;
            Ok(ExitCode::SUCCESS)
        }
        Admin::Rebuild { data_dir } => rebuild(&data_dir),
        Admin::Health { url, data_dir } => health(url, &data_dir).await,
        Admin::Keygen { name, file } => keygen(name, &file),
        Admin::Token(options) => {
            print(&format!("{}\n", tokens::mint(&options)?))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Exit code 0 when everything is as defined, 1 when something differs.
async fn provision(nats: &NatsOptions, streams: &StreamOptions, adopt: bool) -> anyhow::Result<ExitCode> {
    let connection = connect_read_only(nats).await?;
    let provision = streams.provision();
    if adopt && let Some(epoch) = provision.adopt(&provision.context(&connection.client)).await? {
        print(&format!("The stream {LOG_STREAM} is the log now. Its epoch is {epoch}.\n"))?;
    }
    let drifts = provision.everything(&provision.context(&connection.client)).await?;
    for drift in &drifts {
        print(&format!("{drift}{}\n", if drift.guarding { " (a guarantee depends on it)" } else { "" }))?;
    }
    if let Some(warning) = provision.one_copy_in_a_cluster(&provision.context(&connection.client)).await {
        print(&format!("Warning: {warning}.\n"))?;
    }
    if drifts.is_empty() {
        print("Everything is there, as defined.\n")?;
    }
    Ok(ExitCode::from(u8::from(!drifts.is_empty())))
}

/// Exit code 3 when a replica runs there: what it shows its clients is not taken from under it.
fn rebuild(directory: &Path) -> anyhow::Result<ExitCode> {
    if !directory.is_dir() {
        bail!("there is no data directory {}; name a replica's with --data-dir", directory.display());
    }
    let data_dir = match DataDir::take_existing(directory) {
        Ok(data_dir) => data_dir,
        Err(error) => {
            let InUse { path, process } = error.downcast::<InUse>()?;
            let process = process.map_or_else(String::new, |id| format!(", process {id}"));
            eprintln!(
                "tidings: a replica runs in {}{process}. Nothing was changed. Stop it, run this again, then start it: it \
                 rebuilds from the log while other replicas serve",
                path.display()
            );
            return Ok(ExitCode::from(RUNNING));
        }
    };
    let quarantined = quarantine(&data_dir.projection())?;
    let done = quarantined.map_or_else(
        || "There is no projection yet".to_owned(),
        |directory| format!("The projection is now {}", directory.display()),
    );
    print(&format!("{done}. The next start of this replica builds it from the log.\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn keygen(name: KeyName, file: &Path) -> anyhow::Result<ExitCode> {
    let key = keys::generate(name, file)?;
    print(&format!("{}\n", key.public()))?;
    Ok(ExitCode::SUCCESS)
}

/// One plain request; no client library is needed for a look at a status line.
async fn health(url: Option<String>, directory: &Path) -> anyhow::Result<ExitCode> {
    let url = url.or_else(|| data_dir::read(directory, data_dir::HTTP_URL));
    let url =
        url.with_context(|| format!("no replica runs in {}; name one with --url", directory.display()))?;
    let address =
        url.trim_end_matches('/').strip_prefix("http://").context("the URL must begin with http://")?;
    // Whoever listens everywhere is asked on this machine.
    let reachable = address.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
    let answer = timeout(HEALTH_TIMEOUT, ask(&reachable)).await;
    let answer = answer.with_context(|| format!("{url} did not answer in time"))??;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    print(&format!("{body}\n"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => bail!("{url} does not speak HTTP"),
    }
}

async fn ask(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer).await?;
    Ok(answer)
}
