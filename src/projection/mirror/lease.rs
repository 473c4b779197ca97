//! The mirror's lease: a key in the bucket of heartbeats, which expires unless it is renewed.

use std::time::Duration;

use async_nats::jetstream;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;
use uuid::Uuid;

use super::bucket::{Bucket, Write};
use crate::log::names::{MIRROR_LEASE_KEY, REPLICAS_BUCKET};
use crate::log::provision::Provision;

/// The interval at which the lease is renewed.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);

/// A holder stops this long after it sent the last claim that succeeded. The bucket keeps the key for ten seconds from when it was
/// written, which was later: a holder has stopped before another one can start.
const HOLD_TIMEOUT: Duration = Duration::from_secs(8);

pub(super) struct Lease {
    context: jetstream::Context,
    provision: Provision,
    instance: Uuid,
    /// When the last claim that succeeded was sent.
    renewed: Instant,
}

impl Lease {
    pub(super) fn new(context: jetstream::Context, provision: Provision, instance: Uuid) -> Self {
        Self { context, provision, instance, renewed: Instant::now() }
    }

    /// Takes or renews the lease; `false` if another replica has it.
    pub(super) async fn claim(&mut self) -> anyhow::Result<bool> {
        let sent = Instant::now();
        let bucket = self.bucket().await?;
        let entry = bucket.get(MIRROR_LEASE_KEY).await?;
        // A lease that was given back has no value.
        if entry.as_ref().and_then(|entry| entry.value.as_ref()).is_some_and(|holder| !self.is_ours(holder)) {
            return Ok(false);
        }
        let revision = entry.map_or(0, |entry| entry.revision);
        let claim = Write::Put(self.instance.to_string().into());
        let claimed = bucket.publish(MIRROR_LEASE_KEY, None, &claim, revision).await?;
        if claimed {
            self.renewed = sent;
        }
        Ok(claimed)
    }

    async fn bucket(&self) -> anyhow::Result<Bucket> {
        Bucket::open(&self.context, &self.provision, REPLICAS_BUCKET).await
    }

    fn is_ours(&self, holder: &[u8]) -> bool {
        holder == self.instance.to_string().as_bytes()
    }

    /// Renews the lease; returns when it is lost, or may be.
    pub(super) async fn keep(&mut self) {
        loop {
            let give_up = self.renewed + HOLD_TIMEOUT;
            let renewed = timeout_at(give_up, async {
                sleep(RENEW_INTERVAL).await;
                self.claim().await
            });
            match renewed.await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => debug!("the mirror's lease was not renewed: {error:#}"),
            }
        }
    }

    /// Gives the lease back, if this process has it.
    pub(super) async fn release(&self) {
        if let Err(error) = self.try_release().await {
            debug!("the mirror's lease was not given back: {error:#}");
        }
    }

    async fn try_release(&self) -> anyhow::Result<()> {
        let bucket = self.bucket().await?;
        if let Some(entry) = bucket.get(MIRROR_LEASE_KEY).await?
            && entry.value.is_some_and(|holder| self.is_ours(&holder))
        {
            // Refused: another replica has taken it meanwhile.
            bucket.publish(MIRROR_LEASE_KEY, None, &Write::Delete, entry.revision).await?;
        }
        Ok(())
    }
}
