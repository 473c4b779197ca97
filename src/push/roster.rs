//! A roster: what came, in the order in which it came.

/// Values under numbers that only grow, in their order. Each takes 16 to 18 bytes beside its own, and up to as many again
/// when others have left; it is boxed, so that the list can grow without moving it.
pub(super) struct Roster<T> {
    /// Who left stays as a gap, until half of all are.
    entries: Vec<(u64, Option<Box<T>>)>,
    gaps: usize,
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), gaps: 0 }
    }
}

impl<T> Roster<T> {
    /// Puts a value at the end.
    ///
    /// # Panics
    ///
    /// In debug builds, when the number is not higher than all before: it would not be found.
    pub(super) fn push(&mut self, number: u64, value: T) {
        debug_assert!(self.entries.last().is_none_or(|(last, _)| *last < number), "{number} comes too late");
        let held = self.entries.len();
        if held == self.entries.capacity() {
            // Doubling would leave up to half of it empty, and this is one of the larger parts of a connection.
            self.entries.reserve_exact(held / 8 + 8);
        }
        self.entries.push((number, Some(Box::new(value))));
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, number: u64) -> Option<Box<T>> {
        let place = self.place(number)?;
        let removed = self.entries[place].1.take()?;
        self.gaps += 1;
        if self.gaps * 2 > self.entries.len() {
            self.entries.retain(|(_, value)| value.is_some());
            self.entries.shrink_to(self.entries.len() / 8 * 9);
            self.gaps = 0;
        }
        Some(removed)
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.entries[self.place(number)?].1.as_deref()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = self.place(number)?;
        self.entries[place].1.as_deref_mut()
    }

    /// A number above all that are there.
    pub(super) fn end(&self) -> u64 {
        self.entries.last().map_or(0, |(last, _)| last + 1)
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len() - self.gaps
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.entries.iter().filter_map(|(number, value)| Some((*number, value.as_deref()?)))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    /// Those with this number and after it.
    pub(super) fn iter_from_mut(&mut self, number: u64) -> impl Iterator<Item = (u64, &mut T)> {
        let first = self.entries.partition_point(|(before, _)| *before < number);
        self.entries[first..].iter_mut().filter_map(|(number, value)| Some((*number, value.as_deref_mut()?)))
    }

    fn place(&self, number: u64) -> Option<usize> {
        let (&(first, _), &(last, _)) = (self.entries.first()?, self.entries.last()?);
        if !(first..=last).contains(&number) {
            return None;
        }
        // Numbers mostly come evenly: then one look is enough.
        let share = (number - first).checked_mul(self.entries.len() as u64 - 1);
        let guess = share.and_then(|share| usize::try_from(share / (last - first).max(1)).ok());
        if let Some(guess) = guess
            && self.entries[guess].0 == number
        {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&number, |(number, _)| *number).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_roster_is_a_map_in_the_order_of_numbers(steps in prop::collection::vec((any::<bool>(), 0..40_u64), 0..200)) {
            let (mut roster, mut map, mut last) = (Roster::default(), BTreeMap::new(), 0);
            for (comes, number) in steps {
                if comes {
                    last += number + 1;
                    roster.push(last, last * 3);
                    map.insert(last, last * 3);
                } else {
                    prop_assert_eq!(roster.remove(number * 20).map(|value| *value), map.remove(&(number * 20)));
                }
                prop_assert_eq!(roster.get(last), map.get(&last));
                prop_assert_eq!(roster.get_mut(number), map.get_mut(&number));
                prop_assert_eq!((roster.len(), roster.is_empty()), (map.len(), map.is_empty()));
                prop_assert!(roster.entries.len() <= 2 * map.len());
                prop_assert!(roster.iter().eq(map.iter().map(|(number, value)| (*number, value))));
                prop_assert!(roster.values().eq(map.values()));
                let (after, expected) = (roster.iter_from_mut(number * 20), map.range_mut(number * 20..));
                prop_assert!(after.eq(expected.map(|(number, value)| (*number, value))));
            }
        }
    }
}
