//! Proofs: that something is in the log, in a file that whoever has the log's public key can check without the log.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra {base64 of JSON}      what is shown of the event, see [`extra`]
//! index {number}              its leaf: its sequence − 1
//! {hash in base64}            of each range that `merkle::inclusion` names
//!
//! {a signed checkpoint, as it stands in the stream}
//! ```
//!
//! The form is C2SP's tlog-proof (v1), so that others who know the form check index, hashes and checkpoint by themselves. The
//! extra data is covered by no signature: all that is believed of it is what hashes to the leaf.

pub mod of_replica;
pub mod of_source;
mod error;
pub mod extra;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::log::merkle::{Hash, verify_inclusion};
use crate::notary::checkpoint::{Checkpoint, InvalidCheckpoint, SignedCheckpoint};
use crate::notary::note::{InvalidNote, Note, PublicKey};
use error::{FORMAT_LINE, MAX_PATH};
pub use error::{InvalidProof, MAX_BYTES, ProofError};
use extra::{ProofExtra, ProvenEvent};

/// That an event is in the log that a checkpoint was signed of. Nothing of it is known to be true until [`Proof::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    shown: ProofExtra,
    index: u64,
    path: Vec<Hash>,
    note: Note,
}

/// What a proof has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedProof {
    /// What is in the log, and where.
    pub event: ProvenEvent,
    /// Of which log, by what was signed of it.
    pub checkpoint: Checkpoint,
    /// Who signed that.
    pub signed_by: PublicKey,
}

impl Proof {
    /// A proof of these parts, if it is one: the hashes lead from the event to the root that was signed.
    fn of(
        shown: ProofExtra,
        sequence: u64,
        path: Vec<Hash>,
        signed: SignedCheckpoint,
    ) -> Result<Self, ProofError> {
        let size = signed.checkpoint.size;
        let proof = Self { shown, index: sequence - 1, path, note: signed.note };
        match proof.event(&signed.checkpoint) {
            Ok(_) => Ok(proof),
            Err(_) => Err(ProofError::Differs(size)),
        }
    }

    /// What it says, under the root of a checkpoint.
    fn event(&self, checkpoint: &Checkpoint) -> Result<ProvenEvent, InvalidProof> {
        let (event, leaf) = self.shown.event().map_err(InvalidProof::Event)?;
        if Some(self.index) != event.sequence.checked_sub(1) {
            return Err(InvalidProof::Index);
        }
        if !verify_inclusion(checkpoint.root, checkpoint.size, self.index, leaf, &self.path) {
            return Err(InvalidProof::NotIncluded);
        }
        Ok(event)
    }

    /// What is proven, to whoever trusts these keys; else why nothing is.
    pub fn check(&self, keys: &[PublicKey]) -> Result<VerifiedProof, InvalidProof> {
        let signed_by =
            self.note.verified_by(keys).map_err(|error| InvalidProof::Checkpoint(error.into()))?;
        let checkpoint: Checkpoint = self
            .note
            .text()
            .parse()
            .map_err(|error: InvalidCheckpoint| InvalidProof::Checkpoint(error.into()))?;
        Ok(VerifiedProof { event: self.event(&checkpoint)?, signed_by: signed_by.clone(), checkpoint })
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra = serde_json::to_vec(&self.shown).map_err(|_| fmt::Error)?;
        writeln!(f, "{FORMAT_LINE}\nextra {}\nindex {}", STANDARD.encode(extra), self.index)?;
        for hash in &self.path {
            writeln!(f, "{hash}")?;
        }
        write!(f, "\n{}", self.note)
    }
}

impl FromStr for Proof {
    type Err = InvalidProof;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_BYTES {
            return Err(InvalidProof::TooLong);
        }
        let mut lines = text.split('\n');
        if lines.next() != Some(FORMAT_LINE) {
            return Err(InvalidProof::FirstLine);
        }
        let (head, note) = text.split_once("\n\n").ok_or(InvalidProof::NoCheckpoint)?;
        let mut lines = head.split('\n').skip(1);
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let extra = extra.ok_or(InvalidProof::NoEvent)?;
        let extra = STANDARD.decode(extra).map_err(|_| InvalidProof::ExtraBase64)?;
        let shown = serde_json::from_slice(&extra)
            .map_err(|why: serde_json::Error| InvalidProof::Extra(why.to_string()))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(number).ok_or(InvalidProof::NoIndex)?;
        let path = lines.map(str::parse).collect::<Result<Vec<_>, _>>()?;
        if path.len() > MAX_PATH {
            return Err(InvalidProof::TooManyHashes);
        }
        let note = note.parse().map_err(|error: InvalidNote| InvalidProof::Checkpoint(error.into()))?;
        Ok(Self { shown, index, path, note })
    }
}

/// One spelling: neither `+1` nor `01`.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

#[cfg(test)]
mod tests;
