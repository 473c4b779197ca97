//! The epoch: which incarnation of the log it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// One incarnation of the log: the moment its stream was created, to the nanosecond.
///
/// A stream that was deleted and created anew counts its sequences from 1 again; the epoch tells the two apart, and a
/// later one wins. Written in RFC 3339 with nine decimals, since as a number it would exceed what JSON readers keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(i64);

impl Epoch {
    /// From nanoseconds since 1970-01-01T00:00:00Z.
    pub const fn from_unix_ns(ns: i64) -> Self {
        Self(ns)
    }

    /// In nanoseconds since 1970-01-01T00:00:00Z.
    pub const fn as_unix_ns(self) -> i64 {
        self.0
    }

    /// Seconds since 1970-01-01T00:00:00Z, to a microsecond or so: for graphs, not to compare epochs by.
    pub fn as_unix_seconds(self) -> f64 {
        let nanos = std::time::Duration::from_nanos(self.0.unsigned_abs());
        nanos.as_secs_f64().copysign(if self.0 < 0 { -1.0 } else { 1.0 })
    }
}

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

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rfc3339(self.0))
    }
}

impl FromStr for Epoch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_rfc3339(text).map(Self).map_err(|e| format!("not an epoch: {e}"))
    }
}

impl TryFrom<String> for Epoch {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn epochs_round_trip_and_sort_as_they_are_written(one in 0..i64::MAX, other in 0..i64::MAX) {
            let (one, other) = (Epoch::from_unix_ns(one), Epoch::from_unix_ns(other));
            prop_assert_eq!(one.to_string().parse(), Ok(one));
            prop_assert_eq!(one < other, one.to_string() < other.to_string());
        }
    }
}
