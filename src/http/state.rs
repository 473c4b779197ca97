//! What handlers share.

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
use crate::log::connection::Connection;
use crate::metrics::Metrics;
use crate::notary::Newest;
use crate::notary::note::PublicKey;
use crate::projection::Projection;
use crate::push::admission::Admission;
use crate::push::client;
use crate::push::counts::{Connected, Counts};
use crate::push::hub::Hub;
use crate::shutdown::Shutdown;
use crate::submit::{Acks, Submit};
use crate::warnings::Warnings;

/// The limits of the edge.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Connections that this replica takes.
    pub max_connections: u64,
    /// How long a request's body may take.
    pub request_timeout: Duration,
    /// How long its answer may take after that.
    pub answer_timeout: Duration,
    /// How WebSockets are limited.
    pub sockets: client::Limits,
}

/// What auditors are served with.
#[derive(Clone)]
pub struct Auditing {
    /// The connection to NATS that they read through.
    pub connection: Arc<AuditConnection>,
    /// Whose checkpoints count. Empty: everybody's.
    pub trusted: Arc<[PublicKey]>,
    /// The newest checkpoint that the notary has found.
    pub newest: watch::Receiver<Option<Newest>>,
    /// How many more may read events at this moment.
    pub readers: Arc<Semaphore>,
    /// How many of them may be of one user.
    pub readers_per_user: Admission<UserId>,
    /// How many more proofs may be made at this moment.
    pub proofs: Arc<Semaphore>,
}

/// A replica, as its handlers see it. Every request has one, so that a clone of it costs nothing.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What a replica consists of for its handlers.
pub struct Parts {
    /// The channels that exist.
    pub channels: Arc<[Channel]>,
    /// The write path.
    pub submit: Arc<Submit>,
    /// The write path of acknowledgements.
    pub acks: Acks,
    /// What this replica knows.
    pub projection: Projection,
    /// Who is connected to it.
    pub hub: Hub,
    /// Who is connected to all of them.
    pub counts: watch::Receiver<BTreeMap<Channel, Counts>>,
    /// Its connection to NATS.
    pub nats: Connection,
    /// What auditors are served with.
    pub auditing: Auditing,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What is wrong with it although it serves.
    pub warnings: Warnings,
    /// How many connections of one user are let in.
    pub admission: Admission<UserId>,
    /// The limits of the edge.
    pub limits: Limits,
    /// Authenticates requests.
    pub authenticator: Arc<Authenticator>,
    /// The log of refused requests.
    pub refusal_log: RefusalLog,
    /// The rate limits.
    pub rates: Arc<Rates>,
    /// Whether there is a page at `/`: with dev auth.
    pub serves_page: bool,
    /// Whether it is stopping.
    pub shutdown: Shutdown,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl App {
    /// Of these parts.
    pub fn of(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// How many are connected in a channel, over all replicas.
    pub fn connected(&self, channel: &Channel) -> Connected {
        let counts = self.counts.borrow().get(channel).copied().unwrap_or_default();
        let (connections_local, users_local) = self.hub.local(channel);
        counts.with_local(connections_local, users_local)
    }

    /// Connections of every channel on this replica.
    pub fn connections_here(&self) -> u64 {
        self.channels.iter().map(|channel| self.hub.local(channel).0).sum()
    }

    /// Ready means: what this replica shows is true, it has reached NATS since its start, and it is not about to stop. One
    /// that NATS refuses, or never reached, serves what it has and is not ready: a rollout must not go on with it.
    pub fn is_ready(&self) -> bool {
        let position = self.projection.position();
        let log_is_away = self.projection.seen().away;
        let shows_the_truth =
            position.serving && position.halt.is_none() && (position.caught_up || log_is_away);
        !self.shutdown.begun() && self.nats.made() > 0 && shows_the_truth && self.has_keys()
    }

    /// Whether tokens can be verified: always, but for published keys that were never read, or not for too long.
    pub fn has_keys(&self) -> bool {
        self.authenticator.published_keys().is_none_or(|keys| keys.standing().usable)
    }
}

/// Auditors who read events from a replica at once. Each reads the log by itself, some megabytes ahead.
pub const MAX_READERS: usize = 16;

/// How many of them may be of one user, so that nobody uses all of them up.
pub const MAX_READERS_PER_USER: usize = 4;

/// Proofs that a replica makes at once. Each takes a few requests to NATS.
pub const MAX_PROOFS: usize = 8;

/// How long a read waits for the sequence that it asks for.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);
