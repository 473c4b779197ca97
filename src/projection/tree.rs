//! The Merkle tree over everything that was folded, and how it grew lately.

use std::collections::VecDeque;

use crate::log::merkle::{Frontier, Hash};

/// Leaves under one root that the store keeps: a proof is made of these and of what the log says around one place.
pub const BLOCK: u64 = 256;

/// Leaves that are remembered one by one: a signer may be so far behind, or ahead of what this replica hears of it.
const RECENT: u64 = 16 * BLOCK;

/// A tree that knows its root now, and at each size that it had a while ago.
#[derive(Clone, Debug)]
pub struct Tree {
    now: Frontier,
    /// As it was before the recent leaves, and since then at the beginning of each block.
    before: VecDeque<Frontier>,
    recent: VecDeque<Hash>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::from(Frontier::default())
    }
}

impl Tree {
    /// One that goes on from here.
    pub fn from(frontier: Frontier) -> Self {
        Self { before: [frontier.clone()].into(), now: frontier, recent: VecDeque::new() }
    }

    /// As it is now.
    pub const fn now(&self) -> &Frontier {
        &self.now
    }

    /// One leaf more. When it fills a block: the number of that block, from 0, and its root.
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

    /// Drops whole blocks that are older than what is remembered.
    fn forget(&mut self) {
        while let (Some(first), Some(second)) = (self.before.front(), self.before.get(1))
            && self.now.size() - second.size() >= RECENT
        {
            let leaves = usize::try_from(second.size() - first.size()).unwrap_or(usize::MAX);
            self.recent.drain(..leaves.min(self.recent.len()));
            self.before.pop_front();
        }
    }

    /// The root that it had at a size; `None` for one that it has not had, or had too long ago.
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
