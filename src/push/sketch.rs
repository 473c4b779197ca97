//! A sketch of a set: how many distinct values it has, in 4 KiB however many they are, and of a union of sets too.
//!
//! `HyperLogLog` with 4,096 registers (Flajolet et al., 2007), and the estimator of Ertl, "New cardinality estimation algorithms
//! for `HyperLogLog` sketches" (2017), which needs no table and no special case for few or many values. The standard error is
//! 1.04 / √4096 = 1.6 %: two of three estimates are within that, and practically all within 5 %.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Bits of a hash that choose the register.
const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The other bits, and with them the highest rank but one.
const RANK_BITS: u32 = u64::BITS - INDEX_BITS;

/// A set of 64-bit hashes, which have to be evenly distributed.
#[derive(Clone, PartialEq, Eq)]
pub struct Sketch(Box<[u8; REGISTERS]>);

impl Default for Sketch {
    fn default() -> Self {
        Self(Box::new([0; REGISTERS]))
    }
}

impl Sketch {
    /// Adds a value, by its hash.
    pub fn add(&mut self, hash: u64) {
        let (index, rest) = (hash >> RANK_BITS, hash << INDEX_BITS);
        let rank = (rest.leading_zeros() + 1).min(RANK_BITS + 1);
        if let Some(register) = usize::try_from(index).ok().and_then(|index| self.0.get_mut(index)) {
            *register = (*register).max(u8::try_from(rank).unwrap_or(u8::MAX));
        }
    }

    /// Adds all values of another set.
    pub fn merge(&mut self, other: &Self) {
        for (register, other) in self.0.iter_mut().zip(other.0.iter()) {
            *register = (*register).max(*other);
        }
    }

    /// About how many distinct values were added.
    pub fn estimate(&self) -> u64 {
        let mut counts = [0_u32; RANK_BITS as usize + 2];
        for register in self.0.iter() {
            counts[usize::from(*register)] += 1;
        }
        let m = f64::from(1_u32 << INDEX_BITS);
        let [zeros, ranks @ .., highest] = &counts;
        let mut z = m * tau(1.0 - f64::from(*highest) / m);
        for count in ranks.iter().rev() {
            z = 0.5 * (z + f64::from(*count));
        }
        z += m * sigma(f64::from(*zeros) / m);
        let estimate = m * m / (2.0 * std::f64::consts::LN_2 * z);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "no sum of positive numbers is below 0, and a cast of more than 2^64 gives the highest number"
        )]
        let estimate = estimate.round() as u64;
        estimate
    }

    /// The registers, a byte each, in unpadded base64.
    pub fn encode(&self) -> String {
        STANDARD_NO_PAD.encode(*self.0)
    }

    /// What [`Self::encode`] made; `None` when it is something else.
    pub fn decode(text: &str) -> Option<Self> {
        let registers: Box<[u8; REGISTERS]> =
            STANDARD_NO_PAD.decode(text).ok()?.into_boxed_slice().try_into().ok()?;
        let are_ranks = registers.iter().all(|rank| u32::from(*rank) <= RANK_BITS + 1);
        are_ranks.then_some(Self(registers))
    }
}

impl Extend<u64> for Sketch {
    fn extend<T: IntoIterator<Item = u64>>(&mut self, hashes: T) {
        hashes.into_iter().for_each(|hash| self.add(hash));
    }
}

impl FromIterator<u64> for Sketch {
    fn from_iter<T: IntoIterator<Item = u64>>(hashes: T) -> Self {
        let mut sketch = Self::default();
        sketch.extend(hashes);
        sketch
    }
}

/// x + Σ x^(2^k) · 2^(k-1), over k from 1 on.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut sum) = (1.0, x);
    loop {
        x *= x;
        let next = sum + x * y;
        if next <= sum {
            return sum;
        }
        (sum, y) = (next, y + y);
    }
}

/// (1 - x - Σ (1 - x^(2^-k))² · 2^-k) / 3, over k from 1 on.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut rest) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        y *= 0.5;
        let next = rest - (1.0 - x) * (1.0 - x) * y;
        if next >= rest {
            return rest / 3.0;
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::UserId;
    use crate::push::connection::user_hash;

    /// Hashes of so many users, as heartbeats have them.
    fn hashes(range: std::ops::Range<u32>) -> impl Iterator<Item = u64> {
        range.map(|n| user_hash(&format!("user-{n}").parse::<UserId>().unwrap()))
    }

    fn sketch(range: std::ops::Range<u32>) -> Sketch {
        hashes(range).collect()
    }

    fn error(estimate: u64, truth: u32) -> f64 {
        let truth = f64::from(truth);
        (f64::from(u32::try_from(estimate).unwrap()) - truth) / truth
    }

    #[test]
    fn an_estimate_is_within_five_percent_and_its_standard_error_below_two() {
        assert_eq!(Sketch::default().estimate(), 0);
        let mut squares = 0.0;
        let sizes = [1, 10, 100, 1_000, 4_097, 10_000, 20_000, 50_000, 100_000];
        let mut begin = 0;
        for size in sizes.into_iter().cycle().take(4 * sizes.len()) {
            let off = error(sketch(begin..begin + size).estimate(), size);
            assert!(off.abs() < 0.05, "{size}: {off}");
            squares += off * off;
            begin += size;
        }
        let standard = (squares / f64::from(u32::try_from(4 * sizes.len()).unwrap())).sqrt();
        assert!(standard < 0.02, "{standard}");
    }

    #[test]
    fn a_union_counts_what_is_in_both_once() {
        let mut union = sketch(0..30_000);
        union.merge(&sketch(10_000..40_000));
        assert!(union == sketch(0..40_000), "the sketch of the union is the union of the sketches");
        assert!(error(union.estimate(), 40_000).abs() < 0.05);
    }

    #[test]
    fn what_is_decoded_is_what_was_encoded_and_nothing_else_is_decoded() {
        let whole = sketch(0..5_000);
        assert!(Sketch::decode(&whole.encode()) == Some(whole));
        for other in [
            "",
            "AAAA",
            &STANDARD_NO_PAD.encode([0; REGISTERS + 1]),
            &STANDARD_NO_PAD.encode([99; REGISTERS]),
        ] {
            assert!(Sketch::decode(other).is_none());
        }
    }

    #[test]
    fn hashes_of_nothing_but_zeros_or_ones_do_not_break_it() {
        let mut sketch = Sketch(Box::new([53; REGISTERS]));
        sketch.add(0);
        sketch.add(u64::MAX);
        assert_eq!(sketch.estimate(), u64::MAX);
    }
}
