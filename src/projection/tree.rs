//! The Merkle tree over everything that was applied, with its recent roots.

use std::collections::VecDeque;

use crate::log::merkle::{Frontier, Hash};

/// Leaves in a block, whose root the store keeps: a proof is made of these roots and of the entries of one block.
pub const BLOCK: u64 = 256;

/// Leaves that are kept one by one: a checkpoint may be so far behind this replica.
const RECENT: u64 = 16 * BLOCK;

/// A tree with its current root, and the roots at its recent sizes.
#[derive(Clone, Debug)]
pub struct Tree {
    now: Frontier,
    /// The tree before the recent leaves, and since then at the start of each block.
    before: VecDeque<Frontier>,
    recent: VecDeque<Hash>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::from(Frontier::default())
    }
}

impl Tree {
    /// A tree that goes on from here, without earlier roots.
    pub fn from(frontier: Frontier) -> Self {
        Self { before: [frontier.clone()].into(), now: frontier, recent: VecDeque::new() }
    }

    /// The tree as it is now.
    pub const fn now(&self) -> &Frontier {
        &self.now
    }

    /// Adds a leaf. If it fills a block, returns the number of that block, from 0, and its root.
    pub fn push(&mut self, leaf: Hash) -> Option<(u64, Hash)> {
        let size = self.now.size();
        let filled = (size % BLOCK == BLOCK - 1).then(|| {
            let mut block = self.now.tail(BLOCK);
            block.push(leaf);
            (size / BLOCK, block.root())
        });
        self.now.push(leaf);
        self.recent.push_back(leaf);
        if filled.is_some() {
            self.before.push_back(self.now.clone());
            self.forget();
        }
        filled
    }

    /// Drops whole blocks beyond [`RECENT`].
    fn forget(&mut self) {
        while let (Some(first), Some(second)) = (self.before.front(), self.before.get(1))
            && self.now.size() - second.size() >= RECENT
        {
            let leaves = usize::try_from(second.size() - first.size()).unwrap_or(usize::MAX);
            self.recent.drain(..leaves.min(self.recent.len()));
            self.before.pop_front();
        }
    }

    /// The root at a size; `None` for a size that it has not reached, or had too long ago.
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        let first = self.before.front()?.size();
        if size < first || self.now.size().checked_sub(size)? > RECENT {
            return None;
        }
        let known = self.before.partition_point(|before| before.size() <= size).checked_sub(1)?;
        let mut tree = self.before.get(known)?.clone();
        let skipped = usize::try_from(tree.size() - first).ok()?;
        let more = usize::try_from(size - tree.size()).ok()?;
        tree.extend(self.recent.iter().skip(skipped).take(more).copied());
        Some(tree.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: u64) -> Hash {
        Hash::leaf(&n.to_be_bytes())
    }

    #[test]
    fn it_knows_its_blocks_and_its_roots_of_a_while_ago() {
        let size = 3 * BLOCK + RECENT;
        let (mut tree, mut roots, mut plain) = (Tree::default(), vec![Hash::empty()], Frontier::default());
        for n in 0..size {
            plain.push(leaf(n));
            roots.push(plain.root());
            let filled = tree.push(leaf(n));
            let block =
                (n % BLOCK == BLOCK - 1).then(|| (n / BLOCK, Hash::of((n + 1 - BLOCK..=n).map(leaf))));
            assert_eq!(filled, block);
        }
        assert_eq!(tree.now(), &plain);
        for (at, root) in (0..).zip(&roots) {
            let known = at >= size - RECENT;
            assert_eq!(tree.root_at(at), known.then_some(*root), "{at}");
        }
        assert_eq!(tree.root_at(size + 1), None);
        let mut later = Tree::from(plain.clone());
        assert_eq!((later.root_at(size), later.root_at(size - 1)), (Some(plain.root()), None));
        later.push(leaf(size));
        plain.push(leaf(size));
        assert_eq!(later.root_at(size + 1), Some(plain.root()));
    }
}
