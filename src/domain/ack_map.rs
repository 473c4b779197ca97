//! A map from users to sequences that one task adds to while others read it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::packed_set::PackedEntry;
use super::types::{ByUser, Fingerprint};

/// Parts with a lock each. A hash table that grows is rebuilt, and nobody can read it meanwhile: with a million users in one
/// table that would be some 20 ms.
const PARTS: usize = 16;

/// The sequence of each user's first acknowledgement.
#[derive(Debug, Default)]
pub struct AckMap {
    parts: [RwLock<ByUser<u64>>; PARTS],
}

impl AckMap {
    fn part(&self, number: usize) -> RwLockReadGuard<'_, ByUser<u64>> {
        self.parts[number].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sequence of a user.
    pub fn get(&self, user: Fingerprint) -> Option<u64> {
        self.part(part_of(user)).get(&user).copied()
    }

    /// Adds a user, unless the map has the user already. Returns whether it was added.
    pub fn add(self: &mut Arc<Self>, user: Fingerprint, sequence: u64) -> bool {
        let number = part_of(user);
        // Without readers no lock is taken.
        if let Some(own) = Arc::get_mut(self) {
            return add_to(
                own.parts[number].get_mut().unwrap_or_else(PoisonError::into_inner),
                user,
                sequence,
            );
        }
        add_to(&mut self.parts[number].write().unwrap_or_else(PoisonError::into_inner), user, sequence)
    }

    /// How many users it has.
    pub fn len(&self) -> usize {
        (0..PARTS).map(|number| self.part(number).len()).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The users that `is_wanted` chooses, in no order.
    pub fn filtered(&self, is_wanted: impl Fn(Fingerprint) -> bool) -> Vec<PackedEntry> {
        let mut found = Vec::new();
        for number in 0..PARTS {
            let part = self.part(number);
            let entries = part.iter().map(|(user, sequence)| (*user, *sequence));
            found.extend(entries.filter(|(user, _)| is_wanted(*user)));
        }
        found
    }
}

impl Clone for AckMap {
    fn clone(&self) -> Self {
        Self { parts: std::array::from_fn(|number| RwLock::new(self.part(number).clone())) }
    }
}

impl FromIterator<PackedEntry> for AckMap {
    fn from_iter<T: IntoIterator<Item = PackedEntry>>(entries: T) -> Self {
        let mut map = Arc::<Self>::default();
        for (user, sequence) in entries {
            map.add(user, sequence);
        }
        Arc::unwrap_or_clone(map)
    }
}

/// The hash tables use other bits: theirs are mixed with a random number.
fn part_of(user: Fingerprint) -> usize {
    usize::from(user.low.to_le_bytes()[0]) % PARTS
}

fn add_to(part: &mut ByUser<u64>, user: Fingerprint, sequence: u64) -> bool {
    let mut is_new = false;
    part.entry(user).or_insert_with(|| {
        is_new = true;
        sequence
    });
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_what_is_added_and_a_clone_does_not() {
        let mut map = Arc::<AckMap>::default();
        let user = |n| Fingerprint { high: n, low: n };
        assert!(map.add(user(1), 10) && !map.add(user(1), 11));
        let (reader, clone) = (map.clone(), AckMap::clone(&map));
        assert!((2..100).all(|n| map.add(user(n), n)));
        assert_eq!((reader.get(user(1)), reader.get(user(99)), reader.len()), (Some(10), Some(99), 99));
        assert_eq!((clone.get(user(99)), clone.len()), (None, 1));
        let mut found = map.filtered(|user| user.high < 3);
        found.sort_unstable();
        assert_eq!(found, [(user(1), 10), (user(2), 2)]);
    }
}
