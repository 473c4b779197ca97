//! Hashes of ranges of the log: what proofs are made of.
//!
//! A replica keeps the roots over whole blocks of leaves. For what is smaller than a block it asks the log.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context as _, anyhow, bail};

use crate::log::EventLog;
use crate::log::leaf::Statement;
use crate::log::merkle::{Frontier, Hash};
use crate::projection::Projection;
use crate::projection::tree::BLOCK;

/// Leaves of the log. Those of one block at a time are kept: a proof asks for several ranges of the same one.
pub struct LeafReader<'a> {
    log: &'a dyn EventLog,
    /// Whether the leader is asked for each message. Else whatever node answers, for many messages at once.
    of_leader: bool,
    /// Leaves of messages that were read, by sequence.
    read: BTreeMap<u64, Hash>,
}

impl<'a> LeafReader<'a> {
    /// Read from the leader of the log, a message a request: for a root that is going to be signed or held against others.
    pub const fn of_leader(log: &'a dyn EventLog) -> Self {
        Self { log, of_leader: true, read: BTreeMap::new() }
    }

    /// Read in a few requests, for what is checked against a signed root afterwards.
    pub const fn of_any_node(log: &'a dyn EventLog) -> Self {
        Self { log, of_leader: false, read: BTreeMap::new() }
    }

    /// The leaf at a sequence, or the first one behind it; an error when the log ends before.
    async fn first_from(&mut self, sequence: u64) -> anyhow::Result<(u64, Hash)> {
        if !self.of_leader {
            if let Some((known, leaf)) = self.read.range(sequence..).next().filter(|_| self.covers(sequence))
            {
                return Ok((*known, *leaf));
            }
            // From the start of the block on, so that the ranges beside this one need no request of their own.
            let block = (sequence - 1) / BLOCK * BLOCK + 1;
            let begin = if self.covers(block) { sequence } else { block };
            let found = self.log.batch_from(begin).await?;
            if self.read.last_key_value().is_none_or(|(last, _)| *last + 1 != begin) {
                self.read.clear();
            }
            self.read.extend(found.iter().map(|message| (message.sequence, message.leaf())));
            if let Some((known, leaf)) = self.read.range(sequence..).next() {
                return Ok((*known, *leaf));
            }
        }
        // The node that answered may be behind the leader.
        let found = self.log.first_from(sequence).await?;
        let found = found.with_context(|| format!("the log ends before {sequence}"))?;
        Ok((found.sequence, found.leaf()))
    }

    /// Whether everything at this sequence was read.
    fn covers(&self, sequence: u64) -> bool {
        let ends = self.read.first_key_value().zip(self.read.last_key_value());
        ends.is_some_and(|((first, _), (last, _))| (*first..=*last).contains(&sequence))
    }
}

/// The root over the leaves of a range that begins at a multiple of the largest power of two in its length, as those of RFC
/// 6962 do. The projection must have them.
pub async fn hash_of(
    leaves: &mut LeafReader<'_>,
    projection: &Projection,
    range: Range<u64>,
) -> anyhow::Result<Hash> {
    let blocks =
        if range.start.is_multiple_of(BLOCK) { range.start / BLOCK..range.end / BLOCK } else { 0..0 };
    let mut whole = Frontier::default();
    let roots = projection.blocks(blocks.clone()).await;
    whole.extend(roots.map_err(|_| anyhow!("the projection cannot read its tree now"))?);
    let rest = if blocks.is_empty() { range } else { blocks.end * BLOCK..range.end };
    let mut loose = Frontier::default();
    let mut next = rest.start + 1;
    while next <= rest.end {
        let (sequence, leaf) = leaves.first_from(next).await?;
        for hole in next..sequence.min(rest.end + 1) {
            loose.push(Statement::hole(hole).leaf());
        }
        if sequence <= rest.end {
            loose.push(leaf);
        }
        next = sequence + 1;
    }
    let roots = [whole.roots(), loose.roots()].concat();
    match Frontier::from_parts(whole.size() * BLOCK + loose.size(), roots) {
        Some(tree) => Ok(tree.root()),
        None => bail!("a range of the log does not begin where a subtree does"),
    }
}
