//! The mirror held to the log: keys that the log has not brought are deleted, those of what is active are compared with it, and
//! the lag is known while nobody mirrors.

use std::collections::HashMap;
use std::pin::pin;

use anyhow::anyhow;
use async_nats::jetstream;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tracing::warn;

use super::bucket::{Bucket, Entry, Write};
use super::{Mirror, PUTS_IN_FLIGHT, Position, PositionValue, Writer};
use crate::domain::{Broadcast, Channel, Needs};
use crate::log::names::{ACTIVE_BUCKET, POSITION_KEY};
use crate::metrics::gauge;

/// A broadcast as the log has it, and the event that created it.
type InLog = (Broadcast, u64);

impl Mirror {
    /// How far the bucket is behind what this replica has read, when another replica mirrors or nobody does: by the position
    /// that the mirror last noted there.
    pub(super) async fn note_lag(&self, context: &jetstream::Context) {
        let Position { epoch: Some(epoch), sequence, .. } = self.projection.position() else { return };
        let position = match Bucket::existing(context, ACTIVE_BUCKET).await {
            Ok(bucket) => bucket.get(POSITION_KEY).await,
            Err(error) => Err(error),
        };
        let noted = match position {
            Ok(entry) => entry.and_then(|entry| entry.value),
            // NATS does not answer: what was known before is the best that there is.
            Err(_) => return,
        };
        let noted = noted.and_then(|value| serde_json::from_slice::<PositionValue>(&value).ok());
        let noted = noted.filter(|noted| noted.epoch == epoch).map_or(0, |noted| noted.sequence);
        self.metrics.mirror_lag.set(gauge(sequence.saturating_sub(noted)));
    }
}

impl Writer {
    /// Takes down what this log has not brought: keys of another log, and keys beyond the end of this one, which may
    /// have lost its tail and then used the same sequences again.
    pub(super) async fn sweep(&self, bucket: &Bucket) -> anyhow::Result<()> {
        let keys = bucket.keys().await?;
        let kept =
            keys.map_ok(|key| self.take_down_foreign(bucket, key)).try_buffer_unordered(PUTS_IN_FLIGHT);
        let (here, mut ahead) = (self.mirror.projection.position().sequence, Vec::new());
        let mut kept = pin!(kept);
        while let Some(kept) = kept.try_next().await? {
            ahead.extend(kept.filter(|(_, entry)| entry.sequence() > here));
        }
        let Some(furthest) = ahead.iter().map(|(_, entry)| entry.sequence()).max() else { return Ok(()) };
        if self.reaches(self.place(furthest)).await {
            return Ok(());
        }
        let here = self.mirror.projection.position().sequence;
        ahead.retain(|(_, entry)| entry.sequence() > here);
        warn!("the bucket {} has {} keys from beyond the log: taking them down", bucket.name(), ahead.len());
        // With the revisions from before the wait: whatever was written since then stays.
        let taken = stream::iter(ahead).map(|(key, entry)| self.take_down(bucket, key, entry.revision));
        taken.buffer_unordered(PUTS_IN_FLIGHT).try_collect::<()>().await
    }

    /// Takes a key down if it is of another log or of none; returns any other one.
    async fn take_down_foreign(
        &self,
        bucket: &Bucket,
        key: String,
    ) -> anyhow::Result<Option<(String, Entry)>> {
        let Some(entry) = bucket.get(&key).await? else { return Ok(None) };
        if entry.place.is_some_and(|place| place.epoch == self.epoch) {
            return Ok(Some((key, entry)));
        }
        if entry.value.is_some() {
            self.take_down(bucket, key, entry.revision).await?;
        }
        Ok(None)
    }

    async fn take_down(&self, bucket: &Bucket, key: String, revision: u64) -> anyhow::Result<()> {
        // The first place of this log, so that whatever is written of it comes after.
        bucket.publish(&key, Some(self.place(0)), &Write::Delete, revision).await.map(drop)
    }

    /// What is active in each channel by the log alone, and the last lifecycle event there.
    pub(super) async fn active_in_log(&self) -> anyhow::Result<HashMap<Channel, (Option<InLog>, u64)>> {
        let channels = self.mirror.projection.with(Needs::default(), |view| {
            let state = view.log();
            let channels = state.channels.iter().map(|(channel, known)| {
                let active = state.active(channel).map(|known| (known.broadcast.clone(), known.sequence));
                (channel.clone(), (active, known.lifecycle_head))
            });
            channels.collect()
        });
        channels.await.map_err(|_| anyhow!("the projection has ended"))
    }

    /// Compares the few keys of what is active with the log, and writes those again that differ: somebody else may have
    /// written or deleted one. Whatever is further in the log than this replica stays.
    pub(super) async fn repair(&self) -> anyhow::Result<()> {
        for (channel, (active, head)) in self.active_in_log().await? {
            // The projection has read on, and the mirror is about to write that: nothing is wrong with the bucket.
            if head > self.sequence {
                continue;
            }
            let (value, place) = match &active {
                Some((active, sequence)) => (Some(value_of(active, *sequence)?), self.place(*sequence)),
                None => (None, self.place(head)),
            };
            let found = self.active.get(channel.as_str()).await?;
            let found_value = found.as_ref().and_then(|entry| entry.value.as_ref());
            if found_value == value.as_ref() && found.is_some() {
                continue;
            }
            let is_further = found
                .and_then(|entry| entry.place)
                .is_some_and(|found| found.epoch == place.epoch && found.sequence > place.sequence);
            if !is_further {
                warn!(
                    "the bucket {} does not say what is active in {channel}: writing it again",
                    self.active.name()
                );
                let write = value.map_or(Write::Delete, Write::Put);
                self.active.refresh(channel.as_str(), place, write).await?;
            }
        }
        Ok(())
    }
}

/// The value of a channel's key while this is active: the broadcast as its event has it, and the sequence of that.
pub(super) fn value_of(active: &Broadcast, sequence: u64) -> anyhow::Result<Bytes> {
    let mut value = serde_json::to_value(active)?;
    value["sequence"] = sequence.into();
    Ok(serde_json::to_vec(&value)?.into())
}
