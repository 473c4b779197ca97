//! The set of users who acknowledged one broadcast, as much of it as is in memory.

use std::mem;
use std::sync::Arc;

use super::types::{ByUser, Fingerprint};

/// The sequence of each user's first acknowledgement of one broadcast, by fingerprint.
///
/// The set of a new broadcast is *complete*: a user who is not in it has not acknowledged. The set of a broadcast that
/// was unloaded and is needed again is *partial*: it has only the users who were looked up or who came since, and the
/// absence of any other user means nothing. The default is an empty partial set.
#[derive(Clone, Debug, Default)]
pub struct AckSet {
    /// Users who were added since the set was frozen, or looked up.
    recent: ByUser<u64>,
    /// Everybody up to the moment at which the set was frozen. It does not change any more, so that it can be written to
    /// disk without a lock.
    frozen: Option<Arc<ByUser<u64>>>,
    is_complete: bool,
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
        let frozen = || self.frozen.as_ref()?.get(&user);
        self.recent.get(&user).or_else(frozen).copied()
    }

    /// Adds a user, unless the set has the user already. Returns whether it was added.
    pub fn add(&mut self, user: Fingerprint, sequence: u64) -> bool {
        if self.frozen.as_ref().is_some_and(|frozen| frozen.contains_key(&user)) {
            return false;
        }
        let mut is_new = false;
        self.recent.entry(user).or_insert_with(|| {
            is_new = true;
            sequence
        });
        is_new
    }

    /// How many users are in memory, beside those in the frozen part.
    pub fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// How many users are in memory.
    pub fn len(&self) -> usize {
        self.recent.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.len())
    }

    /// Whether no user is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes everybody in a complete set into a part that does not change any more, and returns that. It costs the same
    /// however many there are. `None` for a set that is not open.
    pub fn freeze(&mut self) -> Option<Arc<ByUser<u64>>> {
        if !self.is_open() {
            return None;
        }
        let frozen = Arc::new(mem::take(&mut self.recent));
        self.frozen = Some(frozen.clone());
        Some(frozen)
    }

    /// Gives everybody up, and returns what that was for the caller to drop where nobody waits. The set is partial from now
    /// on. Everybody in it must be on disk, and the frozen part as a whole; a set that is still open keeps what it has.
    #[must_use]
    pub fn unload(&mut self) -> Self {
        if self.is_open() { Self::default() } else { mem::take(self) }
    }
}

impl PartialEq for AckSet {
    fn eq(&self, other: &Self) -> bool {
        let frozen = self.frozen.iter().flat_map(|frozen| frozen.iter());
        self.is_complete == other.is_complete
            && self.len() == other.len()
            && self.recent.iter().chain(frozen).all(|(user, sequence)| other.get(*user) == Some(*sequence))
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
