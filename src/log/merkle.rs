//! The Merkle tree over the log, as RFC 6962 defines it: what makes a log of which anybody can prove that nothing in it was
//! changed, and that something stands in it.
//!
//! One leaf a place of the log, in order. Only the [`Frontier`] is kept, a few hashes however long the log is. A proof is a
//! list of hashes of ranges; which ranges those are is said here, and whoever has the log computes them.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A hash of the tree: of a leaf, of two that stand side by side, or of all of it. Written in base64.
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

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = STANDARD.decode(text).map_err(|error| format!("not a hash: {error}"))?;
        let hash = bytes.try_into().map_err(|_| "not a hash: it has 32 bytes".to_owned())?;
        Ok(Self(hash))
    }
}

impl TryFrom<String> for Hash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// All that must be kept of a tree to go on with it: the roots of its perfect subtrees, the largest first. One for each bit
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

    /// The tree of the last leaves alone: those that are over when all are counted off by this power of two.
    #[must_use]
    pub fn beyond(&self, power: u64) -> Self {
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

/// The ranges whose hashes prove that a leaf stands in a tree of this size, from the leaf up. Empty for a leaf that does not.
pub fn inclusion(index: u64, size: u64) -> Vec<Range<u64>> {
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

/// The ranges whose hashes prove that the tree of the larger size goes on from that of the smaller.
pub fn consistency(smaller: u64, larger: u64) -> Vec<Range<u64>> {
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
    // The smaller tree itself is known to whoever checks.
    if range.start > 0 {
        path.push(range);
    }
    path.reverse();
    path
}

/// Whether a leaf stands at an index of a tree, by the hashes that [`inclusion`] names (RFC 9162, 2.1.3.2).
pub fn includes(root: Hash, size: u64, index: u64, leaf: Hash, proof: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let mut climb = Climb { at: index, last: size - 1 };
    let mut hash = leaf;
    for beside in proof {
        match climb.step() {
            Some(Side::Left) => hash = Hash::node(*beside, hash),
            Some(Side::Right) => hash = Hash::node(hash, *beside),
            None => return false,
        }
    }
    climb.last == 0 && hash == root
}

/// Whether the tree of the larger size goes on from that of the smaller, by the hashes that [`consistency`] names (RFC 9162,
/// 2.1.4.2).
pub fn goes_on_from(smaller: (u64, Hash), larger: (u64, Hash), proof: &[Hash]) -> bool {
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
    let mut climb = Climb { at: (smaller.0 - 1) >> skipped, last: (larger.0 - 1) >> skipped };
    let (mut before, mut after) = (first, first);
    for beside in rest {
        match climb.step() {
            Some(Side::Left) => (before, after) = (Hash::node(*beside, before), Hash::node(*beside, after)),
            Some(Side::Right) => after = Hash::node(after, *beside),
            None => return false,
        }
    }
    climb.last == 0 && before == smaller.1 && after == larger.1
}

/// The way from a place up to the root.
struct Climb {
    at: u64,
    last: u64,
}

/// On which side of the way a hash stands.
enum Side {
    Left,
    Right,
}

impl Climb {
    /// One hash further. `None` when the root is reached already.
    const fn step(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let side = if self.at % 2 == 1 || self.at == self.last {
            // The last place of a level has nothing at its right, and goes up as it is.
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| Hash::leaf(&n.to_be_bytes())).collect()
    }

    fn part(leaves: &[Hash], range: &Range<u64>) -> Hash {
        let at = |place: u64| usize::try_from(place).unwrap();
        Hash::of(leaves[at(range.start)..at(range.end)].iter().copied())
    }

    fn proof(leaves: &[Hash], ranges: &[Range<u64>]) -> Vec<Hash> {
        ranges.iter().map(|range| part(leaves, range)).collect()
    }

    /// The tree that Certificate Transparency's implementations are tested with.
    #[test]
    fn the_roots_of_a_well_known_tree() {
        let data: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let known = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, known) in known.into_iter().enumerate() {
            let root = Hash::of(data[..size].iter().map(|data| Hash::leaf(data)));
            let hex: String = root.0.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            assert_eq!(hex, known, "{size} leaves");
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proved_and_nowhere_else() {
        let all = leaves(40);
        for size in 1..=40 {
            let root = part(&all, &(0..size));
            for index in 0..size {
                let leaf = all[usize::try_from(index).unwrap()];
                let proof = proof(&all, &inclusion(index, size));
                assert!(includes(root, size, index, leaf, &proof), "{index} of {size}");
                assert!(!includes(root, size, (index + 1) % size, leaf, &proof) || size == 1);
                assert!(!includes(root, size, index, Hash::empty(), &proof));
                assert!(!includes(root, size, index, leaf, &[&proof[..], &[leaf]].concat()));
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!includes(root, size, index, leaf, shorter));
                }
            }
        }
    }

    #[test]
    fn every_small_tree_goes_on_from_every_smaller_one() {
        let all = leaves(40);
        let mut changed = all.clone();
        changed[0] = Hash::empty();
        for larger in 0..=40 {
            for smaller in 0..=larger {
                let proof = proof(&all, &consistency(smaller, larger));
                let of = |leaves: &[Hash], size| (size, part(leaves, &(0..size)));
                assert!(
                    goes_on_from(of(&all, smaller), of(&all, larger), &proof),
                    "{larger} goes on from {smaller}"
                );
                if smaller > 0 {
                    assert!(!goes_on_from(of(&changed, smaller), of(&all, larger), &proof));
                    assert!(!goes_on_from(of(&all, smaller), of(&changed, larger), &proof));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_frontier_goes_on_where_it_was(size in 0_u64..300, more in 0_u64..300) {
            let all = leaves(size + more);
            let (before, after) = all.split_at(usize::try_from(size).unwrap());
            let mut frontier = Frontier::default();
            frontier.extend(before.iter().copied());
            let mut again = Frontier::from_parts(frontier.size(), frontier.roots().to_vec()).unwrap();
            again.extend(after.iter().copied());
            prop_assert_eq!((again.size(), again.root()), (size + more, Hash::of(all)));
        }

        #[test]
        fn a_changed_proof_proves_nothing(size in 2_u64..200, index in any::<u64>(), which in any::<usize>()) {
            let index = index % size;
            let all = leaves(size);
            let mut proof = proof(&all, &inclusion(index, size));
            let which = which % proof.len();
            proof[which].0[0] ^= 1;
            let leaf = all[usize::try_from(index).unwrap()];
            prop_assert!(!includes(Hash::of(all), size, index, leaf, &proof));
        }

        #[test]
        fn hashes_round_trip_as_text(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(Hash(bytes).to_string().parse(), Ok(Hash(bytes)));
        }
    }
}
