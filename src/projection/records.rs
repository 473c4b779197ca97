//! Pages of broadcasts and of acknowledgements, from the store and from what is pending.

use super::handle::{Projection, Unavailable};
use super::store::AckAt;
use crate::domain::{BroadcastId, BroadcastState, Channel, Needs, PENDING};

impl Projection {
    /// Up to `limit` broadcasts of a channel that were created before a sequence, newest first.
    pub async fn history(
        &self,
        channel: Channel,
        before: u64,
        limit: usize,
    ) -> Result<Vec<BroadcastState>, Unavailable> {
        let of = channel.clone();
        let pending = self.with(Needs::default(), move |view| {
            let pending = view.pending_broadcasts(&of).into_iter();
            pending.filter(|known| known.sequence < before).take(limit).cloned().collect::<Vec<_>>()
        });
        let mut found = pending.await?;
        let rest = limit - found.len();
        let before = before.min(PENDING);
        let stored = self.stored(move |store| store.history(&channel, before, rest)).await?;
        let mut stored = self.overlaid(stored).await?;
        // A pending one may have got into the log, and the store, between the two reads.
        stored.retain(|known| found.iter().all(|found| found.broadcast.id != known.broadcast.id));
        found.extend(stored);
        Ok(found)
    }

    /// One broadcast of a channel, without its acknowledgements.
    pub async fn record(
        &self,
        channel: Channel,
        id: BroadcastId,
    ) -> Result<Option<BroadcastState>, Unavailable> {
        let record = match self.with(Needs::default(), move |view| view.pending(id).cloned()).await? {
            Some(pending) => Some(pending),
            None => self.stored(move |store| store.record(id)).await?,
        };
        Ok(record.filter(|record| record.channel == channel))
    }

    /// Up to `limit` acknowledgements of a broadcast after a position, see [`AckAt`].
    pub async fn acks_after(
        &self,
        id: BroadcastId,
        after: (u64, usize),
        limit: usize,
    ) -> Result<Vec<AckAt>, Unavailable> {
        // What is pending is read first: an acknowledgement that gets into the log between the two reads is then in both, not in
        // neither.
        let pending = self.with(Needs::default(), move |view| {
            let pending = view.pending_acknowledgements(id).map(|(sequence, number, acknowledgement)| {
                AckAt { position: (sequence, number), acknowledgement: acknowledgement.clone() }
            });
            pending.filter(|ack| ack.position > after).collect::<Vec<_>>()
        });
        let pending = pending.await?;
        let mut found = self.stored(move |store| store.acks_after(id, after, limit)).await?;
        let rest = limit - found.len();
        if rest == 0 || pending.is_empty() {
            return Ok(found);
        }
        // The log was read up to here: whoever is in it is on this page or on an earlier one.
        let up_to = found.last().map_or(after, |last| last.position).0;
        let users: Vec<_> = pending.iter().map(|ack| ack.acknowledgement.user.fingerprint()).collect();
        let needs = Needs::acknowledged(id, users.iter().copied());
        let left = self.with(needs, move |view| {
            let is_left = |user| view.acknowledged_in_log(id, user).is_none_or(|sequence| sequence > up_to);
            let left = pending.into_iter().zip(users).filter(|(_, user)| is_left(*user));
            left.map(|(ack, _)| ack).take(rest).collect::<Vec<_>>()
        });
        found.extend(left.await?);
        Ok(found)
    }

    /// The same records with what is pending.
    async fn overlaid(&self, mut records: Vec<BroadcastState>) -> Result<Vec<BroadcastState>, Unavailable> {
        if !self.snapshot().has_pending {
            return Ok(records);
        }
        self.with(Needs::default(), move |view| {
            for record in &mut records {
                if let Some(pending) = view.pending(record.broadcast.id) {
                    record.clone_from(pending);
                }
            }
            records
        })
        .await
    }
}
