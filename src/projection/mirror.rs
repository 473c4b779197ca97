//! The mirror: writes active broadcasts and acknowledgements into two KV buckets, for other services to read.
//!
//! It is the only writer of those buckets. KV is never read to decide or to serve. One replica mirrors at a time, the holder of a
//! lease. Every write has the position in the log that it reflects and the expected revision of its key, and the later position
//! wins, so that a holder that was paused and wakes up cannot restore old values. Of two epochs, the one that the stream has now
//! wins.

mod bucket;
mod lease;
mod repair;
mod values;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_nats::connection::State;
use async_nats::{Client, jetstream};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::announcement::{Announcement, Changed};
use super::handle::Projection;
use super::position::Position;
use crate::clock::Clock;
use crate::domain::{Acknowledgement, Broadcast, BroadcastId, Change, Channel, Timestamp};
use crate::error_log::{LogLimiter, causes};
use crate::log::names::{ACKS_BUCKET, ACTIVE_BUCKET, POSITION_KEY, ack_key};
use crate::log::provision::{Provision, epoch_now};
use crate::log::{self, Epoch};
use crate::metrics::{Metrics, gauge};
use crate::warnings::{Warning, Warnings};
use bucket::{Bucket, Write};
use lease::Lease;
use values::{AckValue, PositionValue, value_of};

/// The interval at which the holder checks that the buckets are still there, and writes its position.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The time between two attempts while NATS is away or another replica mirrors.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The longest time that the projection may take to reach the position of the holder before; after that, the position counts as
/// beyond the log.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(3);

/// Acknowledgements that are written, or keys that are read, at the same time.
const PUTS_IN_FLIGHT: usize = 256;

/// Acknowledgements read from the store ahead of the puts.
const READ_AHEAD: usize = 1_024;

/// Mirrors the projection to KV.
pub struct Mirror {
    /// The projection that is mirrored.
    pub projection: Projection,
    /// The connection to NATS.
    pub client: Client,
    /// How missing buckets are created, and how long they keep an acknowledgement.
    pub provision: Provision,
    /// The id of this process, for the lease.
    pub instance: Uuid,
    /// The current time.
    pub clock: Arc<dyn Clock>,
    /// Where the lag is exported.
    pub metrics: Metrics,
    /// Keeps the same failure from being logged again and again.
    pub refused: LogLimiter,
    /// Where it raises its warning.
    pub warnings: Warnings,
}

impl Mirror {
    /// Mirrors while the projection has caught up and this replica holds the lease, until it is dropped.
    pub async fn run(self) {
        let mirror = Arc::new(self);
        let context = mirror.provision.context(&mirror.client);
        let mut lease = Lease::new(context.clone(), mirror.provision.clone(), mirror.instance);
        // A replica whose projection has stopped must not keep the lease from others.
        while mirror.projection.watch().wait_for(may_be_mirrored).await.is_ok() {
            if mirror.acquire(&mut lease).await {
                info!("this replica mirrors the log to KV now");
                let mut position = mirror.projection.watch();
                tokio::select! {
                    error = mirror.clone().hold(context.clone()) => mirror.report_failure(&error),
                    () = lease.keep() => info!("this replica does not mirror any more"),
                    _ = position.wait_for(|position| !may_be_mirrored(position)) => info!("this replica is not up to date and does not mirror any more"),
                }
                mirror.metrics.mirroring.set(0);
                // What failed here may succeed on another replica.
                lease.release().await;
            } else {
                mirror.measure_lag(&context).await;
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Takes the lease if no replica holds it.
    async fn acquire(&self, lease: &mut Lease) -> bool {
        match lease.claim().await {
            Ok(taken) => {
                // Another replica mirrors: a failure here does not matter any more.
                if !taken {
                    self.warnings.set(Warning::MirrorFailing, false);
                }
                taken
            }
            Err(error) => {
                let error = causes(&error);
                let is_connected = self.client.connection_state() == State::Connected;
                self.warnings.set(Warning::MirrorFailing, is_connected);
                if is_connected && self.refused.is_due(&error) {
                    warn!(
                        "the lease of the mirror cannot be taken, so this replica does not mirror to KV: {error}"
                    );
                }
                false
            }
        }
    }

    /// Gives the lease back, so that another replica takes over at once.
    pub async fn release(client: &Client, provision: &Provision, instance: Uuid) {
        Lease::new(provision.context(client), provision.clone(), instance).release().await;
    }

    /// Short enough for the position to be written again before the bucket drops it.
    fn check_interval(&self) -> Duration {
        CHECK_INTERVAL.min(self.position_max_age()).max(Duration::from_millis(100))
    }

    /// The age at which an unchanged position is written again.
    fn position_max_age(&self) -> Duration {
        self.provision.acks_max_age / 4
    }

    fn report_failure(&self, error: &anyhow::Error) {
        self.warnings.set(Warning::MirrorFailing, self.client.connection_state() == State::Connected);
        let error = causes(error);
        if self.refused.is_due(&error) {
            warn!("mirroring to KV failed and starts again: {error}");
        }
    }

    /// Fills the buckets and follows the log. Returns only with an error.
    async fn hold(self: Arc<Self>, context: jetstream::Context) -> anyhow::Error {
        match self.try_hold(context).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_hold(
        self: Arc<Self>,
        context: jetstream::Context,
    ) -> anyhow::Result<std::convert::Infallible> {
        let mut changes = self.projection.follow().await;
        let mut writer = Writer::open(self.clone(), context.clone()).await?;
        writer.fill().await?;
        self.metrics.mirroring.set(1);
        self.warnings.set(Warning::MirrorFailing, false);
        let mut check = interval(self.check_interval());
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                announced = changes.recv() => match announced {
                    Some(Announcement::Changed(change)) => {
                        // Clients first: the tasks that send it to them run before.
                        yield_now().await;
                        writer.follow(&change).await?;
                    }
                    Some(Announcement::Snapshot { .. } | Announcement::Settled { .. }) => {
                        writer = Writer::open(self.clone(), context.clone()).await?;
                        writer.fill().await?;
                    }
                    None => anyhow::bail!("the mirror lagged behind the projection, or the projection has ended"),
                },
                _ = check.tick() => {
                    // The position is set after its announcements: if none waits, everything up to it was mirrored.
                    let projected = self.projection.position();
                    writer.check(changes.is_empty().then_some(projected)).await?;
                }
            }
            let behind = self.projection.position().sequence.saturating_sub(writer.sequence);
            self.metrics.mirror_lag.set(gauge(behind));
        }
    }
}

/// Whether the projection has everything that the log had when reading began.
const fn may_be_mirrored(position: &Position) -> bool {
    position.caught_up && position.halt.is_none()
}

/// Writes the two buckets while the lease is held.
struct Writer {
    mirror: Arc<Mirror>,
    active: Bucket,
    acks: Bucket,
    epoch: Epoch,
    /// The last sequence that the buckets reflect.
    sequence: u64,
    /// The bucket had the acknowledgements up to this sequence when it was opened.
    known_acks: u64,
    /// The position that was written last, and when.
    written_position: (u64, Instant),
}

impl Writer {
    async fn open(mirror: Arc<Mirror>, context: jetstream::Context) -> anyhow::Result<Self> {
        let epoch = mirror.projection.position().epoch.context("the projection has no log")?;
        let now = epoch_now(&context).await?;
        ensure!(now == epoch, "the log has another epoch, {now}, than the projection, {epoch}");
        let active = Bucket::open(&context, &mirror.provision, ACTIVE_BUCKET).await?;
        let acks = Bucket::open(&context, &mirror.provision, ACKS_BUCKET).await?;
        let mut writer = Self {
            mirror,
            active,
            acks,
            epoch,
            sequence: 0,
            known_acks: 0,
            written_position: (0, Instant::now()),
        };
        // A few keys: checking all of them costs little, and these are what other services read most.
        writer.sweep(&writer.active).await?;
        match writer.position_of(&writer.acks).await? {
            Some(known) => writer.known_acks = known,
            None => writer.sweep(&writer.acks).await?,
        }
        Ok(writer)
    }

    /// The sequence that a bucket reflects; `None` if it has no position, or one of another log.
    async fn position_of(&self, bucket: &Bucket) -> anyhow::Result<Option<u64>> {
        let value = bucket.get(POSITION_KEY).await?.and_then(|entry| entry.value);
        let known = value.and_then(|value| serde_json::from_slice::<PositionValue>(&value).ok());
        let Some(known) = known.filter(|known| known.epoch == self.epoch) else { return Ok(None) };
        Ok(self.reaches(self.position(known.sequence)).await.then_some(known.sequence))
    }

    /// Whether the projection is at a position or reaches it in a moment: the holder before may have been ahead of it.
    async fn reaches(&self, wanted: log::Position) -> bool {
        let mut position = self.mirror.projection.watch();
        let reached = position.wait_for(|position| {
            let Position { epoch, sequence, .. } = *position;
            epoch == Some(wanted.epoch) && sequence >= wanted.sequence
        });
        timeout(AHEAD_TIMEOUT, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    fn position(&self, sequence: u64) -> log::Position {
        log::Position { epoch: self.epoch, sequence }
    }

    /// Brings both buckets up to the projection, whatever they reflect now.
    async fn fill(&mut self) -> anyhow::Result<()> {
        let reflects = self.mirror.projection.position().sequence;
        for (channel, (active, head)) in self.active_in_log().await? {
            match active {
                Some((active, sequence)) => self.put_active(&channel, &active, sequence).await?,
                None => self.delete_active(&channel, head).await?,
            }
        }
        self.fill_acks().await?;
        self.sequence = reflects;
        self.write_position().await
    }

    /// Writes the acknowledgements that the bucket does not have yet and that are not too old for it, straight from the store.
    async fn fill_acks(&self) -> anyhow::Result<()> {
        let known = self.known_acks;
        let max_age = i64::try_from(self.mirror.provision.acks_max_age.as_millis()).unwrap_or(i64::MAX);
        let since = Timestamp::from_unix_ms(self.mirror.clock.now().as_unix_ms().saturating_sub(max_age));
        let store = self.mirror.projection.store().await;
        let store = store.map_err(|_| anyhow::anyhow!("the projection is being rebuilt"))?;
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let read: JoinHandle<anyhow::Result<()>> = tokio::task::spawn_blocking(move || {
            let send = |id, sequence, acknowledgement| {
                sender.blocking_send((id, sequence, acknowledgement)).context("the writer has ended")
            };
            store.each_ack_after(known, since, send)
        });
        let pending = stream::unfold(receiver, |mut receiver| async move {
            let next = receiver.recv().await?;
            Some((next, receiver))
        });
        let puts = pending.map(|(id, sequence, ack)| self.put_ack(id, sequence, ack));
        puts.buffer_unordered(PUTS_IN_FLIGHT).try_collect::<()>().await?;
        read.await.context("the store panicked")?
    }

    async fn follow(&mut self, changed: &Changed) -> anyhow::Result<()> {
        let Changed { sequence, ref channel, ref change, ref activated, .. } = *changed;
        if sequence <= self.sequence {
            return Ok(());
        }
        match change {
            Change::Activated { .. } => {
                if let Some(active) = activated {
                    self.put_active(channel, &active.broadcast, sequence).await?;
                }
            }
            Change::Ended { .. } => self.delete_active(channel, sequence).await?,
            Change::Acknowledged { id, new } => {
                // By number, so that only those in flight exist: a put takes some kilobytes.
                let puts = stream::iter(0..new.len()).map(|n| self.put_ack(*id, sequence, new[n].clone()));
                puts.buffer_unordered(PUTS_IN_FLIGHT).try_collect::<()>().await?;
            }
            Change::RecordedLate { .. } | Change::Nothing => {}
        }
        self.sequence = sequence;
        Ok(())
    }

    async fn put_active(&self, channel: &Channel, active: &Broadcast, sequence: u64) -> anyhow::Result<()> {
        let write = Write::Put(value_of(active, sequence)?);
        self.active.write(channel.as_str(), self.position(sequence), write).await
    }

    async fn delete_active(&self, channel: &Channel, sequence: u64) -> anyhow::Result<()> {
        self.active.write(channel.as_str(), self.position(sequence), Write::Delete).await
    }

    async fn put_ack(&self, id: BroadcastId, sequence: u64, ack: Acknowledgement) -> anyhow::Result<()> {
        let value = serde_json::to_vec(&AckValue { at: ack.at, sequence })?;
        self.acks.create(&ack_key(id, &ack.user), self.position(sequence), value.into()).await
    }

    /// Checks that both buckets are still the ones that were filled, and writes their position. `followed` is the position of the
    /// projection if everything up to it was mirrored: events without an effect move it too.
    async fn check(&mut self, followed: Option<Position>) -> anyhow::Result<()> {
        for bucket in [&self.active, &self.acks] {
            let position = bucket.get(POSITION_KEY).await?.and_then(|entry| entry.value);
            position.with_context(|| format!("the bucket {} has lost what was in it", bucket.name()))?;
        }
        if let Some(followed) = followed.filter(|followed| followed.epoch == Some(self.epoch)) {
            self.sequence = self.sequence.max(followed.sequence);
            self.repair().await?;
        }
        if self.written_position.0 != self.sequence
            || self.written_position.1.elapsed() >= self.mirror.position_max_age()
        {
            self.write_position().await?;
        }
        Ok(())
    }

    async fn write_position(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let value = serde_json::to_vec(&PositionValue { epoch: self.epoch, sequence: self.sequence })?;
        for bucket in [&self.active, &self.acks] {
            bucket
                .refresh(POSITION_KEY, self.position(self.sequence), Write::Put(value.clone().into()))
                .await?;
        }
        self.written_position = (self.sequence, now);
        Ok(())
    }
}
