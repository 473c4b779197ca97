//! The Merkle tree over everything that was folded, and how it grew lately.

use std::collections::VecDeque;

use crate::log::merkle::{Frontier, Hash};

/// Leaves under one root that the store keeps: a proof is made of these and of what the log says around one place.
pub const BLOCK: u64 = 256;

/// Leaves that are remembered one by one: a signer may be so far behind, or ahead of what this replica hears of it.
const RECENT: u64 = 16 * BLOCK;

/// A tree that knows its root now, and at each size that it had a while ago.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    now: Frontier,
    /// Before the recent leaves.
    before: Frontier,
    recent: VecDeque<Hash>,
}

impl Tree {
    /// One that goes on from here.
    pub fn from(frontier: Frontier) -> Self {
        Self { before: frontier.clone(), now: frontier, recent: VecDeque::new() }
    }

    /// As it is now.
    pub const fn now(&self) -> &Frontier {
        &self.now
    }

    /// One leaf more. When it fills a block: the number of that block, from 0, and its root.
    pub fn push(&mut self, leaf: Hash) -> Option<(u64, Hash)> {
        let size = self.now.size();
        let filled = (size % BLOCK == BLOCK - 1).then(|| {
            let mut block = self.now.beyond(BLOCK);
            block.push(leaf);
            (size / BLOCK, block.root())
        });
        self.now.push(leaf);
        self.recent.push_back(leaf);
        if self.recent.len() as u64 > RECENT {
            self.before.extend(self.recent.pop_front());
        }
        filled
    }

    /// The root that it had at a size; `None` for one that it has not had, or had too long ago.
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        let more = size.checked_sub(self.before.size()).filter(|_| size <= self.now.size())?;
        let mut tree = self.before.clone();
        tree.extend(self.recent.iter().take(usize::try_from(more).ok()?).copied());
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
