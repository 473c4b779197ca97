//! Dice: every number of a run follows from its seed and from what the number is for.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

/// A generator of its own for each purpose, so that one draw more in one place shifts nothing in another.
pub struct Dice(Rng);

impl Dice {
    /// Those of a purpose, which any numbers may name.
    pub fn of(parts: &[u64]) -> Self {
        let seed = parts.iter().fold(0, |seed, part| Rng::with_seed(seed ^ part).u64(..));
        Self(Rng::with_seed(seed))
    }

    pub fn within(&mut self, range: Range<u64>) -> u64 {
        self.0.u64(range)
    }

    pub fn index(&mut self, length: usize) -> usize {
        self.0.usize(..length)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.within(0..100) < chance
    }

    pub fn ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }
}
