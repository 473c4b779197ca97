//! The state that handlers share.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::identity::authenticator::Authenticator;
use super::rates::Rates;
use super::refusal_log::RefusalLog;
use crate::audit::connection::AuditConnection;
use crate::clock::Clock;
use crate::domain::{Channel, UserId};
use crate::log::connection::NatsConnection;
use crate::metrics::Metrics;
use crate::notary::NewestCheckpoint;
use crate::notary::note::PublicKey;
use crate::projection::Projection;
use crate::push::admission::Admission;
use crate::push::client;
use crate::push::counts::{Connected, Counts};
use crate::push::hub::Hub;
use crate::shutdown::Shutdown;
use crate::submit::{Acks, Submit};
use crate::warnings::Warnings;

/// The limits of requests and connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// WebSockets and event streams of this replica.
    pub max_connections: u64,
    /// How long a request body may take to arrive.
    pub request_timeout: Duration,
    /// How long its response may take after that.
    pub answer_timeout: Duration,
    /// The limits of WebSockets.
    pub sockets: client::Limits,
}

/// What the routes for auditors need.
#[derive(Clone)]
pub struct Auditing {
    /// The connection to NATS for auditors.
    pub connection: Arc<AuditConnection>,
    /// The keys whose checkpoints are trusted; with none, those of any key.
    pub trusted: Arc<[PublicKey]>,
    /// The newest checkpoint that the notary knows.
    pub newest: watch::Receiver<Option<NewestCheckpoint>>,
    /// Limits the readers of events.
    pub readers: Arc<Semaphore>,
    /// Limits them for each user.
    pub readers_per_user: Admission<UserId>,
    /// Limits the proofs at one time.
    pub proofs: Arc<Semaphore>,
}

/// A replica, as its handlers see it. Every request clones it, which is cheap.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The parts of a replica that handlers use.
pub struct Parts {
    /// The channels that exist.
    pub channels: Arc<[Channel]>,
    /// The write path.
    pub submit: Arc<Submit>,
    /// The write path of acknowledgements.
    pub acks: Acks,
    /// The state of this replica.
    pub projection: Projection,
    /// The connections of this replica.
    pub hub: Hub,
    /// The numbers of connections of all replicas.
    pub counts: watch::Receiver<BTreeMap<Channel, Counts>>,
    /// The connection to NATS.
    pub nats: NatsConnection,
    /// What the routes for auditors need.
    pub auditing: Auditing,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The warnings that apply now.
    pub warnings: Warnings,
    /// Limits the connections of each user.
    pub admission: Admission<UserId>,
    /// The limits of requests and connections.
    pub limits: Limits,
    /// Authenticates requests.
    pub authenticator: Arc<Authenticator>,
    /// The log of refused requests.
    pub refusal_log: RefusalLog,
    /// The rate limits.
    pub rates: Arc<Rates>,
    /// Whether the page at `/` is served: with dev auth.
    pub serves_page: bool,
    /// Whether the replica is stopping.
    pub shutdown: Shutdown,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl App {
    /// The state with these parts.
    pub fn of(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The numbers of connections in a channel, over all replicas.
    pub fn connected(&self, channel: &Channel) -> Connected {
        let counts = self.counts.borrow().get(channel).copied().unwrap_or_default();
        let (connections_local, users_local) = self.hub.local(channel);
        counts.with_local(connections_local, users_local)
    }

    /// The connections of this replica, in all channels.
    pub fn connections_here(&self) -> u64 {
        self.channels.iter().map(|channel| self.hub.local(channel).0).sum()
    }

    /// Ready means: the replica serves the current state, has reached NATS since its start, and is not stopping. A replica that
    /// NATS refuses, or that never reached it, serves the state on its disk and is not ready: a rollout must not go on.
    pub fn is_ready(&self) -> bool {
        let position = self.projection.position();
        let log_is_unavailable = self.projection.seen().away;
        let serves_current_state =
            position.serving && position.halt.is_none() && (position.caught_up || log_is_unavailable);
        !self.shutdown.begun() && self.nats.made() > 0 && serves_current_state && self.has_keys()
    }

    /// Whether tokens can be verified: not while published keys have never been read, or not for too long.
    pub fn has_keys(&self) -> bool {
        self.authenticator.published_keys().is_none_or(|keys| keys.state().usable)
    }
}

/// Auditors who read events from a replica at one time. Each reads the log by itself, some megabytes ahead.
pub const MAX_READERS: usize = 16;

/// How many of them may be of one user, so that no user occupies all.
pub const MAX_READERS_PER_USER: usize = 4;

/// Proofs that a replica builds at one time. Each takes a few requests to NATS.
pub const MAX_PROOFS: usize = 8;

/// How long a read waits for the sequence that it asks for.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);
