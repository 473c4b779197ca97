//! Dice: every number of a run follows from its seed and from what the number is for.

use std::ops::Range;
use std::time::Duration;

/// A generator of its own for each purpose, so that one draw more in one place shifts nothing in another.
pub struct Dice(u64);

impl Dice {
    /// Those of a purpose, which any numbers may name.
    pub fn of(parts: &[u64]) -> Self {
        let mut dice = Self(0);
        for part in parts {
            dice.0 ^= *part;
            dice.0 = dice.next();
        }
        dice
    }

    /// `SplitMix64`.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.within(0..length as u64)).unwrap()
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
