//! A set of acknowledgements that does not change any more, in half the memory of a hash table.

use super::types::Fingerprint;

/// A user, and the sequence of the first acknowledgement: 24 bytes.
pub type PackedEntry = (Fingerprint, u64);

/// A set of users that does not change: a sorted list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedSet {
    users: Vec<PackedEntry>,
}

impl PackedSet {
    /// An empty set with capacity for this many users.
    pub fn with_capacity(users: usize) -> Self {
        Self { users: Vec::with_capacity(users) }
    }

    /// Appends users, sorted by fingerprint, all greater than those in the set.
    pub fn append(&mut self, users: &[PackedEntry]) {
        debug_assert!(users.is_sorted() && users.first().is_none_or(|first| self.users.last() < Some(first)));
        self.users.extend_from_slice(users);
    }

    /// The sequence at which this user first acknowledged.
    pub fn get(&self, user: Fingerprint) -> Option<u64> {
        let nth = self.users.binary_search_by_key(&user, |(user, _)| *user).ok()?;
        self.users.get(nth).map(|(_, sequence)| *sequence)
    }

    /// How many users it has.
    pub const fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// All entries, in the order of their fingerprints.
    pub fn iter(&self) -> impl Iterator<Item = PackedEntry> {
        self.users.iter().copied()
    }
}
