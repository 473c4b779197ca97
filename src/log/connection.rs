//! The connection to NATS, with the timings that make an outage visible within seconds.

mod address;
mod login;
mod outage;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::error_log::LogLimiter;
pub use address::{NatsAddress, without_password};
use login::{hosts, login_options, warn_of_exposed_files};
use outage::{OutageCause, diagnose};

/// The oldest nats-server that has what the log needs (per-message TTL, pull heartbeats, consistent guards).
const MINIMUM: (i64, i64) = (2, 11);

/// While a first connection is awaited: how often to look.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The client reports that it is connected a moment before it has the server's name.
const SERVER_INFO_DELAY: Duration = Duration::from_millis(20);

/// How often the same message is logged again.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How often the connection is checked, and how often its servers are tried while it is down.
const OUTAGE_POLL_INTERVAL: Duration = Duration::from_millis(500);
const DIAGNOSE_EVERY: Duration = Duration::from_secs(5);

/// How long pending writes may take at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to NATS.
#[derive(Clone)]
pub struct NatsConnection {
    /// The client. It reconnects without end.
    pub client: Client,
    /// How often the connection was established: it changes at a reconnect, and readers start a new pass.
    pub generation: watch::Receiver<u64>,
    address: Arc<NatsAddress>,
    /// The client's name, as the server's operator sees it.
    name: Arc<str>,
    /// Why it is not up.
    outage: watch::Sender<OutageCause>,
    /// It is being closed: its end is no error.
    closing: Arc<AtomicBool>,
}

/// Connects with a client name that the operator of NATS sees. An error when no server answers, or its version is too old.
pub async fn connect(address: &NatsAddress, name: &str) -> anyhow::Result<NatsConnection> {
    let (made, closing, known) = (watch::Sender::new(0), Arc::default(), Arc::default());
    let options = observed(login_options(address, name)?, &made, &closing, &known);
    warn_of_exposed_files(address);
    let connecting = options.connect(hosts(address)?);
    let client = connecting.await.with_context(|| format!("connecting to {address}"))?;
    check_version(&client)?;
    Ok(NatsConnection::new(client, address, name, &made, closing, &known))
}

/// A connection that is made as soon as there is a server; see [`NatsConnection::wait_for_server`]. While there is none, the
/// diagnostics say why.
pub async fn begin(address: &NatsAddress, name: &str) -> anyhow::Result<NatsConnection> {
    let connection = begin_until(address, name, Arc::default()).await?;
    warn_of_exposed_files(address);
    Ok(connection)
}

/// The same; once `closing` is set, the end of the connection is no error.
async fn begin_until(
    address: &NatsAddress,
    name: &str,
    closing: Arc<AtomicBool>,
) -> anyhow::Result<NatsConnection> {
    let (made, known) = (watch::Sender::new(0), Arc::default());
    let options = observed(login_options(address, name)?, &made, &closing, &known);
    let connecting = options.retry_on_initial_connect().connect(hosts(address)?);
    let client = connecting.await.with_context(|| format!("connecting to {address}"))?;
    let connection = NatsConnection::new(client, address, name, &made, closing, &known);
    tokio::spawn(report_outages(connection.clone()));
    Ok(connection)
}

/// Validates an address and reads its files, without connecting.
pub fn check(address: &NatsAddress) -> anyhow::Result<()> {
    hosts(address)?;
    login_options(address, "tidings")?;
    warn_of_exposed_files(address);
    Ok(())
}

impl NatsConnection {
    fn new(
        client: Client,
        address: &NatsAddress,
        name: &str,
        made: &watch::Sender<u64>,
        closing: Arc<AtomicBool>,
        known: &OnceLock<Client>,
    ) -> Self {
        let _ = known.set(client.clone());
        Self {
            client,
            generation: made.subscribe(),
            address: Arc::new(address.clone()),
            name: name.into(),
            outage: watch::Sender::default(),
            closing,
        }
    }

    /// Another connection to the same servers, with the same login and the same options, under another name. Once this one is
    /// closed, the end of the other one is no trouble either.
    pub async fn connect_as(&self, name: &str) -> anyhow::Result<Self> {
        begin_until(&self.address, name, self.closing.clone()).await
    }

    /// Whether it is up at this moment, as far as the client knows.
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// How often it was made.
    pub fn made(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Why it is not up, as far as that is known, with what each server answered.
    pub fn outage_reason(&self) -> String {
        let OutageCause { login_refused, servers } = &*self.outage.borrow();
        match (login_refused, servers.as_str()) {
            (true, servers) => format!(
                "NATS refuses the login ({servers}): check --nats, --nats-creds or the client certificate"
            ),
            (false, "") => format!("{} does not answer", self.address),
            (false, servers) => format!("NATS cannot be reached ({servers})"),
        }
    }

    /// Whether NATS refused the login when it was tried last.
    pub fn is_login_refused(&self) -> bool {
        self.outage.borrow().login_refused
    }

    /// Closes the connection after pending writes.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let _ = timeout(CLOSE_TIMEOUT, self.client.drain()).await;
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Returns when the connection is made the next time.
    async fn reconnected(&self) {
        let mut generation = self.generation.clone();
        generation.mark_unchanged();
        if generation.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until a server has answered with its version. An error when that is too old.
    pub async fn wait_for_server(&self) -> anyhow::Result<()> {
        loop {
            // The client says that it is connected a moment before it knows what the server has said of itself.
            let introduced = !self.client.server_info().version.is_empty();
            if introduced && self.is_up() {
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        check_version(&self.client)
    }
}

/// Finds out and logs why the connection is down, whenever it is, until it is closed.
async fn report_outages(connection: NatsConnection) {
    let repeated = LogLimiter::every(LOG_EVERY);
    while !connection.is_closing() {
        sleep(OUTAGE_POLL_INTERVAL).await;
        if connection.is_up() {
            continue;
        }
        let outage = diagnose(&connection.address, &connection.name).await;
        if connection.is_up() || connection.is_closing() {
            continue;
        }
        connection.outage.send_replace(outage);
        let why = connection.outage_reason();
        if repeated.is_due(&why) {
            warn!("no connection to NATS: {why}");
        }
        tokio::select! {
            () = sleep(DIAGNOSE_EVERY) => {}
            () = connection.reconnected() => {}
        }
        if connection.is_up() {
            repeated.reset();
        }
    }
}

/// With the connections that are made counted, and what happens to them put into the diagnostics.
fn observed(
    options: ConnectOptions,
    made: &watch::Sender<u64>,
    closing: &Arc<AtomicBool>,
    known: &Arc<OnceLock<Client>>,
) -> ConnectOptions {
    let (made, closing, known) = (made.clone(), closing.clone(), known.clone());
    let repeated = Arc::new(LogLimiter::every(LOG_EVERY));
    options.event_callback(move |event| {
        let is_connected = matches!(event, Event::Connected);
        if is_connected {
            made.send_modify(|count| *count += 1);
        }
        let (closing, known, repeated) = (closing.clone(), known.clone(), repeated.clone());
        async move {
            if is_connected {
                sleep(SERVER_INFO_DELAY).await;
            }
            let server = known.get().map(|client| client.server_info().server_name).unwrap_or_default();
            report(&event, &server, closing.load(Ordering::Relaxed), &repeated);
        }
    })
}

fn report(event: &Event, server: &str, closing: bool, repeated: &LogLimiter) {
    match event {
        event if closing => debug!(nats.server = server, "the connection to NATS, which is closed: {event}"),
        Event::Connected => info!(nats.server = server, "connected to NATS"),
        Event::Disconnected => warn!(nats.server = server, "disconnected from NATS; reconnecting"),
        // `report_outages` logs why there is no connection, with the server and the cause.
        Event::ClientError(error) => debug!("the NATS client: {error}"),
        Event::SlowConsumer(subscription) => {
            warn!(
                nats.subscription = subscription,
                "a NATS subscription fell behind; its reader will start a new pass"
            );
        }
        Event::Closed => info!("the connection to NATS is closed"),
        other => {
            let said = other.to_string();
            if repeated.is_due(&said) {
                warn!(nats.server = server, "NATS reports: {said}");
            }
        }
    }
}

fn check_version(client: &Client) -> anyhow::Result<()> {
    let version = client.server_info().version;
    let (major, minor) = MINIMUM;
    if !client.is_server_compatible(major, minor, 0) {
        bail!(
            "this nats-server is version {version}; Tidings needs {major}.{minor} or newer (nats/install.sh fetches one)"
        );
    }
    Ok(())
}
