//! Reading the stream of checkpoints: the newest that counts, and of which log the first is.

use anyhow::Context as _;
use tracing::error;

use super::checkpoint::SignedCheckpoint;
use super::failures::SkippedCheckpoints;
use super::note::PublicKey;
use super::state::{CheckpointState, ReadCheckpoint};
use super::stream::{BATCH, CheckpointStream, StreamExtent};
use super::{MAX_CLOCK_SKEW_NS, NewestCheckpoint, Notary};
use crate::log::Epoch;
use crate::metrics::gauge;
use crate::warnings::Warning;

impl Notary {
    /// Finds the newest checkpoint of the log, from the end of the stream back. What does not count is passed over.
    pub(super) async fn read(
        &self,
        checkpoints: &CheckpointStream,
        state: &mut CheckpointState,
        epoch: Epoch,
        trusted: &[PublicKey],
    ) -> anyhow::Result<()> {
        let extent = checkpoints.extent().await?;
        self.metrics.checkpoint_bytes.set(gauge(extent.bytes));
        self.metrics.checkpoint_limit.set(gauge(extent.max_bytes));
        if state.read == Some(extent) {
            return Ok(());
        }
        let known = match state.known(&extent) {
            Some((0, _)) => Some(0),
            Some((last, time_ns)) => {
                checkpoints.at(last).await?.filter(|there| there.time_ns == time_ns).map(|_| last)
            }
            None => None,
        };
        // No checkpoint of this log is older than its first event; an empty log says nothing of that.
        let begins = self.log.first_from(1).await.context("asking the log when it begins")?;
        let first = extent.first.max(known.unwrap_or(0) + 1);
        let (mut found, mut passed_over, mut last) = (None, SkippedCheckpoints::default(), extent.last);
        'back: while last >= first && last > 0 {
            let batch = checkpoints.up_to(last, first).await?;
            last = last.saturating_sub(BATCH);
            for stored in batch.into_iter().rev() {
                match SignedCheckpoint::read(&stored.text, trusted) {
                    Ok(SignedCheckpoint { checkpoint, note })
                        if checkpoint.epoch == epoch && found.is_none() =>
                    {
                        found = Some(ReadCheckpoint {
                            checkpoint,
                            note,
                            time_ns: stored.time_ns,
                            agreed_in: None,
                        });
                    }
                    Ok(_) => {}
                    Err(why) => passed_over.note(stored.number, &why),
                }
                // In a stream that goes on all that is new is looked at, so that nothing foreign in it goes unsaid.
                let before_the_log = begins
                    .as_ref()
                    .is_some_and(|begins| stored.time_ns < begins.time_ns.saturating_sub(MAX_CLOCK_SKEW_NS));
                if before_the_log || (found.is_some() && known.is_none()) {
                    break 'back;
                }
            }
        }
        passed_over.warn();
        if state.read.map(|read| (read.created_ns, read.first)) != Some((extent.created_ns, extent.first)) {
            self.warn_if_replaced(checkpoints, &extent, epoch, trusted).await?;
        }
        state.record_read(extent, known.is_some(), found);
        let signed = state.newest.as_ref();
        let signed = signed
            .map(|seen| SignedCheckpoint { checkpoint: seen.checkpoint.clone(), note: seen.note.clone() });
        self.newest.send_replace(Some(NewestCheckpoint { epoch, signed }));
        Ok(())
    }

    /// Warns of a log that took the place of one that was signed: the first checkpoint is of that one.
    async fn warn_if_replaced(
        &self,
        checkpoints: &CheckpointStream,
        extent: &StreamExtent,
        epoch: Epoch,
        trusted: &[PublicKey],
    ) -> anyhow::Result<()> {
        let first = if extent.last == 0 { None } else { checkpoints.at(extent.first).await? };
        let first = first.and_then(|stored| SignedCheckpoint::read(&stored.text, trusted).ok());
        let other = first.map(|signed| signed.checkpoint.epoch).filter(|signed| *signed != epoch);
        self.warnings.set(Warning::LogReplaced, other.is_some());
        if let Some(other) = other {
            error!(
                "the log is {epoch}, and the first checkpoint is of the log {other}, which this one has replaced. If that was \
                 deleted by mistake, stop all replicas and restore the backup of both streams; if not, keep a copy of the old \
                 checkpoints and delete their stream with `nats stream rm BROADCAST_CHECKPOINTS`"
            );
        }
        Ok(())
    }
}
