//! The time of messages as text: RFC 3339 with nine decimals, as JetStream records it.

use thiserror::Error;

use crate::domain::{InvalidTimestamp, parse_rfc3339 as parse};

/// A time in nanoseconds since 1970-01-01T00:00:00Z, as RFC 3339 with nine decimals.
pub fn rfc3339(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(ns.into()).map(|moment| format!("{moment:.9}")).unwrap_or_default()
}

/// Why a text names no time that JetStream could have recorded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidLogTime {
    /// It is not an RFC 3339 time.
    #[error(transparent)]
    Form(#[from] InvalidTimestamp),
    /// It does not fit nanoseconds in 64 bits.
    #[error("out of range: nanoseconds cover the years 1678 to 2261")]
    OutOfRange,
}

/// Nanoseconds since 1970-01-01T00:00:00Z of an RFC 3339 time.
pub fn parse_rfc3339(text: &str) -> Result<i64, InvalidLogTime> {
    i64::try_from(parse(text)?.as_nanosecond()).map_err(|_| InvalidLogTime::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn moments_round_trip_and_sort_as_they_are_written(one in 0..i64::MAX, other in 0..i64::MAX) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(one)), Ok(one));
            prop_assert_eq!(one < other, rfc3339(one) < rfc3339(other));
        }
    }
}
