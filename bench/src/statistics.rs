//! The median of a few rounds, and between which of them it lies with which confidence.
//!
//! Nothing is assumed of how rounds are distributed: the interval goes from one round's value to another's, and its confidence
//! is that of a coin (the order statistics of a median).

/// What the rounds say of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median of the rounds.
    pub median: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
    /// How likely the true median is in it, from 0 to 1.
    pub confidence: f64,
    /// How many rounds there were.
    pub rounds: usize,
}

/// What an interval has to promise, if there are rounds enough: six.
const WANTED: f64 = 0.95;

impl Summary {
    /// The narrowest interval around the median, rank against rank, that keeps the promise; with too few rounds all of
    /// them. `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rounds = sorted.len();
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let median = f64::midpoint(sorted[(rounds - 1) / 2], sorted[rounds / 2]);
        let mut summary = Self { median, low: first, high: last, confidence: 0.0, rounds };
        // How likely at most so many of the rounds are below the true median: each is with one half.
        let mut chance = 0.5_f64.powi(i32::try_from(rounds).unwrap_or(i32::MAX));
        let mut at_most = 0.0;
        for rank in 0..rounds / 2 {
            at_most += chance;
            let confidence = 1.0 - 2.0 * at_most;
            if rank > 0 && confidence < WANTED {
                break;
            }
            summary = Self { low: sorted[rank], high: sorted[rounds - 1 - rank], confidence, ..summary };
            chance *= counted(rounds - rank) / counted(rank + 1);
        }
        Some(summary)
    }
}

/// The value that so many of a hundred do not exceed, which is one of them: of fifty values the 99th percentile is the
/// largest. `NaN` without any.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent.min(100)).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// A count as a factor.
#[expect(clippy::cast_precision_loss, reason = "no count of a benchmark has more than 52 bits")]
pub const fn counted(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_rounds_promise_more_than_95_percent_from_the_second_to_the_eighth() {
        let summary = Summary::of(&[9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]).unwrap();
        assert!((summary.median - 5.0).abs() < 1e-9);
        assert!((summary.low - 2.0).abs() < 1e-9 && (summary.high - 8.0).abs() < 1e-9);
        assert!((summary.confidence - 0.9609).abs() < 1e-3, "{summary:?}");
    }

    #[test]
    fn twenty_rounds_promise_it_from_the_sixth_to_the_fifteenth() {
        let values: Vec<_> = (1..=20).map(f64::from).collect();
        let summary = Summary::of(&values).unwrap();
        assert!((summary.median - 10.5).abs() < 1e-9);
        assert!((summary.low - 6.0).abs() < 1e-9 && (summary.high - 15.0).abs() < 1e-9);
        assert!((summary.confidence - 0.9586).abs() < 1e-3, "{summary:?}");
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<_> = (1..=50).rev().map(f64::from).collect();
        assert_eq!(
            [1, 50, 98, 99, 100].map(|p| percentile(&values, p).to_bits()),
            [1.0, 25.0, 49.0, 50.0, 50.0].map(f64::to_bits)
        );
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn too_few_rounds_say_how_little_they_promise() {
        let summary = Summary::of(&[3.0, 1.0, 2.0]).unwrap();
        assert!((summary.low - 1.0).abs() < 1e-9 && (summary.high - 3.0).abs() < 1e-9);
        assert!((summary.confidence - 0.75).abs() < 1e-9);
        let alone = Summary::of(&[7.0]).unwrap();
        assert!(alone.low <= alone.high && alone.confidence.abs() < 1e-9);
        assert_eq!(Summary::of(&[]), None);
    }
}
