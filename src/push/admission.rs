//! Who is let in: so many at once of a kind, be they the connections of a user or the sockets of an address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lets in so many of each name at once.
#[derive(Debug)]
pub struct Admission<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    /// At once and a name; `None` for any number, which is not counted then.
    most: Option<usize>,
    /// A tree, since there may be one of each name for each connection, and a hash table is half empty.
    inside: Mutex<BTreeMap<K, u32>>,
}

/// There are as many of this name as are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A place, given back when it is dropped. It knows the name that it was taken under.
#[derive(Debug)]
pub struct Permit<K: Ord> {
    name: K,
    of: Arc<Inner<K>>,
}

impl<K> Clone for Admission<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord + Clone> Admission<K> {
    /// Lets in so many of each name; any number with `None`.
    pub fn new(most: Option<usize>) -> Self {
        Self(Arc::new(Inner { most, inside: Mutex::default() }))
    }

    /// Takes a place. It never waits.
    pub fn enter(&self, name: &K) -> Result<Permit<K>, Full> {
        self.take(name)?;
        Ok(Permit { name: name.clone(), of: self.0.clone() })
    }

    /// Takes a place, for who sees to it that [`Admission::give_back`] is called once for each.
    pub fn take(&self, name: &K) -> Result<(), Full> {
        let Some(most) = self.0.most else { return Ok(()) };
        let mut inside = self.0.inside();
        let count = inside.get(name).copied().unwrap_or(0);
        if usize::try_from(count).is_ok_and(|count| count >= most) {
            return Err(Full);
        }
        inside.insert(name.clone(), count + 1);
        Ok(())
    }

    /// Gives a place back that was taken.
    pub fn give_back(&self, name: &K) {
        self.0.give_back(name);
    }

    /// At once and a name; `None` for any number.
    pub fn most(&self) -> Option<usize> {
        self.0.most
    }
}

impl<K> Inner<K> {
    fn inside(&self) -> MutexGuard<'_, BTreeMap<K, u32>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Inner<K> {
    fn give_back(&self, name: &K) {
        if self.most.is_none() {
            return;
        }
        let mut inside = self.inside();
        if let Some(count) = inside.get_mut(name) {
            *count -= 1;
            // Nobody who is gone stays in the map.
            if *count == 0 {
                inside.remove(name);
            }
        }
    }
}

impl<K: Ord> Permit<K> {
    /// Whose place it is.
    pub const fn name(&self) -> &K {
        &self.name
    }
}

impl<K: Ord> Drop for Permit<K> {
    fn drop(&mut self) {
        self.of.give_back(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_each_name_are_let_in_and_a_place_is_given_back() {
        let users = Admission::new(Some(2));
        let (first, second) = (users.enter(&"ann").unwrap(), users.enter(&"ann").unwrap());
        assert_eq!(users.enter(&"ann").err(), Some(Full));
        let other = users.enter(&"bob").unwrap();
        drop(first);
        let third = users.clone().enter(&"ann").unwrap();
        assert_eq!(users.enter(&"ann").err(), Some(Full));
        drop((second, third, other));
        assert!(users.0.inside().is_empty(), "nobody who left is remembered");
    }

    #[test]
    fn without_a_bound_nobody_is_counted() {
        let users = Admission::new(None);
        let places: Vec<_> = (0..1_000).map(|_| users.enter(&"ann").unwrap()).collect();
        assert!(users.0.inside().is_empty());
        assert_eq!(places.len(), 1_000);
    }
}
