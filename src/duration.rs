//! Durations as people write them: `15m`, `2h 30m`, `30days`.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use thiserror::Error;

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidDuration {
    /// It has no form of a duration, is negative, or is too long.
    #[error("not a duration such as 15m, 2h 30m or 30days")]
    Form,
    /// It is in months or years, where only a fixed length makes sense.
    #[error("months and years have no fixed length: use weeks, days, hours, minutes or seconds")]
    NoFixedLength,
}

/// Reads a span of the calendar, such as `15m`, `2h 30m` or `6 months`.
pub fn parse_span(text: &str) -> Result<Span, InvalidDuration> {
    let span: Option<Span> = text.parse().ok();
    span.filter(|span| !span.is_negative()).ok_or(InvalidDuration::Form)
}

/// Reads a duration of a fixed length, in which a day has 24 hours.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let span = parse_span(text)?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(InvalidDuration::NoFixedLength);
    }
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok();
    duration.and_then(|duration| duration.try_into().ok()).ok_or(InvalidDuration::Form)
}

/// A duration for people: `2m`, `1h 30m`.
pub fn display(duration: Duration) -> String {
    format!("{:#}", SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_in_units() {
        for (text, seconds) in [
            ("0s", 0),
            ("15m", 900),
            ("2h 30m", 9_000),
            ("8hours", 28_800),
            ("30days", 2_592_000),
            ("1w", 604_800),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "soon", "-2h", "2h ago", "9999999999999h"] {
            assert_eq!(parse_duration(text), Err(InvalidDuration::Form), "{text}");
        }
        assert_eq!(parse_duration("1y 2d"), Err(InvalidDuration::NoFixedLength));
        assert_eq!(parse_span("6 months").map(|span| span.get_months()), Ok(6));
        assert_eq!(display(Duration::from_mins(90)), "1h 30m");
    }
}
