//! `serve`: prepares the ground that a replica stands on, has it run there, and tidies up.

pub(super) mod configuration;
mod descriptors;
mod running;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use clap::parser::ValueSource;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::data_dir::{self, DataDir};
use super::keys;
use crate::clock::SystemClock;
use crate::config::{Auth, LogFormat, Serve};
use crate::error_log::{LogLimiter, causes};
use crate::log::connection::{self, NatsConnection, without_password};
use crate::log::embedded::{self, EmbeddedNats, EmbeddedOptions};
use crate::log::provision::{NoEpoch, Provision, Refused};
use crate::shutdown::{Hangups, Shutdown};
use crate::warnings::Warnings;
use running::{Resources, Running};

/// What the kernel keeps for a connection that does not read. Left alone, Linux lets that grow to 4 MiB for each, and a
/// slow client is noticed thousands of messages later. Connections have it from the socket that they come in by.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;

/// Connections that may wait to be accepted: when a replica goes, its clients come at once. The system may allow fewer.
const BACKLOG: u32 = 4_096;

/// A start waits this long for NATS before it goes on without.
const JOIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether somebody has said how many connections there may be, so that fewer are worth a warning.
pub(super) fn connections_are_chosen(matches: &ArgMatches) -> bool {
    let chosen = [ValueSource::CommandLine, ValueSource::EnvVariable].map(Some);
    ["max_connections", "max_sockets"].iter().any(|option| chosen.contains(&matches.value_source(option)))
}

/// Runs one replica until it is told to stop.
pub(super) async fn serve(mut options: Serve, connections_are_chosen: bool) -> anyhow::Result<()> {
    require_safe_address(&options)?;
    require_a_ping_in_time(&options)?;
    require_servers_for_the_copies(&options)?;
    descriptors::fit(&mut options, connections_are_chosen)?;
    let (begin_shutdown, shutdown) = Shutdown::listen()?;
    let hangups = Hangups::listen()?;
    let warnings = Warnings::default();
    let authenticator = options.identity.authenticator(&options.channels, &warnings).await?;
    let (listener, url) = listen(options.listen)?;
    let data_dir = DataDir::take(&options.nats.data_dir)?;
    let replica = data_dir.replica(options.replica.as_deref(), &SystemClock);
    info!(replica.name = replica, "starting tidings {}", env!("CARGO_PKG_VERSION"));
    let embedded = start_embedded(&options, &data_dir)?;
    let servers =
        embedded.as_ref().map_or_else(|| options.nats.nats.clone(), |nats| vec![nats.url_with_login()]);
    let address = options.nats.address(servers);
    let connection = connection::begin(&address, &replica).await?;
    let provision = options.streams.provision();
    let mut joining = tokio::spawn(join(connection.clone(), provision.clone()));
    let mut stopping = shutdown.clone();
    let joining = tokio::select! {
        joined = timeout(JOIN_TIMEOUT, &mut joining) => if let Ok(joined) = joined {
            joined??;
            None
        } else {
            warn!("{}; starting with what is on disk", connection.outage_reason());
            Some(joining)
        },
        () = stopping.wait() => {
            connection.close().await;
            return stop_embedded(embedded).await;
        }
    };

    let keys = keys::of_replica(&options, &data_dir, &replica)?;
    let resources = Resources::new(
        &options,
        &data_dir,
        replica,
        (connection, provision),
        shutdown,
        authenticator,
        warnings,
    );
    let authenticator = resources.authenticator.clone();
    let reloading = tokio::spawn(async move {
        authenticator.reload_at(hangups).await;
    });
    let running = Running::start(resources, listener, joining, keys)?;
    if let Err(error) = data_dir.write(data_dir::HTTP_URL, &url) {
        warn!("commands do not find this replica by its data directory: {error:#}");
    }
    match options.log_format {
        LogFormat::Text => print_welcome(&options, &url, embedded.as_ref()),
        LogFormat::Json => info!(http.url = url, "listening"),
    }
    let outcome = running.until_stopped(begin_shutdown).await;
    reloading.abort();
    data_dir.forget();
    stop_embedded(embedded).await?;
    info!("stopped");
    outcome
}

/// Dev auth believes everyone, so only this machine may reach it.
fn require_safe_address(options: &Serve) -> anyhow::Result<()> {
    let dev = options.identity.auth == Auth::Dev;
    if !dev || options.listen.ip().is_loopback() || options.identity.auth_dev_anywhere {
        return Ok(());
    }
    bail!(
        "--auth dev believes whatever callers say of themselves, so it listens on a loopback address only, and {} is \
         none. Where something else limits who reaches it, --auth-dev-anywhere allows it",
        options.listen
    )
}

/// Whoever is pinged only after they count as gone is never asked.
fn require_a_ping_in_time(options: &Serve) -> anyhow::Result<()> {
    let (heartbeat, liveness) = (options.heartbeat_seconds, options.liveness_seconds);
    if heartbeat < liveness {
        return Ok(());
    }
    bail!(
        "--heartbeat-seconds {heartbeat} must be less than --liveness-seconds {liveness}: a silent client is pinged \
         after the one, and closed after the other"
    )
}

/// The nats-server that a replica runs for itself is one, and keeps one copy of each stream.
fn require_servers_for_the_copies(options: &Serve) -> anyhow::Result<()> {
    let copies = options.streams.stream_replicas;
    if copies == 1 || !options.nats.nats.is_empty() {
        return Ok(());
    }
    bail!(
        "--stream-replicas {copies} needs a NATS cluster of {copies} servers, and without --nats a replica runs a single \
         nats-server of its own: name the servers of the cluster with --nats, or leave --stream-replicas at 1"
    )
}

/// Takes the port before anything is begun that would have to be undone, such as a heartbeat under the replica's name.
/// Whoever connects before the replica is there waits for it.
fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, String)> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let listener =
        open().with_context(|| format!("listening on {address} (--listen names another address)"))?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

fn start_embedded(options: &Serve, data_dir: &DataDir) -> anyhow::Result<Option<EmbeddedNats>> {
    if !options.nats.nats.is_empty() {
        return Ok(None);
    }
    let nats = EmbeddedNats::start(&EmbeddedOptions {
        binary: embedded::find(options.nats_server.as_deref())?,
        directory: data_dir.join("nats"),
        port: options.nats_port,
        max_file_store: options.embedded_store_bytes(),
    })?;
    data_dir.write(data_dir::NATS_URL, &nats.url_with_login())?;
    info!(nats.url = nats.address(), "the embedded nats-server is up");
    Ok(Some(nats))
}

async fn stop_embedded(embedded: Option<EmbeddedNats>) -> anyhow::Result<()> {
    if let Some(mut nats) = embedded {
        tokio::task::spawn_blocking(move || nats.stop())
            .await
            .context("stopping the embedded nats-server")?;
    }
    Ok(())
}

/// Waits for NATS and for everything in it that a replica needs.
async fn join(connection: NatsConnection, provision: Provision) -> anyhow::Result<()> {
    connection.wait_for_server().await?;
    provision_streams(&connection, &provision).await
}

/// Creates what is missing. What exists and differs in a guarantee stops the start; in a size, it is said.
async fn provision_streams(connection: &NatsConnection, provision: &Provision) -> anyhow::Result<()> {
    let context = provision.context(&connection.client);
    let repeated = LogLimiter::every(Duration::from_secs(10));
    let drifts = loop {
        match provision.everything(&context).await {
            Ok(drifts) => break drifts,
            Err(error) if error.is::<Refused>() || error.is::<NoEpoch>() => return Err(error),
            // A cluster that is just starting has no leader yet.
            Err(error) => {
                let error = causes(&error);
                if repeated.is_due(&error) {
                    warn!("the streams are not there yet, trying again: {error}");
                }
            }
        }
        sleep(Duration::from_secs(1)).await;
    };
    for drift in &drifts {
        if drift.guarding { error!("{drift}") } else { warn!("{drift}") }
    }
    if drifts.iter().any(|drift| drift.guarding) {
        bail!(
            "a stream exists with settings that break a guarantee; Tidings does not change it (see the lines above)"
        );
    }
    if let Some(warning) = provision.one_copy_in_a_cluster(&context).await {
        warn!("{warning}");
    }
    Ok(())
}

/// What to try next, for whoever started it by hand.
fn print_welcome(options: &Serve, url: &str, embedded: Option<&EmbeddedNats>) {
    let program = std::env::args().next().unwrap_or_else(|| "tidings".to_owned());
    let channel = options.channels.first().map_or("creator", |channel| channel.as_str());
    let resources = format!("{url}/api/{channel}/broadcast");
    let (log, place, nats) = if let Some(nats) = embedded {
        let place = format!("--data-dir '{}'", options.nats.data_dir.display());
        (nats.address(), place.clone(), format!("NATS:    {program} admin nats-url {place}\n"))
    } else {
        let servers = without_password(&options.nats.nats.join(","));
        (servers.clone(), format!("--nats {servers}"), String::new())
    };
    // With tokens there is no page, and whoever asks shows one.
    let (page, user, token) = match options.identity.auth {
        Auth::Dev => (format!("Page:    {url}\n"), "?user_id=1", ""),
        Auth::Jwt => (String::new(), "", " -H \"Authorization: Bearer $token\""),
    };
    // Whoever closed stdout does not want to know.
    let _ = writeln!(
        std::io::stdout(),
        "\nTidings listens at {url}. Its event log is in NATS at {log}.\n\n\
         {page}\
         Listen:  curl -N{token} '{resources}/events{user}'\n\
         Post:    curl{token} -X POST {resources} -H 'Content-Type: application/json' -d '{{\"message\": \"Test\", \"type\": \"info\"}}'\n\
         Clear:   curl{token} -X POST {resources}/clear\n\
         Replay:  {program} audit replay {place}\n\
         {nats}"
    );
}
