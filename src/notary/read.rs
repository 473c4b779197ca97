//! Reading the stream of checkpoints: the newest that counts, and of which log the first is.

use anyhow::Context as _;
use tracing::error;

use super::checkpoint::Signed;
use super::desk::{Desk, Seen};
use super::note::PublicKey;
use super::stream::{BACK, Checkpoints, Reach};
use super::trouble::PassedOver;
use super::{Newest, Notary, SKEW_NS};
use crate::log::Epoch;
use crate::metrics::gauge;
use crate::warnings::Warning;

impl Notary {
    /// Finds the newest checkpoint of the log, from the end of the stream back. What does not count is passed over.
    pub(super) async fn read(
        &self,
        checkpoints: &Checkpoints,
        desk: &mut Desk,
        epoch: Epoch,
        trusted: &[PublicKey],
    ) -> anyhow::Result<()> {
        let reach = checkpoints.reach().await?;
        self.metrics.checkpoint_bytes.set(gauge(reach.bytes));
        self.metrics.checkpoint_limit.set(gauge(reach.max_bytes));
        if desk.read == Some(reach) {
            return Ok(());
        }
        let known = match desk.known(&reach) {
            Some((0, _)) => Some(0),
            Some((last, time_ns)) => {
                checkpoints.at(last).await?.filter(|there| there.time_ns == time_ns).map(|_| last)
            }
            None => None,
        };
        // No checkpoint of this log is older than its first event; an empty log says nothing of that.
        let begins = self.log.first_from(1).await.context("asking the log when it begins")?;
        let first = reach.first.max(known.unwrap_or(0) + 1);
        let (mut found, mut passed_over, mut last) = (None, PassedOver::default(), reach.last);
        'back: while last >= first && last > 0 {
            let batch = checkpoints.up_to(last, first).await?;
            last = last.saturating_sub(BACK);
            for noted in batch.into_iter().rev() {
                match Signed::read(&noted.text, trusted) {
                    Ok(Signed { checkpoint, note }) if checkpoint.epoch == epoch && found.is_none() => {
                        found = Some(Seen { checkpoint, note, time_ns: noted.time_ns, agreed_in: None });
                    }
                    Ok(_) => {}
                    Err(why) => passed_over.note(noted.number, why),
                }
                // In a stream that goes on all that is new is looked at, so that nothing foreign in it goes unsaid.
                let before_the_log = begins
                    .as_ref()
                    .is_some_and(|begins| noted.time_ns < begins.time_ns.saturating_sub(SKEW_NS));
                if before_the_log || (found.is_some() && known.is_none()) {
                    break 'back;
                }
            }
        }
        passed_over.warn();
        if desk.read.map(|read| (read.created_ns, read.first)) != Some((reach.created_ns, reach.first)) {
            self.tell_another_log(checkpoints, &reach, epoch, trusted).await?;
        }
        desk.have_read(reach, known.is_some(), found);
        let signed = desk.newest.as_ref();
        let signed =
            signed.map(|seen| Signed { checkpoint: seen.checkpoint.clone(), note: seen.note.clone() });
        self.newest.send_replace(Some(Newest { epoch, signed }));
        Ok(())
    }

    /// Warns of a log that took the place of one that was signed: the first checkpoint is of that one.
    async fn tell_another_log(
        &self,
        checkpoints: &Checkpoints,
        reach: &Reach,
        epoch: Epoch,
        trusted: &[PublicKey],
    ) -> anyhow::Result<()> {
        let first = if reach.last == 0 { None } else { checkpoints.at(reach.first).await? };
        let first = first.and_then(|noted| Signed::read(&noted.text, trusted).ok());
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
