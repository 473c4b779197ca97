//! A proof from a source alone: read once to find the event, and once more to hash what is beside it.

use super::extra::ProofExtra;
use super::{Proof, ProofError};
use crate::audit::source::Source;
use crate::domain::{BroadcastId, Channel, Event, Recorded, UserId};
use crate::log::RawMessage;
use crate::log::envelope::{Decoded, decode};
use crate::log::merkle::{Frontier, Hash, inclusion_ranges};
use crate::log::reader::LogEntry;
use crate::notary::checkpoint::SignedCheckpoint;

/// Proves that a user has acknowledged a broadcast, or without a user, that it was announced. `signed` is the newest
/// checkpoint of the source by somebody who counts. Of the log no more than one batch is in memory at any time.
pub async fn prove(
    source: &Source,
    signed: Option<SignedCheckpoint>,
    broadcast: BroadcastId,
    user: Option<&UserId>,
) -> anyhow::Result<Proof> {
    let signed = signed.ok_or(ProofError::NoCheckpoint)?;
    let last = source.head().await?.last_sequence;
    let event = find(source, last, broadcast, user).await?;
    let shown = ProofExtra::of(&event, user)?;
    let size = signed.checkpoint.size;
    if size < event.sequence {
        return Err(ProofError::NotSigned(event.sequence, size).into());
    }
    if size > last {
        return Err(ProofError::Shorter(last, size).into());
    }
    let path = path(source, event.sequence - 1, size).await?;
    Ok(Proof::of(shown, event.sequence, path, signed)?)
}

/// The first event that says it, which is the one that counts.
async fn find(
    source: &Source,
    last: u64,
    broadcast: BroadcastId,
    user: Option<&UserId>,
) -> anyhow::Result<RawMessage> {
    let mut search = Search { broadcast, user, channel: None, found: None };
    let visited = source.each_entry(1, last, |entry| search.look(entry)).await;
    match (search.found, search.channel, user) {
        (Some(found), ..) => Ok(found),
        (None, Some(_), Some(user)) => {
            visited?;
            Err(ProofError::NotAcknowledged(broadcast, user.clone()).into())
        }
        _ => {
            visited?;
            Err(ProofError::UnknownBroadcast(broadcast).into())
        }
    }
}

struct Search<'a> {
    broadcast: BroadcastId,
    user: Option<&'a UserId>,
    /// Where the broadcast was announced, once it was: what acknowledges it elsewhere or earlier is without effect.
    channel: Option<Channel>,
    found: Option<RawMessage>,
}

impl Search<'_> {
    /// Ends the visit, by an error, when the event is found.
    fn look(&mut self, entry: LogEntry) -> anyhow::Result<()> {
        let LogEntry::Message(raw) = entry else { return Ok(()) };
        let Decoded::Event(recorded) = decode(&raw) else { return Ok(()) };
        if self.is_it(&recorded) {
            self.found = Some(raw);
            anyhow::bail!("it is found: nothing more has to be read");
        }
        Ok(())
    }

    fn is_it(&mut self, recorded: &Recorded) -> bool {
        match (&recorded.event, self.user) {
            (Event::Created(created), user) if created.id == self.broadcast && self.channel.is_none() => {
                self.channel = Some(recorded.channel.clone());
                user.is_none()
            }
            (Event::Acknowledged(acknowledged), Some(user)) => {
                acknowledged.broadcast_id == self.broadcast
                    && self.channel.as_ref() == Some(&recorded.channel)
                    && acknowledged.acknowledgements.iter().any(|one| one.user == *user)
            }
            _ => false,
        }
    }
}

/// The hashes of the ranges beside a leaf.
async fn path(source: &Source, index: u64, size: u64) -> anyhow::Result<Vec<Hash>> {
    let mut ranges: Vec<_> =
        inclusion_ranges(index, size).into_iter().map(|range| (range, Frontier::default())).collect();
    let visit = |entry: LogEntry| {
        let place = entry.sequence() - 1;
        if let Some((_, tree)) = ranges.iter_mut().find(|(range, _)| range.contains(&place)) {
            tree.push(entry.leaf());
        }
        Ok(())
    };
    source.each_entry(1, size, visit).await?;
    Ok(ranges.into_iter().map(|(_, tree)| tree.root()).collect())
}
