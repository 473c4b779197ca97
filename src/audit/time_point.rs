//! Moments: how an auditor names one, and where in the log it is.

use std::str::FromStr;
use std::time::Duration;

use jiff::Span;
use jiff::tz::TimeZone;
use thiserror::Error;
use tokio::time::sleep;

use crate::domain::Timestamp;
use crate::duration::parse_span;
use crate::log::time::{InvalidLogTime, parse_rfc3339};
use crate::log::{EventLog, RawMessage, ReadError};

/// How often "nothing there" is asked again before the end of the log counts as lost: a leader that was deposed a moment
/// ago can say so.
const CONFIRMATIONS: u32 = 3;
const CONFIRM_EVERY: Duration = Duration::from_millis(300);

/// A moment as an auditor writes it.
#[derive(Clone, Copy, Debug)]
pub enum TimePoint {
    /// RFC 3339, as nanoseconds since 1970-01-01T00:00:00Z.
    At(i64),
    /// A span of the calendar before now.
    Ago(Span),
}

impl TimePoint {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub fn as_unix_ns(self, now: Timestamp) -> i64 {
        match self {
            Self::At(ns) => ns,
            // What is out of range is before every message.
            Self::Ago(ago) => jiff::Timestamp::from_millisecond(now.as_unix_ms())
                .and_then(|now| now.to_zoned(TimeZone::UTC).checked_sub(ago))
                .ok()
                .and_then(|moment| i64::try_from(moment.timestamp().as_nanosecond()).ok())
                .unwrap_or(i64::MIN),
        }
    }
}

/// A text is neither a time nor how long ago.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("neither a time ({0}) nor how long ago, such as 15m or 2h")]
pub struct InvalidTimePoint(InvalidLogTime);

impl FromStr for TimePoint {
    type Err = InvalidTimePoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ago) = parse_span(text) {
            return Ok(Self::Ago(ago));
        }
        parse_rfc3339(text).map(Self::At).map_err(InvalidTimePoint)
    }
}

/// The sequence of the last message that the log recorded before a moment, in nanoseconds; 0 when there is none.
///
/// Found by halving, in about as many questions as the length of the log has binary digits. What the log has lost has no
/// time and counts to what comes after it. Times are taken to rise with the sequence: where clocks of several NATS nodes
/// are apart, a change of the leader can blur the place by as much.
pub async fn last_before(log: &dyn EventLog, moment_ns: i64) -> Result<u64, ReadError> {
    let (mut before, mut not_before) = (0, log.info().await?.last_sequence + 1);
    while not_before - before > 1 {
        let middle = before + (not_before - before) / 2;
        match first_from(log, middle).await? {
            Some(found) if found.sequence < not_before && found.time_ns < moment_ns => {
                before = found.sequence;
            }
            _ => not_before = middle,
        }
    }
    Ok(before)
}

async fn first_from(log: &dyn EventLog, sequence: u64) -> Result<Option<RawMessage>, ReadError> {
    let mut found = log.first_from(sequence).await?;
    for _ in 1..CONFIRMATIONS {
        if found.is_some() {
            break;
        }
        sleep(CONFIRM_EVERY).await;
        found = log.first_from(sequence).await?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::MemoryLog;

    #[test]
    fn a_moment_is_a_time_or_a_while_ago() {
        let now = Timestamp::from_unix_ms(10_000_000);
        for (text, ns) in [
            ("1970-01-01T00:00:01.000000002Z", 1_000_000_002),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:59:59Z", -1_000_000_000),
            ("1s", 9_999_000_000_000),
            ("2h 30m", 1_000_000_000_000),
            ("100years", 10_000_000_000_000 - 36_524 * 86_400 * 1_000_000_000),
            ("9000years", i64::MIN),
        ] {
            assert_eq!(text.parse::<TimePoint>().map(|m| m.as_unix_ns(now)), Ok(ns), "{text}");
        }
        for bad in ["", "yesterday", "5", "2026-11-25", "2026-11-25T02:43:00", "9999-01-01T00:00:00Z", "-2h"]
        {
            assert!(bad.parse::<TimePoint>().is_err(), "{bad}");
        }
    }

    /// The message n of the log in memory is recorded at n ms and 1 ns.
    const fn at(n: i64) -> i64 {
        n * 1_000_000 + 1
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_before_a_moment_is_found_in_logs_of_any_length() {
        let log = MemoryLog::default();
        assert_eq!(last_before(&log, i64::MAX).await.unwrap(), 0, "an empty log");
        for length in 1..=33 {
            log.inject("any", Vec::new(), "".into());
            assert_eq!(last_before(&log, i64::MIN).await.unwrap(), 0);
            assert_eq!(last_before(&log, i64::MAX).await.unwrap(), length);
            for (n, moment) in (1..=length).zip(1..) {
                assert_eq!(last_before(&log, at(moment)).await.unwrap(), n - 1);
                assert_eq!(last_before(&log, at(moment) + 1).await.unwrap(), n);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_counts_to_what_comes_after_it() {
        let log = MemoryLog::default();
        for _ in 1..=40 {
            log.inject("any", Vec::new(), "".into());
        }
        let lost = [1, 2, 15, 16, 17, 18, 19, 20, 21, 30, 39, 40];
        for sequence in lost {
            log.damage(sequence);
        }
        for (n, moment) in (1..=40_u64).zip(1..) {
            let expected = (1..n).rev().find(|sequence| !lost.contains(sequence)).unwrap_or(0);
            assert_eq!(last_before(&log, at(moment)).await.unwrap(), expected, "before {n}");
        }
    }
}
