//! `serve`: the composition root. Starts the parts from the log up, and stops them from the edge down.

use std::collections::BTreeMap;
use std::future::IntoFuture as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::serve::ListenerExt as _;
use clap::ArgMatches;
use clap::parser::ValueSource;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::data_dir::{self, DataDir};
use crate::clock::{Clock, SystemClock};
use crate::config::Serve;
use crate::http::{router, state};
use crate::log::EventLog;
use crate::log::connection::{Connection, connect, without_password};
use crate::log::embedded::{self, EmbeddedNats, EmbeddedOptions};
use crate::log::jetstream::JetStreamLog;
use crate::log::provision::Provision;
use crate::metrics::Metrics;
use crate::projection::mirror::Mirror;
use crate::projection::{self, Projection};
use crate::push::heartbeat;
use crate::push::hub::{self, Hub};
use crate::push::presence::{self, Identity, Presence};
use crate::shutdown::Shutdown;
use crate::submit::{Acks, Submit};

/// Requests that are under way when the replica stops may take this long.
const IN_FLIGHT_PATIENCE: Duration = Duration::from_secs(10);

/// Connections that were told to close may take this long.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// Runs one replica until it is told to stop.
pub(super) async fn serve(options: Serve) -> anyhow::Result<()> {
    require_safe_address(&options)?;
    let (begin_shutdown, shutdown) = Shutdown::listen()?;
    let data_dir = DataDir::take(&options.nats.data_dir)?;
    let replica = data_dir.replica(options.replica.as_deref(), &SystemClock)?;
    info!(replica.name = replica, "starting tidings {}", env!("CARGO_PKG_VERSION"));
    let embedded = start_embedded(&options, &data_dir)?;
    let servers =
        embedded.as_ref().map_or_else(|| options.nats.nats.clone(), |nats| vec![nats.url().to_owned()]);
    let address = options.nats.address(servers);
    let mut stopping = shutdown.clone();
    let connection = tokio::select! {
        connection = connect(&address, &replica, true) => connection?,
        () = stopping.wait() => return stop_embedded(embedded).await,
    };
    let provision = options.streams.provision();
    tokio::select! {
        provisioned = provision_streams(&connection, &provision) => provisioned?,
        () = stopping.wait() => return stop_embedded(embedded).await,
    }

    let running =
        Running::start(&options, &data_dir, &replica, connection, provision, shutdown.clone()).await?;
    data_dir.write(data_dir::HTTP_URL, &running.url)?;
    print_welcome(&options, &running.url, embedded.as_ref());
    let outcome = running.until_stopped(&options, begin_shutdown).await;
    data_dir.forget();
    stop_embedded(embedded).await?;
    info!("stopped");
    outcome
}

/// Dev auth believes everyone, so only this machine may reach it.
fn require_safe_address(options: &Serve) -> anyhow::Result<()> {
    if options.listen.ip().is_loopback() || options.auth_dev_anywhere {
        return Ok(());
    }
    bail!(
        "--auth dev believes whatever callers say of themselves, so it listens on a loopback address only, and {} is \
         none. Where something else limits who reaches it, --auth-dev-anywhere allows it",
        options.listen
    )
}

fn start_embedded(options: &Serve, data_dir: &DataDir) -> anyhow::Result<Option<EmbeddedNats>> {
    if !options.nats.nats.is_empty() {
        return Ok(None);
    }
    let nats = EmbeddedNats::start(&EmbeddedOptions {
        binary: embedded::find(options.nats_server.as_deref())?,
        directory: data_dir.join("nats"),
        max_file_store: options.embedded_store_bytes(),
    })?;
    data_dir.write(data_dir::NATS_URL, nats.url())?;
    info!(nats.url = nats.url(), "the embedded nats-server is up");
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

/// Creates what is missing. What exists and differs in a guarantee stops the start; in a size, it is said.
async fn provision_streams(connection: &Connection, provision: &Provision) -> anyhow::Result<()> {
    let context = provision.context(&connection.client);
    let drifts = loop {
        match provision.everything(&context).await {
            Ok(drifts) => break drifts,
            // A cluster that is just starting has no leader yet.
            Err(error) => warn!("the streams cannot be looked at yet, trying again: {error:#}"),
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
    Ok(())
}

/// The parts of a running replica.
struct Running {
    url: String,
    replica: String,
    connection: Connection,
    provision: Provision,
    instance: uuid::Uuid,
    hub: Hub,
    projection: projection::Supervisor,
    mirror: JoinHandle<()>,
    presence: JoinHandle<anyhow::Result<()>>,
    name_taken: oneshot::Receiver<heartbeat::Heartbeat>,
    server: JoinHandle<std::io::Result<()>>,
    stop_accepting: watch::Sender<bool>,
    shutdown: Shutdown,
}

impl Running {
    async fn start(
        options: &Serve,
        data_dir: &DataDir,
        replica: &str,
        connection: Connection,
        provision: Provision,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Metrics::default();
        let log: Arc<dyn EventLog> =
            Arc::new(JetStreamLog::new(connection.client.clone(), provision.clone()));
        let identity =
            Identity { replica: replica.to_owned(), instance: clock.new_id(), started_at: clock.now() };
        let instance = identity.instance;

        let (announce, announcements) = mpsc::channel(hub::ANNOUNCEMENTS);
        let projection_options = projection::Options {
            directory: data_dir.join("projection"),
            open_patience: Duration::from_secs(options.store_open_seconds),
        };
        let (projection, supervisor) =
            Projection::start(log.clone(), projection_options, connection.generation.clone(), announce);
        let (counts_sender, counts) = watch::channel(BTreeMap::new());
        let hub_options = hub::Options {
            channels: options.channels.clone(),
            max_connections: options.max_connections,
            metrics: metrics.clone(),
        };
        let hub = Hub::start(hub_options, projection.clone(), announcements, counts.clone());
        let presence = Presence {
            identity,
            connection: connection.clone(),
            provision: provision.clone(),
            hub: hub.clone(),
            projection: projection.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        };
        let (taken, name_taken) = oneshot::channel();
        let presence = tokio::spawn(presence.run(counts_sender, taken));
        let mirror = Mirror {
            projection: projection.clone(),
            client: connection.client.clone(),
            provision: provision.clone(),
            instance,
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let mirror = tokio::spawn(mirror.run());
        let submit = Arc::new(Submit::new(
            log,
            projection.clone(),
            clock.clone(),
            replica,
            &options.channels,
            Duration::from_millis(options.append_timeout_ms),
        ));
        let app = state::App {
            channels: options.channels.clone().into(),
            acks: Acks::start(submit.clone()),
            submit,
            projection,
            hub: hub.clone(),
            counts,
            metrics,
            limits: state::Limits {
                max_body_bytes: options.max_body_bytes,
                max_message_bytes: options.max_message_bytes,
                max_connections: options.max_connections as u64,
                session: options.session_limits(),
            },
            shutdown: shutdown.clone(),
            clock,
        };
        let (address, server, stop_accepting) = listen(options.listen, app).await?;
        Ok(Self {
            url: format!("http://{address}"),
            replica: replica.to_owned(),
            connection,
            provision,
            instance,
            hub,
            projection: supervisor,
            mirror,
            presence,
            name_taken,
            server,
            stop_accepting,
            shutdown,
        })
    }

    /// Serves until a signal, or until it must not serve any more; then stops in order.
    async fn until_stopped(
        mut self,
        options: &Serve,
        begin_shutdown: watch::Sender<bool>,
    ) -> anyhow::Result<()> {
        let mut name_is_ours = true;
        let outcome = tokio::select! {
            () = self.shutdown.wait() => Ok(()),
            Ok(other) = &mut self.name_taken => {
                name_is_ours = false;
                Err(anyhow::anyhow!(
                    "a live replica is already called {} (process {}, started {}); give this one another name with --replica",
                    other.replica, other.instance, other.started_at
                ))
            }
            ended = &mut self.server => Err(anyhow::anyhow!("the HTTP server ended: {ended:?}")),
        };
        begin_shutdown.send_replace(true);
        self.stop(options, name_is_ours).await;
        outcome
    }

    async fn stop(self, options: &Serve, name_is_ours: bool) {
        // `/readyz` fails from here on.
        sleep(Duration::from_secs(options.drain_grace_seconds)).await;
        self.stop_accepting.send_replace(true);
        let spread = Duration::from_secs(options.drain_seconds);
        if timeout(spread + CLOSE_PATIENCE, self.hub.drain(spread)).await.is_err() {
            warn!("some connections did not close in time; they are cut");
        }
        if !self.server.is_finished() && timeout(IN_FLIGHT_PATIENCE, self.server).await.is_err() {
            warn!("requests that were under way for {} s are abandoned", IN_FLIGHT_PATIENCE.as_secs());
        }
        self.presence.abort();
        self.mirror.abort();
        self.projection.stop().await;
        let goodbye = async {
            Mirror::release(&self.connection.client, &self.provision, self.instance).await;
            // The heartbeat under a name that another replica has is not this one's to take back.
            if name_is_ours {
                presence::leave(&self.connection.client, &self.replica).await;
            }
        };
        if timeout(Duration::from_secs(2), goodbye).await.is_err() {
            warn!("NATS does not answer; the lease and the heartbeat of this replica run out by themselves");
        }
    }
}

type Server = (SocketAddr, JoinHandle<std::io::Result<()>>, watch::Sender<bool>);

async fn listen(address: SocketAddr, app: state::App) -> anyhow::Result<Server> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let address = listener.local_addr()?;
    // A broadcast is one small packet; waiting to fill it would only delay it.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            warn!("TCP_NODELAY cannot be set: {error}");
        }
    });
    let (stop_accepting, mut stopped) = watch::channel(false);
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let server = tokio::spawn(axum::serve(listener, router(app)).with_graceful_shutdown(stop).into_future());
    Ok((address, server, stop_accepting))
}

/// What to try next, for whoever started it by hand.
fn print_welcome(options: &Serve, url: &str, embedded: Option<&EmbeddedNats>) {
    let program = std::env::args().next().unwrap_or_else(|| "tidings".to_owned());
    let channel = options.channels.first().map_or("creator", |channel| channel.as_str());
    let base = format!("{url}/api/{channel}/broadcast");
    let (log, place) = if let Some(nats) = embedded {
        (nats.url().to_owned(), format!("--data-dir {}", options.nats.data_dir.display()))
    } else {
        let servers = without_password(&options.nats.nats.join(","));
        (servers.clone(), format!("--nats {servers}"))
    };
    // Whoever closed stdout does not want to know.
    let _ = writeln!(
        std::io::stdout(),
        "\nTidings listens at {url}. Its event log is in NATS at {log}.\n\n\
         Listen:  curl -N '{base}/events?user_id=1'\n\
         Post:    curl -X POST {base} -H 'Content-Type: application/json' -d '{{\"message\": \"Test\", \"type\": \"info\"}}'\n\
         Clear:   curl -X POST {base}/clear\n\
         Replay:  {program} audit replay {place}\n"
    );
}

/// Every option as an environment variable, a line each, with where its value comes from.
pub(super) fn effective_options(matches: &ArgMatches) -> String {
    use clap::CommandFactory as _;
    let cli = crate::config::Cli::command();
    let options = cli.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    options.filter_map(|option| effective_option(option, matches)).collect()
}

fn effective_option(option: &clap::Arg, matches: &ArgMatches) -> Option<String> {
    let (name, id) = (option.get_env()?.to_str()?, option.get_id().as_str());
    let origin = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => "flag",
        Some(ValueSource::EnvVariable) => "environment",
        Some(_) => "default",
        None => return Some(format!("# {name} is not set\n")),
    };
    let values = matches.get_raw(id)?.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
    Some(format!("{name}={}  # {origin}\n", without_password(&values)))
}
