//! The set of users who acknowledged one broadcast, as much of it as is in memory.

use std::mem;
use std::sync::Arc;

use super::ack_map::AckMap;
use super::packed_set::{PackedEntry, PackedSet};
use super::types::Fingerprint;

/// The sequence of each user's first acknowledgement of one broadcast, by fingerprint.
///
/// The set of a new broadcast is *complete*: a user who is not in it has not acknowledged. The set of a broadcast that
/// was unloaded and is needed again is *partial*: it has only the users who were looked up or who came since, and the
/// absence of any other user means nothing. The default is an empty partial set.
#[derive(Debug, Default)]
pub struct AckSet {
    /// Users who were added since the set was frozen, or looked up.
    recent: Arc<AckMap>,
    /// Everybody up to the moment at which the set was frozen.
    frozen: Option<Frozen>,
    is_complete: bool,
}

/// A part of the set that does not change any more.
#[derive(Clone, Debug)]
enum Frozen {
    /// As it was, while it is written to disk without a lock.
    Hashed(Arc<AckMap>),
    /// On disk by now, and in less memory.
    Packed(Arc<PackedSet>),
}

impl Frozen {
    fn get(&self, user: Fingerprint) -> Option<u64> {
        match self {
            Self::Hashed(users) => users.get(user),
            Self::Packed(users) => users.get(user),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Hashed(users) => users.len(),
            Self::Packed(users) => users.len(),
        }
    }
}

impl AckSet {
    /// The empty set of a broadcast that nobody has acknowledged.
    pub fn new_complete() -> Self {
        Self { is_complete: true, ..Self::default() }
    }

    /// Whether a user who is not in the set has not acknowledged.
    pub const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether the set can grow only in memory: nothing of it has been handed out to be written as a whole.
    pub const fn is_open(&self) -> bool {
        self.is_complete && self.frozen.is_none()
    }

    /// The sequence at which this user first acknowledged, if that is in memory.
    pub fn get(&self, user: Fingerprint) -> Option<u64> {
        let recent = self.recent.get(user);
        recent.or_else(|| self.frozen.as_ref()?.get(user))
    }

    /// Adds a user, unless the set has the user already. Returns whether it was added.
    pub fn add(&mut self, user: Fingerprint, sequence: u64) -> bool {
        if self.frozen.as_ref().is_some_and(|frozen| frozen.get(user).is_some()) {
            return false;
        }
        self.recent.add(user, sequence)
    }

    /// How many users are in memory, beside those in the part that does not change any more.
    pub fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// How many users are in the part that is on disk too.
    pub fn packed_len(&self) -> usize {
        match &self.frozen {
            Some(Frozen::Packed(users)) => users.len(),
            Some(Frozen::Hashed(_)) | None => 0,
        }
    }

    /// How many users are in memory.
    pub fn len(&self) -> usize {
        self.recent.len() + self.frozen.as_ref().map_or(0, Frozen::len)
    }

    /// Whether no user is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes everybody in a complete set into a part that does not change any more, and returns that. It costs the same
    /// however many there are. `None` for a set that is not open.
    pub fn freeze(&mut self) -> Option<Arc<AckMap>> {
        if !self.is_open() {
            return None;
        }
        let frozen = mem::take(&mut self.recent);
        self.frozen = Some(Frozen::Hashed(frozen.clone()));
        Some(frozen)
    }

    /// Holds the frozen part, which is on disk now, in less memory. Returns what it was for the caller to drop where nobody
    /// waits.
    #[must_use]
    pub fn pack(&mut self, packed: PackedSet) -> Self {
        let frozen = self.frozen.replace(Frozen::Packed(Arc::new(packed)));
        Self { frozen, ..Self::default() }
    }

    /// Gives everybody up, and returns what that was for the caller to drop where nobody waits. The set is partial from now
    /// on. Everybody in it must be on disk; a set that is still open keeps what it has.
    #[must_use]
    pub fn unload(&mut self) -> Self {
        if self.is_open() { Self::default() } else { mem::take(self) }
    }

    /// A way for others to look users up while this set grows.
    pub fn reader(&self) -> AckReader {
        let (recent, frozen) = (self.recent.clone(), self.frozen.clone());
        AckReader(Self { recent, frozen, is_complete: self.is_complete })
    }

    /// Everybody who is in memory, in no order.
    fn entries(&self) -> Vec<PackedEntry> {
        let mut entries = self.recent.filtered(|_| true);
        match &self.frozen {
            Some(Frozen::Hashed(users)) => entries.extend(users.filtered(|_| true)),
            Some(Frozen::Packed(users)) => entries.extend(users.iter()),
            None => {}
        }
        entries
    }
}

impl Clone for AckSet {
    /// A set of its own: what is added to one of the two is not in the other.
    fn clone(&self) -> Self {
        let recent = Arc::new(AckMap::clone(&self.recent));
        Self { recent, frozen: self.frozen.clone(), is_complete: self.is_complete }
    }
}

/// Looks users up in a set that somebody else adds to: it finds who is added until the set is frozen.
#[derive(Debug, Default)]
pub struct AckReader(AckSet);

impl AckReader {
    /// The sequence at which this user first acknowledged, if that is in memory.
    pub fn get(&self, user: Fingerprint) -> Option<u64> {
        self.0.get(user)
    }
}

impl PartialEq for AckSet {
    fn eq(&self, other: &Self) -> bool {
        self.is_complete == other.is_complete
            && self.len() == other.len()
            && self.entries().into_iter().all(|(user, sequence)| other.get(user) == Some(sequence))
    }
}

impl Eq for AckSet {}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u64) -> Fingerprint {
        Fingerprint { high: n, low: n }
    }

    #[test]
    fn a_frozen_set_knows_everybody_and_takes_more() {
        let mut set = AckSet::new_complete();
        assert!(set.add(user(1), 10) && !set.add(user(1), 11));
        let frozen = set.freeze().unwrap();
        assert_eq!((frozen.len(), set.len(), set.is_complete(), set.is_open()), (1, 1, true, false));
        assert!(!set.add(user(1), 12), "the frozen part counts");
        assert!(set.add(user(2), 12));
        assert_eq!((set.get(user(1)), set.get(user(2)), set.get(user(3))), (Some(10), Some(12), None));
        assert_eq!(frozen.len(), 1, "who comes later is not in it");
        assert!(set.freeze().is_none());
    }

    #[test]
    fn a_reader_follows_a_set_until_it_is_frozen() {
        let mut set = AckSet::new_complete();
        let reader = set.reader();
        assert!(set.add(user(1), 10));
        set.freeze();
        assert!(set.add(user(2), 12));
        assert_eq!((reader.get(user(1)), reader.get(user(2))), (Some(10), None));
        assert_eq!((set.reader().get(user(1)), set.reader().get(user(2))), (Some(10), Some(12)));
    }

    #[test]
    fn a_packed_set_is_the_same_set() {
        let mut set = AckSet::new_complete();
        for n in 0..100 {
            set.add(user(n * 7 % 100), n);
        }
        let frozen = set.freeze().unwrap();
        set.add(user(1_000), 1_000);
        let before = set.clone();
        let mut users = frozen.filtered(|_| true);
        users.sort_unstable();
        let mut packed = PackedSet::with_capacity(100);
        users.chunks(30).for_each(|some| packed.append(some));
        assert_eq!(set.pack(packed).len(), 100, "the hash table is given back");
        assert_eq!((set.len(), set.packed_len(), set.recent_len()), (101, 100, 1));
        assert!(set == before && set.is_complete() && !set.is_open());
        assert!(!set.add(user(7), 2_000) && set.add(user(2_000), 2_000));
        assert_eq!((set.get(user(7)), set.get(user(100))), (Some(1), None));
        assert_eq!(set.unload().len(), 102);
        assert!(set.is_empty() && !set.is_complete());
    }

    #[test]
    fn a_set_that_was_unloaded_is_partial() {
        let mut set = AckSet::new_complete();
        set.add(user(1), 10);
        assert!(set.unload().is_empty() && set.is_open(), "an open set is on no disk as a whole");
        set.freeze();
        set.add(user(2), 12);
        assert_eq!(set.unload().len(), 2);
        assert!(set.is_empty() && !set.is_complete() && !set.is_open());
        assert!(set.add(user(2), 12));
        assert_eq!((set.get(user(1)), set.get(user(2)), set.recent_len()), (None, Some(12), 1));
        assert!(set.freeze().is_none(), "a partial set must not stand for the whole");
        assert_eq!((set.unload().len(), set.len()), (1, 0), "it is unloaded again");
    }
}
