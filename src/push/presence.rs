//! Presence: each replica says in a KV bucket that it lives and whom it serves; the sums are the global counts.
//!
//! Heartbeats are followed with a plain subscription: each one is whole, so a lost one costs three seconds and nothing
//! else. A replica that falls silent leaves the counts when its heartbeat would have left the bucket. What is heard is
//! summed about once a second, however many replicas there are.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Client, jetstream};
use futures_util::future::{Fuse, FusedFuture as _};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use super::clock_check::{ClockCheck, Confirmed};
use super::counts::Counts;
use super::heartbeat::{Heartbeat, heartbeats, present};
use super::hub::Hub;
use super::identity::Identity;
use super::name::{NameCheck, name_beside};
use super::peers::Peers;
use crate::clock::Clock;
use crate::domain::{Channel, Digest};
use crate::error_log::{LogLimiter, causes};
use crate::log::connection::NatsConnection;
use crate::log::names::{MIRROR_LEASE_KEY, REPLICAS_BUCKET, bucket_subject};
use crate::log::provision::{Provision, replicas_stream};
use crate::metrics::{Metrics, gauge};
use crate::projection::{Position, Projection};
use crate::submit::mode::{CurrentMode, Mode};
use crate::warnings::{Warning, Warnings};

/// A heartbeat at least this often, and this soon after a change.
const BEAT_EVERY: Duration = Duration::from_secs(3);
const BEAT_AFTER_CHANGE: Duration = Duration::from_millis(200);

/// Of many replicas each waits longer after a change, so that all together do not send more than fifty heartbeats a second.
const BEAT_AFTER_CHANGE_A_REPLICA: Duration = Duration::from_millis(20);

/// The numbers are summed at most this often, and at least as often as heartbeats come.
const SUM_EVERY: Duration = Duration::from_secs(1);
const SUM_AT_LEAST_EVERY: Duration = Duration::from_secs(3);

/// What keeps the counts.
pub struct Presence {
    /// This process.
    pub identity: Identity,
    /// The name under which it counts: the replica's, unless another live replica has that.
    pub name: watch::Sender<String>,
    /// The connection, for the subscription.
    pub connection: NatsConnection,
    /// How the bucket is made when it is missing.
    pub provision: Provision,
    /// Who is connected here.
    pub hub: Hub,
    /// How far this replica is.
    pub projection: Projection,
    /// Whether it works with the log.
    pub modes: CurrentMode,
    /// Where divergence is counted.
    pub metrics: Metrics,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How often it is said that NATS refuses the heartbeat.
    pub refused: LogLimiter,
    /// What is wrong with this replica.
    pub warnings: Warnings,
    /// Compares the clock with that of NATS.
    pub clock_check: ClockCheck,
}

impl Presence {
    /// Beats and listens until the replica stops.
    pub async fn run(
        self,
        counts: watch::Sender<BTreeMap<Channel, Counts>>,
        serving: watch::Sender<usize>,
    ) -> anyhow::Result<()> {
        let context = self.provision.context(&self.connection.client);
        let everyone = bucket_subject(REPLICAS_BUCKET, ">");
        let mut heard =
            self.connection.client.subscribe(everyone).await.context("listening to heartbeats")?;
        let mut peers = self.last_heartbeats(&context).await;
        let mut name = NameCheck::new(Instant::now());
        let mut modes = self.modes.watch();
        let mut serves = Serves::of(&self.projection);
        let (mut beat_at, mut sum_at) = (Instant::now(), Instant::now());
        let mut summed_at = None;
        // Publishing waits for the server; listening does not wait for that.
        let mut beating = pin!(Fuse::terminated());
        loop {
            let soon = || summed_at.map_or_else(Instant::now, |at| at + SUM_EVERY);
            tokio::select! {
                biased;
                () = sleep_until(sum_at) => {
                    self.sum(&mut peers, &counts, &serving);
                    summed_at = Some(Instant::now());
                    sum_at = Instant::now() + SUM_AT_LEAST_EVERY;
                }
                message = heard.next() => {
                    let Some(message) = message else { return Ok(()) };
                    self.hear(&message, &mut peers, &mut name);
                    sum_at = sum_at.min(soon());
                }
                () = &mut beating, if !beating.is_terminated() => {}
                () = sleep_until(beat_at), if beating.is_terminated() => {
                    beat_at = Instant::now() + BEAT_EVERY;
                    beating.set(self.beat(&context).fuse());
                }
                () = serves.changed() => {
                    beat_at = beat_at.min(Instant::now() + beat_after_change(peers.count()));
                }
                () = self.hub.changed() => {
                    beat_at = beat_at.min(Instant::now() + beat_after_change(peers.count()));
                    sum_at = sum_at.min(soon());
                }
                changed = modes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    beat_at = beat_at.min(Instant::now() + beat_after_change(peers.count()));
                    sum_at = sum_at.min(soon());
                }
            }
        }
    }

    fn sum(
        &self,
        peers: &mut Peers,
        counts: &watch::Sender<BTreeMap<Channel, Counts>>,
        serving: &watch::Sender<usize>,
    ) {
        peers.forget_silent();
        let others = peers.serving();
        serving.send_if_modified(|known| std::mem::replace(known, others) != others);
        self.metrics.replicas.set(gauge(peers.count() + 1));
        let now = peers.sum(&self.hub.presence(), self.modes.now() == Mode::Local);
        counts.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// Handles a message of the bucket of heartbeats.
    fn hear(&self, message: &async_nats::Message, peers: &mut Peers, name: &mut NameCheck) {
        let Some(key) = message.subject.strip_prefix(&bucket_subject(REPLICAS_BUCKET, "")) else { return };
        if message.payload.is_empty() {
            // A replica that stops takes its heartbeat out of the bucket.
            return peers.forget(key);
        }
        let Some(heartbeat) = self.foreign(key, &message.payload) else { return };
        if heartbeat.replica != *self.name.borrow() {
            self.compare(&heartbeat);
            peers.hear(&heartbeat, Instant::now());
        } else if name.hear(&self.identity, &heartbeat, Instant::now()) {
            self.give_way(&heartbeat);
        }
    }

    /// Another process has this replica's name, and goes on sending heartbeats: from now on this one counts under a name of
    /// its own. It does not end: whoever may write to the bucket could end any replica.
    fn give_way(&self, other: &Heartbeat) {
        let name = name_beside(&self.identity);
        error!(
            "a live replica is already called {} (process {}, started {}), so this one counts as {name}: give one of the two \
             another name with --replica, or find out who else may write to the bucket of heartbeats",
            other.replica, other.instance, other.started_at
        );
        self.warnings.set(Warning::NameTaken, true);
        self.name.send_replace(name);
    }

    /// A heartbeat of another process; `None` for our own, for the lease, and for what is no heartbeat under its own key.
    fn foreign(&self, key: &str, payload: &[u8]) -> Option<Heartbeat> {
        if key == MIRROR_LEASE_KEY {
            return None;
        }
        let heartbeat: Heartbeat = serde_json::from_slice(payload)
            .inspect_err(|e| debug!("a heartbeat that cannot be read: {e}"))
            .ok()?;
        (heartbeat.replica == key && heartbeat.instance != self.identity.instance).then_some(heartbeat)
    }

    async fn beat(&self, context: &jetstream::Context) {
        let position = self.projection.position();
        let heartbeat = Heartbeat {
            replica: self.name.borrow().clone(),
            instance: self.identity.instance,
            started_at: self.identity.started_at,
            at: self.clock.now(),
            mode: self.modes.now().as_str().to_owned(),
            serving: shows_the_log(&position),
            epoch: position.epoch,
            sequence: position.sequence,
            digest: position.digest,
            milestone: position.milestone,
            warnings: self.warnings.now().iter().map(|warning| warning.code().to_owned()).collect(),
            channels: present(&self.hub.presence()),
        };
        let published = self.publish(context, &heartbeat).await;
        if let Ok(sequence) = published {
            let (sent, answered) = (heartbeat.at, self.clock.now());
            self.metrics.heartbeat.set(answered.as_unix_ms() / 1_000);
            self.warnings.set(Warning::HeartbeatRefused, false);
            let confirmed = Confirmed { sent, answered, sequence };
            let compare = self.clock_check.compare(
                context,
                &heartbeat.replica,
                confirmed,
                &self.metrics,
                &self.warnings,
            );
            compare.await;
        }
        if let Err(error) = published {
            let error = causes(&error);
            self.warnings.set(Warning::HeartbeatRefused, self.connection.is_up());
            // Without a connection there is nothing to say that is not said of that already.
            if self.connection.is_up() && self.refused.is_due(&error) {
                warn!(
                    "the heartbeat of this replica did not go out, so other replicas stop counting it: {error}"
                );
            }
            if let Err(error) = self.provision.stream(context, &replicas_stream()).await {
                debug!("the bucket of heartbeats is not there: {error:#}");
            }
        }
    }

    /// Stores a heartbeat in the bucket; returns its sequence there.
    async fn publish(&self, context: &jetstream::Context, heartbeat: &Heartbeat) -> anyhow::Result<u64> {
        if !self.connection.is_up() {
            anyhow::bail!("not connected");
        }
        let subject = bucket_subject(REPLICAS_BUCKET, &heartbeat.replica);
        let stored = context.publish(subject, serde_json::to_vec(heartbeat)?.into()).await?.await?;
        Ok(stored.sequence)
    }

    /// The heartbeats that are in the bucket at start, so that the first counts are whole.
    async fn last_heartbeats(&self, context: &jetstream::Context) -> Peers {
        let stored = match self.provision.stream(context, &replicas_stream()).await {
            Ok(stream) => heartbeats(&stream).await,
            Err(error) => Err(error),
        };
        let stored = stored.unwrap_or_else(|error| {
            warn!("cannot read the heartbeats of before; counts are whole in a few seconds: {error:#}");
            Vec::new()
        });
        let (mut peers, now) = (Peers::new(self.hub.channels()), self.clock.now());
        for (heartbeat, at) in stored {
            let age = u64::try_from(now.as_unix_ms() - at.as_unix_ms()).unwrap_or(0);
            if heartbeat.replica != self.identity.replica
                && let Some(heard) = Instant::now().checked_sub(Duration::from_millis(age))
            {
                peers.hear(&heartbeat, heard);
            }
        }
        peers
    }

    fn compare(&self, other: &Heartbeat) {
        let own = self.projection.position();
        let same_log = own.epoch.is_some() && own.epoch == other.epoch;
        let differ = |own: (u64, Digest), other: (u64, Digest)| own.0 == other.0 && own.1 != other.1;
        if same_log
            && (differ(own.milestone, other.milestone)
                || differ((own.sequence, own.digest), (other.sequence, other.digest)))
        {
            self.metrics.divergence.inc();
            error!(
                replica.other = other.replica,
                log.sequence = own.sequence,
                "another replica has another digest at the same sequence: one of the two projections is wrong"
            );
        }
    }
}

/// Whether the projection shows what the log has, or had when it was last there.
const fn shows_the_log(position: &Position) -> bool {
    position.serving && position.halt.is_none()
}

/// Whether this replica serves: what others and `admin status` know of that is to be true soon after it changes.
struct Serves {
    progress: watch::Receiver<Position>,
    known: bool,
}

impl Serves {
    fn of(projection: &Projection) -> Self {
        let progress = projection.watch();
        let known = shows_the_log(&progress.borrow());
        Self { progress, known }
    }

    async fn changed(&mut self) {
        let known = self.known;
        if self.progress.wait_for(|now| shows_the_log(now) != known).await.is_err() {
            // The projection has ended, and the replica ends with it.
            std::future::pending::<()>().await;
        }
        self.known = !known;
    }
}

/// How long after a change a replica says so, with so many others.
fn beat_after_change(others: usize) -> Duration {
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    BEAT_AFTER_CHANGE.max(BEAT_AFTER_CHANGE_A_REPLICA.saturating_mul(others)).min(BEAT_EVERY)
}

/// Takes this process's heartbeat out of the bucket, so that the counts are right at once.
pub async fn leave(client: &Client, replica: &str) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let subject = bucket_subject(REPLICAS_BUCKET, replica);
    if client.publish_with_headers(subject, headers, "".into()).await.is_ok() {
        let _ = tokio::time::timeout(Duration::from_secs(1), client.flush()).await;
    }
}
