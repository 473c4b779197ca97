//! Numbers as gauges hold them.

/// A number as the value of a gauge, capped at its maximum.
pub fn gauge(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
