//! Who is let in: so many at once of a kind, be they the connections of a user or the sockets of an address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lets in so many of each name at once.
#[derive(Debug)]
pub struct Admission<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    /// At once and a name; `None` for any number, which is not counted then.
    most: Option<usize>,
    inside: Mutex<HashMap<K, usize>>,
}

/// There are as many of this name as are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A place, given back when it is dropped.
#[derive(Debug)]
pub struct Permit<K: Hash + Eq>(Option<(K, Arc<Inner<K>>)>);

impl<K> Clone for Admission<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Hash + Eq + Clone> Admission<K> {
    /// Lets in so many of each name; any number with `None`.
    pub fn new(most: Option<usize>) -> Self {
        Self(Arc::new(Inner { most, inside: Mutex::default() }))
    }

    /// Takes a place. It never waits.
    pub fn enter(&self, name: &K) -> Result<Permit<K>, Full> {
        let Some(most) = self.0.most else { return Ok(Permit(None)) };
        let mut inside = self.0.inside();
        let count = inside.get(name).copied().unwrap_or(0);
        if count >= most {
            return Err(Full);
        }
        inside.insert(name.clone(), count + 1);
        drop(inside);
        Ok(Permit(Some((name.clone(), self.0.clone()))))
    }

    /// At once and a name; `None` for any number.
    pub fn most(&self) -> Option<usize> {
        self.0.most
    }
}

impl<K> Inner<K> {
    fn inside(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Permit<K> {
    fn drop(&mut self) {
        let Some((name, of)) = self.0.take() else { return };
        // Nobody who is gone stays in the map.
        if let Entry::Occupied(mut count) = of.inside().entry(name) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
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
