//! The connections of each user. Users are hashes, so that it takes two numbers for each connection.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};

use super::attach::ConnectionId;
use crate::domain::UserId;

/// The connections of each user, oldest first. Two users may have one hash: callers compare.
#[derive(Default)]
pub(super) struct UserIndex {
    connections: BTreeSet<(u64, ConnectionId)>,
    hashes: RandomState,
    count: usize,
}

impl UserIndex {
    /// Adds a connection of a user. Whether it is their first.
    pub(super) fn add(&mut self, user: &UserId, id: ConnectionId) -> bool {
        let hash = self.hashes.hash_one(user);
        let is_first = !self.is_there(hash);
        self.count += usize::from(is_first);
        self.connections.insert((hash, id));
        is_first
    }

    /// Removes a connection of a user. Whether it was their last.
    pub(super) fn remove(&mut self, user: &UserId, id: ConnectionId) -> bool {
        let hash = self.hashes.hash_one(user);
        let was_last = self.connections.remove(&(hash, id)) && !self.is_there(hash);
        self.count -= usize::from(was_last);
        was_last
    }

    /// The connections of a user, and of whoever has the same hash.
    pub(super) fn connections(&self, user: &UserId) -> impl Iterator<Item = ConnectionId> {
        self.of(self.hashes.hash_one(user))
    }

    /// How many users there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    fn of(&self, hash: u64) -> impl Iterator<Item = ConnectionId> {
        self.connections.range((hash, ConnectionId::MIN)..=(hash, ConnectionId::MAX)).map(|(_, id)| *id)
    }

    fn is_there(&self, hash: u64) -> bool {
        self.of(hash).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_their_connections_and_counts_once() {
        let mut users = UserIndex::default();
        let [ann, bob] = ["ann", "bob"].map(|name| name.parse::<UserId>().unwrap());
        let first = [(&ann, 7), (&bob, 2), (&ann, 3)].map(|(user, id)| users.add(user, id));
        assert_eq!(first, [true, true, false]);
        assert_eq!((users.count(), users.connections(&ann).collect::<Vec<_>>()), (2, vec![3, 7]));
        let last = [(&bob, 7), (&bob, 2), (&ann, 7)].map(|(user, id)| users.remove(user, id));
        assert_eq!(last, [false, true, false]);
        assert_eq!((users.count(), users.connections(&bob).count()), (1, 0));
        users.remove(&ann, 3);
        assert_eq!((users.count(), users.connections.len()), (0, 0));
    }
}
