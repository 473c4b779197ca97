//! A proof from a replica: it knows where the event is, and the roots over whole blocks, so that it reads a few hundred
//! messages of the log however long that is.

use std::time::Duration;

use super::extra::ProofExtra;
use super::{Proof, ProofError};
use crate::domain::{BroadcastId, Needs, UserId, in_log};
use crate::log::EventLog;
use crate::log::merkle::inclusion_ranges;
use crate::notary::checkpoint::SignedCheckpoint;
use crate::notary::ranges::{LeafReader, hash_of};
use crate::projection::{Projection, Unavailable};

/// Why a replica gives no proof.
#[derive(Debug)]
pub enum ReplicaProofError {
    /// There is none to give.
    ProofError(ProofError),
    /// It has not read the log as far as it was signed: the one place, and the other.
    Behind(u64, u64),
    /// Its projection cannot answer.
    Unavailable,
    /// The log cannot be read now.
    Away(anyhow::Error),
}

impl From<ProofError> for ReplicaProofError {
    fn from(unprovable: ProofError) -> Self {
        Self::ProofError(unprovable)
    }
}

impl From<Unavailable> for ReplicaProofError {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

/// Proves that a user has acknowledged a broadcast, or without a user, that it was announced. `signed` is the newest
/// checkpoint of the log that the projection is of; the projection may take `patience` to get there.
pub async fn prove(
    log: &dyn EventLog,
    projection: &Projection,
    signed: Option<SignedCheckpoint>,
    (broadcast, user): (BroadcastId, Option<UserId>),
    patience: Duration,
) -> Result<Proof, ReplicaProofError> {
    let sequence = place(projection, broadcast, user.clone()).await?;
    let signed = signed.ok_or(ProofError::NoCheckpoint)?;
    let size = signed.checkpoint.size;
    if size < sequence {
        return Err(ProofError::NotSigned(sequence, size).into());
    }
    let event = log.get(sequence).await.map_err(|error| ReplicaProofError::Away(error.into()))?;
    let shown = ProofExtra::of(&event.ok_or(ProofError::Lost(sequence))?, user.as_ref())?;
    if !projection.reached(size, patience).await {
        return Err(ReplicaProofError::Behind(size, projection.position().sequence));
    }
    let mut path = Vec::new();
    let mut leaves = LeafReader::of_any_node(log);
    for range in inclusion_ranges(sequence - 1, size) {
        path.push(hash_of(&mut leaves, projection, range).await.map_err(ReplicaProofError::Away)?);
    }
    Ok(Proof::of(shown, sequence, path, signed)?)
}

/// Where the log says it.
async fn place(
    projection: &Projection,
    broadcast: BroadcastId,
    user: Option<UserId>,
) -> Result<u64, ReplicaProofError> {
    let needs = Needs::acknowledged(broadcast, user.as_ref().map(UserId::fingerprint));
    let look = move |view: crate::domain::View<'_>| {
        let known = view.broadcast(broadcast).ok_or(ProofError::UnknownBroadcast(broadcast))?;
        let sequence = match user {
            None => known.sequence,
            Some(user) => {
                view.acknowledged_at(broadcast, &user).ok_or(ProofError::NotAcknowledged(broadcast, user))?
            }
        };
        in_log(sequence).ok_or(ProofError::NotInLog)
    };
    Ok(projection.with(needs, look).await??)
}
