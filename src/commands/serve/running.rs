//! The composition root: starts the parts of a replica from the log up, watches them, and stops them from the edge down.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::join;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::audit::connection::AuditConnection;
use crate::clock::{Clock, SystemClock};
use crate::commands::data_dir::DataDir;
use crate::config::{Auth, OnOutage, Serve};
use crate::critical_tasks::CriticalTasks;
use crate::domain::Channel;
use crate::error_log::LogLimiter;
use crate::http::identity::authenticator::Authenticator;
use crate::http::refusal_log::RefusalLog;
use crate::http::state::{App, Parts};
use crate::http::ws::ConnectionTokens;
use crate::http::{router, server, state};
use crate::log::EventLog;
use crate::log::connection::NatsConnection;
use crate::log::jetstream::JetStreamLog;
use crate::log::provision::Provision;
use crate::metrics::Metrics;
use crate::notary::Notary;
use crate::notary::note::SecretKey;
use crate::projection::mirror::Mirror;
use crate::projection::{self, Announcement, Projection};
use crate::push::admission::Admission;
use crate::push::clock_check::ClockCheck;
use crate::push::counts::Counts;
use crate::push::hub::{self, Hub};
use crate::push::identity::Identity;
use crate::push::presence::{self, Presence};
use crate::push::release;
use crate::shutdown::Shutdown;
use crate::submit::mode::CurrentMode;
use crate::submit::outbox::Outbox;
use crate::submit::{self, Acks, Submit};
use crate::warnings::Warnings;

/// That NATS refuses a lease or a heartbeat is said this often while it lasts.
const REFUSED_SAID_EVERY: Duration = Duration::from_secs(30);

/// Requests that are under way when the last connection is told to close, and the closing itself, may take this long.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// NATS may take this long to hear that the replica gives up its lease and its heartbeat.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// What was there before any part of the replica, and what several of them take.
pub(super) struct Resources<'a> {
    options: &'a Serve,
    projection_directory: PathBuf,
    outbox_directory: PathBuf,
    identity: Identity,
    connection: NatsConnection,
    provision: Provision,
    shutdown: Shutdown,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    pub(super) authenticator: Arc<Authenticator>,
    warnings: Warnings,
    tasks: CriticalTasks,
}

impl<'a> Resources<'a> {
    pub(super) fn new(
        options: &'a Serve,
        data_dir: &DataDir,
        replica: String,
        (connection, provision): (NatsConnection, Provision),
        shutdown: Shutdown,
        authenticator: Authenticator,
        warnings: Warnings,
    ) -> Self {
        let clock = SystemClock;
        Self {
            options,
            projection_directory: data_dir.projection(),
            outbox_directory: data_dir.join("outbox"),
            identity: Identity { replica, instance: clock.new_id(), started_at: clock.now() },
            connection,
            provision,
            shutdown,
            clock: Arc::new(clock),
            metrics: Metrics::default(),
            authenticator: Arc::new(authenticator),
            warnings,
            tasks: CriticalTasks::default(),
        }
    }

    fn log(&self) -> Arc<dyn EventLog> {
        Arc::new(JetStreamLog::new(self.connection.client.clone(), self.provision.clone()))
    }

    fn projection(
        &self,
        log: Arc<dyn EventLog>,
        announce: Vec<mpsc::Sender<Announcement>>,
    ) -> (Projection, projection::Supervisor) {
        let options = projection::Options {
            directory: self.projection_directory.clone(),
            open_timeout: Duration::from_secs(self.options.store_open_seconds),
            metrics: self.metrics.clone(),
        };
        Projection::start(log, options, self.connection.generation.clone(), announce)
    }

    fn hub(
        &self,
        projection: &Projection,
        acks: Acks,
        modes: &CurrentMode,
        announcements: Vec<mpsc::Receiver<Announcement>>,
        counts: &watch::Receiver<BTreeMap<Channel, Counts>>,
    ) -> std::io::Result<Hub> {
        let options = hub::Options {
            channels: self.options.channels.clone(),
            max_connections: self.options.max_connections,
            acks,
            tokens: Arc::new(ConnectionTokens {
                authenticator: self.authenticator.clone(),
                clock: self.clock.clone(),
            }),
            limits: self.options.socket_limits(),
            metrics: self.metrics.clone(),
            modes: modes.watch(),
            tasks: self.tasks.clone(),
        };
        Hub::start(options, projection, announcements, counts)
    }

    fn presence(&self, hub: Hub, projection: Projection, modes: CurrentMode) -> Presence {
        Presence {
            identity: self.identity.clone(),
            name: watch::Sender::new(self.identity.replica.clone()),
            connection: self.connection.clone(),
            provision: self.provision.clone(),
            hub,
            projection,
            modes,
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            refused: LogLimiter::every(REFUSED_SAID_EVERY),
            warnings: self.warnings.clone(),
            clock_check: ClockCheck::default(),
        }
    }

    fn mirror(&self, projection: Projection) -> Mirror {
        Mirror {
            projection,
            client: self.connection.client.clone(),
            provision: self.provision.clone(),
            instance: self.identity.instance,
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            refused: LogLimiter::every(REFUSED_SAID_EVERY),
            warnings: self.warnings.clone(),
        }
    }

    fn notary(&self, log: Arc<dyn EventLog>, projection: Projection, keys: Vec<SecretKey>) -> Notary {
        self.metrics.checkpoint_keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        Notary {
            projection,
            log,
            client: self.connection.client.clone(),
            provision: self.provision.clone(),
            options: self.options.checkpoints.options(keys),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            warnings: self.warnings.clone(),
            newest: watch::Sender::default(),
        }
    }

    fn server(&self) -> server::Options {
        let limits = &self.options.limits;
        server::Options {
            max_sockets: limits.sockets(self.options.max_connections),
            max_sockets_per_address: limits.sockets_per_address(self.options.identity.auth),
            head: limits.head(),
            timeouts: limits.timeouts(),
            metrics: Arc::new(self.metrics.clone()),
        }
    }

    fn submit(&self, log: Arc<dyn EventLog>, projection: Projection) -> anyhow::Result<Arc<Submit>> {
        let outbox = Outbox::open(&self.outbox_directory, self.options.outbox_bounds())?;
        let options = submit::SubmitOptions {
            replica: self.identity.replica.clone(),
            channels: self.options.channels.clone(),
            append_timeout: Duration::from_millis(self.options.append_timeout_ms),
            accept_on_outage: self.options.on_outage == OnOutage::Accept,
            metrics: self.metrics.clone(),
            warnings: self.warnings.clone(),
            tasks: self.tasks.clone(),
        };
        Ok(Submit::start(log, projection, self.clock.clone(), outbox, options))
    }

    /// Auditors of one user; no bound of their own where anybody may claim to be anybody.
    fn readers_per_user(&self) -> Option<usize> {
        let auth = self.options.identity.auth;
        (!auth.is_unauthenticated()).then_some(state::MAX_READERS_PER_USER)
    }

    fn app(
        &self,
        submit: Arc<Submit>,
        acks: Acks,
        projection: Projection,
        hub: Hub,
        counts: watch::Receiver<BTreeMap<Channel, Counts>>,
        auditing: state::Auditing,
    ) -> App {
        let limits = state::Limits {
            max_body_bytes: self.options.max_body_bytes,
            max_connections: self.options.max_connections as u64,
            request_timeout: self.options.limits.request_timeout(),
            answer_timeout: self.options.answer_timeout(),
            sockets: self.options.socket_limits(),
        };
        App::of(Parts {
            channels: self.options.channels.clone().into(),
            acks,
            submit,
            projection,
            hub,
            counts,
            nats: self.connection.clone(),
            auditing,
            metrics: Arc::new(self.metrics.clone()),
            warnings: self.warnings.clone(),
            admission: Admission::new(self.options.limits.connections_per_user(self.options.identity.auth)),
            limits,
            authenticator: self.authenticator.clone(),
            refusal_log: RefusalLog::default(),
            rates: Arc::new(self.options.rates.rates(self.options.identity.auth)),
            serves_page: self.options.identity.auth == Auth::Dev,
            shutdown: self.shutdown.clone(),
            clock: self.clock.clone(),
        })
    }
}

/// Ends only with the reason why this NATS is not fit.
async fn unfit(joining: &mut Option<JoinHandle<anyhow::Result<()>>>) -> anyhow::Error {
    if let Some(task) = joining {
        let joined = task.await;
        *joining = None;
        match joined {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(panicked) => return panicked.into(),
        }
    }
    std::future::pending().await
}

/// The parts of a running replica.
pub(super) struct Running<'a> {
    resources: Resources<'a>,
    /// While NATS has not answered yet: ends when it was found fit, or with the reason why it is not.
    joining: Option<JoinHandle<anyhow::Result<()>>>,
    submit: Arc<Submit>,
    projection: projection::Supervisor,
    hub: Hub,
    presence: JoinHandle<anyhow::Result<()>>,
    release: JoinHandle<()>,
    /// The name under which it counts.
    name: watch::Receiver<String>,
    mirror: JoinHandle<()>,
    notary: JoinHandle<()>,
    server: JoinHandle<()>,
    stop_accepting: watch::Sender<bool>,
}

impl<'a> Running<'a> {
    /// Starts the parts, each on those above it.
    pub(super) fn start(
        resources: Resources<'a>,
        listener: TcpListener,
        joining: Option<JoinHandle<anyhow::Result<()>>>,
        keys: Vec<SecretKey>,
    ) -> anyhow::Result<Self> {
        let (announce, announcements) =
            (0..resources.options.shards).map(|_| mpsc::channel(hub::ANNOUNCEMENTS)).unzip();
        let (tell_counts, counts) = watch::channel(BTreeMap::new());
        let (tell_serving, others_serving) = watch::channel(0);
        let (stop_accepting, stopped) = watch::channel(false);

        let log = resources.log();
        let (projection, supervisor) = resources.projection(log.clone(), announce);
        let notary = resources.notary(log.clone(), projection.clone(), keys);
        let auditing = state::Auditing {
            connection: Arc::new(AuditConnection::beside(resources.connection.clone())),
            trusted: notary.options.trusted().into(),
            newest: notary.newest.subscribe(),
            readers: Arc::new(Semaphore::new(state::MAX_READERS)),
            readers_per_user: Admission::new(resources.readers_per_user()),
            proofs: Arc::new(Semaphore::new(state::MAX_PROOFS)),
        };
        let notary = tokio::spawn(notary.run());
        let submit = resources.submit(log, projection.clone())?;
        let modes = submit.modes().clone();
        let acks = Acks::start(submit.clone(), resources.options.rates.acks(resources.options.identity.auth));
        let hub = resources.hub(&projection, acks.clone(), &modes, announcements, &counts)?;
        let presence = resources.presence(hub.clone(), projection.clone(), modes);
        let name = presence.name.subscribe();
        let presence = tokio::spawn(presence.run(tell_counts, tell_serving));
        let release = tokio::spawn(release::watch(hub.clone(), projection.watch(), others_serving));
        let mirror = tokio::spawn(resources.mirror(projection.clone()).run());
        let app = resources.app(submit.clone(), acks, projection, hub.clone(), counts, auditing);
        let server = tokio::spawn(server::serve(listener, router(app), resources.server(), stopped));
        Ok(Self {
            resources,
            joining,
            submit,
            projection: supervisor,
            hub,
            presence,
            release,
            name,
            mirror,
            notary,
            server,
            stop_accepting,
        })
    }

    /// Serves until a signal, or until it must not serve any more; then stops in order.
    pub(super) async fn until_stopped(mut self, begin_shutdown: watch::Sender<bool>) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            () = self.resources.shutdown.wait() => Ok(()),
            unfit = unfit(&mut self.joining) => Err(unfit),
            // Without one of these it would go on answering, and be wrong or of no use.
            ended = &mut self.server => Err(anyhow!("the HTTP server ended: {ended:?}")),
            ended = &mut self.mirror => Err(anyhow!("the mirror to KV ended: {ended:?}")),
            ended = &mut self.notary => Err(anyhow!("the notary ended: {ended:?}")),
            why = self.resources.tasks.panicked() => Err(anyhow!(why)),
            // It ends with the hub, and the hub with the projection.
            ended = &mut self.presence => Err(anyhow!("the hub or its presence ended: {ended:?}")),
        };
        begin_shutdown.send_replace(true);
        self.release.abort();
        self.stop().await;
        outcome
    }

    async fn stop(mut self) {
        self.drain().await;
        self.submit.log_what_waits();
        let name = self.name.borrow().clone();
        let Resources { connection, provision, identity, .. } = self.resources;
        self.presence.abort();
        self.mirror.abort();
        self.notary.abort();
        self.projection.stop().await;
        let goodbye = async {
            Mirror::release(&connection.client, &provision, identity.instance).await;
            presence::leave(&connection.client, &name).await;
        };
        if timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
            warn!("NATS does not answer; the lease and the heartbeat of this replica run out by themselves");
        }
        connection.close().await;
    }

    /// `/readyz` has begun to fail. Everything else goes on for the grace, so that a balancer can look elsewhere before
    /// anybody is turned away.
    async fn drain(&mut self) {
        sleep(Duration::from_secs(self.resources.options.drain_grace_seconds)).await;
        self.stop_accepting.send_replace(true);
        let spread = Duration::from_secs(self.resources.options.drain_seconds);
        let requests = async {
            if !self.server.is_finished() {
                let _ = (&mut self.server).await;
            }
        };
        if timeout(spread + FINISH_TIMEOUT, join(self.hub.drain(spread), requests)).await.is_err() {
            warn!("some clients did not finish within {} s; they are cut off", FINISH_TIMEOUT.as_secs());
        }
    }
}
