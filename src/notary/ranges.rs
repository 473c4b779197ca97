//! Hashes of ranges of the log: what proofs are made of.
//!
//! A replica keeps the roots over whole blocks of leaves. For what is smaller than a block it asks the log, a few hundred
//! messages at most.

use std::ops::Range;

use anyhow::{Context as _, anyhow, bail};

use crate::log::EventLog;
use crate::log::leaf::Statement;
use crate::log::merkle::{Frontier, Hash};
use crate::projection::Projection;
use crate::projection::tree::BLOCK;

/// The root over the leaves of a range that begins at a multiple of the largest power of two in its length, as those of RFC
/// 6962 do. The projection must have them.
pub async fn hash_of(log: &dyn EventLog, projection: &Projection, range: Range<u64>) -> anyhow::Result<Hash> {
    let blocks =
        if range.start.is_multiple_of(BLOCK) { range.start / BLOCK..range.end / BLOCK } else { 0..0 };
    let mut whole = Frontier::default();
    let roots = projection.blocks(blocks.clone()).await;
    whole.extend(roots.map_err(|_| anyhow!("the projection cannot read its tree now"))?);
    let rest = if blocks.is_empty() { range } else { blocks.end * BLOCK..range.end };
    let mut loose = Frontier::default();
    let mut next = rest.start + 1;
    while next <= rest.end {
        let found = log.first_from(next).await?.with_context(|| format!("the log ends before {next}"))?;
        for hole in next..found.sequence.min(rest.end + 1) {
            loose.push(Statement::hole(hole).leaf());
        }
        if found.sequence <= rest.end {
            loose.push(found.leaf());
        }
        next = found.sequence + 1;
    }
    let roots = [whole.roots(), loose.roots()].concat();
    match Frontier::from_parts(whole.size() * BLOCK + loose.size(), roots) {
        Some(tree) => Ok(tree.root()),
        None => bail!("a range of the log does not begin where a subtree does"),
    }
}
