//! Moments of JetStream's clock as text: RFC 3339 with nine decimals.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// A moment of JetStream's clock in full: RFC 3339 with nine decimals. `ns` counts since 1970-01-01T00:00:00Z.
pub fn rfc3339(ns: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    let moment = OffsetDateTime::from_unix_timestamp_nanos(ns.into()).ok();
    moment.and_then(|moment| moment.format(&format).ok()).unwrap_or_default()
}

/// The moment that an RFC 3339 time names, to the nanosecond, as [`rfc3339`] counts them.
pub fn parse_rfc3339(text: &str) -> Result<i64, String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|e| e.to_string())?;
    i64::try_from(moment.unix_timestamp_nanos())
        .map_err(|_| "out of range: years 1678 to 2261 count in nanoseconds".to_owned())
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
