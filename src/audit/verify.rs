//! Verify: everything that can be checked about a log without trusting its operator.
//!
//! One pass recomputes the tree and the state from the log alone and holds them to what was signed, to what the auditor kept,
//! and to what live replicas and the KV mirror say. Nothing is written but the auditor's own files.

mod bucket;
pub mod checkpoints;
mod exact;
pub mod live;
pub mod mirror;
mod checks;
mod schemas;
mod roots;
mod pass;

use anyhow::bail;

use super::finding::Finding;
use super::source::Source;
use crate::domain::{Digest, State};
use crate::log::Epoch;
use crate::log::merkle::Hash;
use crate::projection::store::Store;
use checkpoints::SignedRoots;
pub use live::ReplicaReport;
use pass::LogPass;
pub use roots::Baseline;
use roots::ExpectedRoots;

/// What a log is compared with.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Everything in the stream of checkpoints.
    pub signed: SignedRoots,
    /// What the auditor kept of an earlier time.
    pub baseline: Option<Baseline>,
    /// The reports of live replicas.
    pub replicas: Vec<ReplicaReport>,
}

/// A log that was walked over to its end.
pub struct Verified {
    /// Which log.
    pub epoch: Epoch,
    /// Its length, holes included.
    pub size: u64,
    /// The root of its tree.
    pub root: Hash,
    /// The digest of its state.
    pub digest: Digest,
    /// How many roots that were signed or kept it was held to.
    pub compared: u64,
    /// How many of these were signed.
    pub compared_signed: u64,
    /// Up to where it is as it should be, by these; what comes after is not signed yet.
    pub verified_up_to: u64,
    /// The newest checkpoint of this log.
    pub newest: Option<String>,
    /// Acknowledgements and late events without effect, which are no fault.
    pub repeats: u64,
    pass: LogPass,
}

impl Verified {
    /// What an auditor keeps of it, if nothing was wrong.
    pub fn to_baseline(&self) -> Baseline {
        Baseline { epoch: self.epoch, size: self.size, root: self.root, checkpoint: self.newest.clone() }
    }

    /// What was folded: channels and what is active in memory,
    pub fn state(&self) -> &State {
        self.pass.state()
    }

    /// and everything on disk, until this value goes.
    pub fn store(&self) -> &Store {
        &self.pass.store
    }
}

/// Reads a log up to its current end and reports findings. `at` is called with each sequence.
pub async fn verify(
    source: &Source,
    evidence: &Evidence,
    mut at: impl FnMut(u64),
    report: &mut impl FnMut(Finding),
) -> anyhow::Result<Verified> {
    let head = source.head().await?;
    let Evidence { signed, baseline, replicas } = evidence;
    if signed.epoch().is_some_and(|epoch| epoch != head.epoch) {
        bail!("the log was replaced by another one while its checkpoints were read; start again");
    }
    let mut roots = ExpectedRoots::of(head, signed, baseline.as_ref(), report);
    roots.compare(0, Hash::empty(), report);
    let mut pass = LogPass::new(head, roots, replicas)?;
    let visit = |entry| {
        pass.visit(&entry, report)?;
        at(entry.sequence());
        Ok(())
    };
    source.each_entry(1, head.last_sequence, visit).await?;
    pass.end(head.last_sequence, report)?;
    live::compare_ends(head, replicas, report);
    Ok(Verified {
        epoch: head.epoch,
        size: pass.sequence(),
        root: pass.root(),
        digest: pass.state().digest,
        compared: pass.roots.compared(),
        compared_signed: pass.roots.compared_signed(),
        verified_up_to: pass.roots.verified_up_to(),
        newest: pass.roots.newest().map(ToOwned::to_owned),
        repeats: pass.repeats,
        pass,
    })
}
