//! Delays: how long people took to acknowledge, as a histogram that stays small however many they are.
//!
//! The buckets are exact below 32 ms and then sixteen to each power of two, so a quantile is never more than 1/16
//! above the truth. It is a function of the log like everything else: the same on every replica.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sixteen buckets to a power of two.
const STEP_BITS: u32 = 4;

/// Counts of delays in milliseconds, by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Delays(BTreeMap<u32, u64>);

impl Delays {
    /// Counts one delay; one below zero (two clocks that differ) counts as zero.
    pub fn add(&mut self, ms: i64) {
        *self.0.entry(bucket_of(u64::try_from(ms).unwrap_or(0))).or_default() += 1;
    }

    /// The delay in milliseconds that this share of them (0 to 1) does not exceed; `None` when there are none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let all: u64 = self.0.values().sum();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among at most 2^52 is exact enough"
        )]
        let rank = ((all as f64 * share).ceil() as u64).max(1);
        let mut counted = 0;
        let reached = self.0.iter().find(|(_, count)| {
            counted += **count;
            counted >= rank
        });
        reached.map(|(bucket, _)| top_of(*bucket))
    }
}

/// Below 32 a bucket a value; above, the highest bit and the four below it.
fn bucket_of(value: u64) -> u32 {
    let exponent = value.checked_ilog2().unwrap_or(0).saturating_sub(STEP_BITS);
    let mantissa = u32::try_from(value >> exponent).unwrap_or(u32::MAX);
    (exponent << STEP_BITS) + mantissa
}

/// The largest value of a bucket.
fn top_of(bucket: u32) -> u64 {
    let exponent = (bucket >> STEP_BITS).saturating_sub(1);
    let mantissa = u64::from(bucket - (exponent << STEP_BITS));
    // Only the very last bucket has no room above it.
    (u128::from(mantissa + 1) << exponent).saturating_sub(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_few_are_what_they_were() {
        let mut delays = Delays::default();
        assert_eq!(delays.quantile(0.5), None);
        for ms in [-5, 3, 9, 20] {
            delays.add(ms);
        }
        assert_eq!((delays.quantile(0.5), delays.quantile(0.95)), (Some(3), Some(20)));
        assert_eq!(delays.quantile(0.0), Some(0), "one below zero counts as zero");
    }

    proptest! {
        #[test]
        fn a_bucket_is_never_far_above_its_values(value in any::<u64>()) {
            let top = top_of(bucket_of(value));
            prop_assert!(top >= value);
            prop_assert!(top - value <= value / 16, "{} for {}", top, value);
        }

        #[test]
        fn buckets_keep_the_order(one in any::<u64>(), other in any::<u64>()) {
            let (low, high) = (one.min(other), one.max(other));
            prop_assert!(bucket_of(low) <= bucket_of(high));
        }

        #[test]
        fn a_quantile_is_at_most_a_sixteenth_above_the_exact_one(
            mut values in prop::collection::vec(0i64..10_000_000, 1..200),
            share in 0.01f64..=1.0,
        ) {
            let mut delays = Delays::default();
            for ms in &values {
                delays.add(*ms);
            }
            values.sort_unstable();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
            let exact = u64::try_from(values[rank - 1]).unwrap();
            let found = delays.quantile(share).unwrap();
            prop_assert!((exact..=exact + exact / 16).contains(&found), "{} for {}", found, exact);
        }
    }
}
