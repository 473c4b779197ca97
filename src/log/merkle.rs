//! The Merkle tree over the log (RFC 6962), by which it can be proven that the log was not changed, and that it contains an entry.
//!
//! Why this is not a library's: `docs/architecture.md`, "What is written by hand".
//!
//! One leaf a sequence of the log, in order. Only the [`Frontier`] is kept: a few hashes, however long the log is. A proof is a
//! list of hashes of ranges; this module determines the ranges, and their hashes are computed from the log.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A hash in the tree: of a leaf, of an inner node, or of the whole tree. Written in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Of no leaves at all.
    pub fn empty() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// Of a leaf.
    pub fn leaf(data: &[u8]) -> Self {
        Self(Sha256::new().chain_update([0]).chain_update(data).finalize().into())
    }

    /// Of two trees side by side.
    pub fn node(left: Self, right: Self) -> Self {
        Self(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
    }

    /// Of all of these leaves.
    pub fn of(leaves: impl IntoIterator<Item = Self>) -> Self {
        let mut frontier = Frontier::default();
        frontier.extend(leaves);
        frontier.root()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a [`struct@Hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a hash has 32 bytes, in base64")]
pub struct InvalidHash;

impl FromStr for Hash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidHash)?;
        Ok(Self(bytes.try_into().map_err(|_| InvalidHash)?))
    }
}

impl TryFrom<String> for Hash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// What must be kept of a tree to append to it: the roots of its perfect subtrees, the largest first. There is one for each bit
/// that is set in the number of leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FrontierRecord")]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

/// A frontier as it is stored, which may be damaged.
#[derive(Deserialize)]
struct FrontierRecord {
    size: u64,
    roots: Vec<Hash>,
}

impl TryFrom<FrontierRecord> for Frontier {
    type Error = &'static str;

    fn try_from(record: FrontierRecord) -> Result<Self, Self::Error> {
        Self::from_parts(record.size, record.roots).ok_or("a frontier has a root for each bit of its size")
    }
}

impl Frontier {
    /// Of a tree of this many leaves with these roots. `None` when the two do not belong together.
    pub fn from_parts(size: u64, roots: Vec<Hash>) -> Option<Self> {
        (roots.len() == size.count_ones() as usize).then_some(Self { size, roots })
    }

    /// How many leaves there are.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees.
    pub fn roots(&self) -> &[Hash] {
        &self.roots
    }

    /// One leaf more.
    pub fn push(&mut self, leaf: Hash) {
        let mut root = leaf;
        // As in counting: each carry joins two trees of the same size.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                root = Hash::node(left, root);
            }
        }
        self.roots.push(root);
        self.size += 1;
    }

    /// The subtree over the last `size % power` leaves.
    #[must_use]
    pub fn tail(&self, power: u64) -> Self {
        let size = self.size % power;
        let rest = self.roots.len() - size.count_ones() as usize;
        Self { size, roots: self.roots[rest..].to_vec() }
    }

    /// The hash of the whole tree.
    pub fn root(&self) -> Hash {
        let joined = self.roots.iter().rev().copied().reduce(|right, left| Hash::node(left, right));
        joined.unwrap_or_else(Hash::empty)
    }
}

impl Extend<Hash> for Frontier {
    fn extend<T: IntoIterator<Item = Hash>>(&mut self, leaves: T) {
        for leaf in leaves {
            self.push(leaf);
        }
    }
}

/// Where RFC 6962 divides a range of more than one leaf: the left part is the largest power of two that leaves something.
const fn middle(range: &Range<u64>) -> u64 {
    let size = range.end - range.start;
    range.start + (1 << (u64::BITS - 1 - (size - 1).leading_zeros()))
}

/// The ranges whose hashes prove that a tree of this size has a leaf at this index, from the leaf up. Empty if it has not.
pub fn inclusion_ranges(index: u64, size: u64) -> Vec<Range<u64>> {
    let mut path = Vec::new();
    let mut range = 0..size;
    while range.contains(&index) && range.end - range.start > 1 {
        let middle = middle(&range);
        let (inside, beside) = if index < middle {
            (range.start..middle, middle..range.end)
        } else {
            (middle..range.end, range.start..middle)
        };
        path.push(beside);
        range = inside;
    }
    path.reverse();
    path
}

/// The ranges whose hashes prove that the tree of the larger size extends that of the smaller.
pub fn consistency_ranges(smaller: u64, larger: u64) -> Vec<Range<u64>> {
    let mut path = Vec::new();
    let mut range = 0..larger;
    if smaller == 0 || smaller > larger {
        return path;
    }
    while smaller < range.end {
        let middle = middle(&range);
        if smaller <= middle {
            path.push(middle..range.end);
            range.end = middle;
        } else {
            path.push(range.start..middle);
            range.start = middle;
        }
    }
    // The verifier has the root of the smaller tree.
    if range.start > 0 {
        path.push(range);
    }
    path.reverse();
    path
}

/// Verifies that a tree has a leaf at an index, by the hashes of [`inclusion_ranges`] (RFC 9162, 2.1.3.2).
pub fn verify_inclusion(root: Hash, size: u64, index: u64, leaf: Hash, proof: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let mut path = TreePath { at: index, last: size - 1 };
    let mut hash = leaf;
    for beside in proof {
        match path.step() {
            Some(Side::Left) => hash = Hash::node(*beside, hash),
            Some(Side::Right) => hash = Hash::node(hash, *beside),
            None => return false,
        }
    }
    path.last == 0 && hash == root
}

/// Verifies that the tree of the larger size extends that of the smaller, by the hashes of [`consistency_ranges`] (RFC 9162,
/// 2.1.4.2).
pub fn verify_consistency(smaller: (u64, Hash), larger: (u64, Hash), proof: &[Hash]) -> bool {
    if smaller.0 == larger.0 {
        return proof.is_empty() && smaller.1 == larger.1;
    }
    if smaller.0 == 0 || smaller.0 > larger.0 {
        return smaller.0 == 0 && proof.is_empty() && smaller.1 == Hash::empty();
    }
    let (first, rest) = if smaller.0.is_power_of_two() {
        (smaller.1, proof)
    } else {
        let Some((first, rest)) = proof.split_first() else { return false };
        (*first, rest)
    };
    let skipped = (smaller.0 - 1).trailing_ones();
    let mut path = TreePath { at: (smaller.0 - 1) >> skipped, last: (larger.0 - 1) >> skipped };
    let (mut before, mut after) = (first, first);
    for beside in rest {
        match path.step() {
            Some(Side::Left) => (before, after) = (Hash::node(*beside, before), Hash::node(*beside, after)),
            Some(Side::Right) => after = Hash::node(after, *beside),
            None => return false,
        }
    }
    path.last == 0 && before == smaller.1 && after == larger.1
}

/// The path from a node up to the root.
struct TreePath {
    at: u64,
    last: u64,
}

/// On which side of the path a hash is.
enum Side {
    Left,
    Right,
}

impl TreePath {
    /// One hash further. `None` when the root is reached already.
    const fn step(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let side = if self.at % 2 == 1 || self.at == self.last {
            // The last node of a level has no sibling and moves up unchanged.
            while self.at.is_multiple_of(2) && self.at != 0 {
                self.at /= 2;
                self.last /= 2;
            }
            Side::Left
        } else {
            Side::Right
        };
        self.at /= 2;
        self.last /= 2;
        Some(side)
    }
}

#[cfg(test)]
mod tests;
