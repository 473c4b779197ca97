//! Repairs: keys that this log has not written are deleted, those of active broadcasts are compared with it, and the lag is
//! measured while no replica mirrors.

use std::collections::HashMap;
use std::pin::pin;

use anyhow::anyhow;
use async_nats::jetstream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tracing::warn;

use super::bucket::{Bucket, Entry, Write};
use super::values::{PositionValue, value_of};
use super::{Mirror, PUTS_IN_FLIGHT, Writer};
use crate::domain::{Broadcast, Channel, Needs};
use crate::log::names::{ACTIVE_BUCKET, POSITION_KEY};
use crate::metrics::gauge;
use crate::projection::position::Position;

/// A broadcast as the log has it, and the event that created it.
type InLog = (Broadcast, u64);

impl Mirror {
    /// Measures how far the bucket is behind this replica while another replica mirrors or none does, by the position in the
    /// bucket.
    pub(super) async fn measure_lag(&self, context: &jetstream::Context) {
        let Position { epoch: Some(epoch), sequence, .. } = self.projection.position() else { return };
        let position = match Bucket::existing(context, ACTIVE_BUCKET).await {
            Ok(bucket) => bucket.get(POSITION_KEY).await,
            Err(error) => Err(error),
        };
        let written = match position {
            Ok(entry) => entry.and_then(|entry| entry.value),
            // NATS does not answer: the last value stays.
            Err(_) => return,
        };
        let written = written.and_then(|value| serde_json::from_slice::<PositionValue>(&value).ok());
        let written = written.filter(|written| written.epoch == epoch).map_or(0, |written| written.sequence);
        self.metrics.mirror_lag.set(gauge(sequence.saturating_sub(written)));
    }
}

impl Writer {
    /// Deletes the keys that this log has not written: those of another log, and those beyond the end of this one, which may have
    /// lost its tail and then used the same sequences again.
    pub(super) async fn sweep(&self, bucket: &Bucket) -> anyhow::Result<()> {
        let keys = bucket.keys().await?;
        let kept = keys.map_ok(|key| self.delete_foreign(bucket, key)).try_buffer_unordered(PUTS_IN_FLIGHT);
        let (here, mut ahead) = (self.mirror.projection.position().sequence, Vec::new());
        let mut kept = pin!(kept);
        while let Some(kept) = kept.try_next().await? {
            ahead.extend(kept.filter(|(_, entry)| entry.sequence() > here));
        }
        let Some(furthest) = ahead.iter().map(|(_, entry)| entry.sequence()).max() else { return Ok(()) };
        if self.reaches(self.position(furthest)).await {
            return Ok(());
        }
        let here = self.mirror.projection.position().sequence;
        ahead.retain(|(_, entry)| entry.sequence() > here);
        warn!(
            "the bucket {} has {} keys from beyond the end of the log, which are deleted",
            bucket.name(),
            ahead.len()
        );
        // With the revisions from before the wait: a key that was written since then stays.
        let deleted = stream::iter(ahead).map(|(key, entry)| self.delete(bucket, key, entry.revision));
        deleted.buffer_unordered(PUTS_IN_FLIGHT).try_collect::<()>().await
    }

    /// Deletes a key that is of another log or of none; returns any other one.
    async fn delete_foreign(&self, bucket: &Bucket, key: String) -> anyhow::Result<Option<(String, Entry)>> {
        let Some(entry) = bucket.get(&key).await? else { return Ok(None) };
        if entry.position.is_some_and(|position| position.epoch == self.epoch) {
            return Ok(Some((key, entry)));
        }
        if entry.value.is_some() {
            self.delete(bucket, key, entry.revision).await?;
        }
        Ok(None)
    }

    async fn delete(&self, bucket: &Bucket, key: String, revision: u64) -> anyhow::Result<()> {
        // The start of this log, so that every position in it is later.
        bucket.publish(&key, Some(self.position(0)), &Write::Delete, revision).await.map(drop)
    }

    /// The active broadcast of each channel by the log alone, and the sequence of the channel's last lifecycle event.
    pub(super) async fn active_in_log(&self) -> anyhow::Result<HashMap<Channel, (Option<InLog>, u64)>> {
        let channels = self.mirror.projection.with(Needs::default(), |view| {
            let state = view.log();
            let channels = state.channels.iter().map(|(channel, known)| {
                let active = state.active(channel).map(|known| (known.broadcast.clone(), known.sequence));
                (channel.clone(), (active, known.lifecycle_head))
            });
            channels.collect()
        });
        channels.await.map_err(|_| anyhow!("the projection is being rebuilt"))
    }

    /// Compares the few keys of active broadcasts with the log, and writes those that differ again: another client may have changed
    /// one. A key that is further in the log than this replica stays.
    pub(super) async fn repair(&self) -> anyhow::Result<()> {
        for (channel, (active, head)) in self.active_in_log().await? {
            // The projection is ahead, and the mirror is about to write that: the bucket is all right.
            if head > self.sequence {
                continue;
            }
            let (value, position) = match &active {
                Some((active, sequence)) => (Some(value_of(active, *sequence)?), self.position(*sequence)),
                None => (None, self.position(head)),
            };
            let found = self.active.get(channel.as_str()).await?;
            let found_value = found.as_ref().and_then(|entry| entry.value.as_ref());
            if found_value == value.as_ref() && found.is_some() {
                continue;
            }
            let is_further = found
                .and_then(|entry| entry.position)
                .is_some_and(|found| found.epoch == position.epoch && found.sequence > position.sequence);
            if !is_further {
                warn!(
                    "the key of {channel} in the bucket {} differs from the log, and is written again",
                    self.active.name()
                );
                let write = value.map_or(Write::Delete, Write::Put);
                self.active.refresh(channel.as_str(), position, write).await?;
            }
        }
        Ok(())
    }
}
