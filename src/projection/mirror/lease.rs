//! The mirror's lease: a key in the bucket of heartbeats that the bucket forgets when it is not renewed.

use std::time::Duration;

use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tracing::debug;
use uuid::Uuid;

use super::bucket::put;
use crate::log::names::{MIRROR_LEASE_KEY, REPLICAS_BUCKET, bucket_subject};
use crate::log::provision::{Provision, replicas_stream};

/// How often the lease is renewed. The bucket forgets what is older than ten seconds.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// A holder that could not renew for this long stops before another one can begin.
const GIVE_UP_AFTER: Duration = Duration::from_secs(8);

pub(super) struct Lease {
    context: jetstream::Context,
    provision: Provision,
    instance: Uuid,
    revision: u64,
}

impl Lease {
    pub(super) const fn new(context: jetstream::Context, provision: Provision, instance: Uuid) -> Self {
        Self { context, provision, instance, revision: 0 }
    }

    /// Takes the lease when nobody holds it.
    pub(super) async fn acquire(&mut self) -> bool {
        match self.try_acquire().await {
            Ok(taken) => taken,
            Err(error) => {
                debug!("the mirror's lease cannot be had now: {error:#}");
                false
            }
        }
    }

    async fn try_acquire(&mut self) -> anyhow::Result<bool> {
        match self.holder().await? {
            Some((_, holder)) if !holder.is_empty() && holder != self.instance.to_string().as_bytes() => {
                Ok(false)
            }
            found => self.claim(found.map_or(0, |(revision, _)| revision)).await,
        }
    }

    /// The revision and the value of the key; an empty value is a lease that was given back.
    async fn holder(&self) -> anyhow::Result<Option<(u64, Bytes)>> {
        let stream = self.provision.stream(&self.context, &replicas_stream()).await?;
        match stream.get_last_raw_message_by_subject(&subject()).await {
            Ok(found) => Ok(Some((found.sequence, found.payload))),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn claim(&mut self, revision: u64) -> anyhow::Result<bool> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
        let claimed = put(&self.context, subject(), headers, self.instance.to_string().into()).await?;
        self.revision = claimed.unwrap_or(self.revision);
        Ok(claimed.is_some())
    }

    /// Renews the lease; returns when it is lost.
    pub(super) async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < GIVE_UP_AFTER {
            sleep(RENEW_EVERY).await;
            match self.claim(self.revision).await {
                Ok(true) => renewed = Instant::now(),
                // An answer that was lost moved the revision, or another replica has it.
                Ok(false) => match self.try_acquire().await {
                    Ok(true) => renewed = Instant::now(),
                    Ok(false) => return,
                    Err(error) => debug!("the mirror's lease is in doubt: {error:#}"),
                },
                Err(error) => debug!("the mirror's lease was not renewed: {error:#}"),
            }
        }
    }

    /// Gives the lease back, if this process has it.
    pub(super) async fn release(&self) {
        let Ok(Some((revision, holder))) = self.holder().await else { return };
        if holder != self.instance.to_string().as_bytes() {
            return;
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
        headers.insert("KV-Operation", "DEL");
        if let Err(error) = put(&self.context, subject(), headers, Bytes::new()).await {
            debug!("the mirror's lease was not given back: {error:#}");
        }
    }
}

fn subject() -> String {
    bucket_subject(REPLICAS_BUCKET, MIRROR_LEASE_KEY)
}
