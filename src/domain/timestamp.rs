//! Timestamps: moments as the log and every interface write them.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::str::FromStr;

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

use super::types::Parsed;

/// 1970-01-01 as a Julian day.
const UNIX_EPOCH_JULIAN_DAY: i32 = 2_440_588;

/// A moment in UTC, in whole milliseconds; on the wire RFC 3339 with three decimals and `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970-01-01T00:00:00Z, held within the years 0000 to 9999 that RFC 3339 can write.
    pub fn from_unix_ms(ms: i64) -> Self {
        const YEAR_0000: i64 = -62_167_219_200_000;
        const YEAR_9999_END: i64 = 253_402_300_799_999;
        Self(ms.clamp(YEAR_0000, YEAR_9999_END))
    }

    /// From nanoseconds since 1970-01-01T00:00:00Z, the unit in which JetStream records time.
    pub fn from_unix_ns(ns: i64) -> Self {
        Self::from_unix_ms(ns.div_euclid(1_000_000))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn as_unix_ms(self) -> i64 {
        self.0
    }

    /// The UTC day this moment is on, in days since 1970-01-01.
    pub const fn day(self) -> i64 {
        self.0.div_euclid(86_400_000)
    }
}

/// Letters that a timestamp is written in.
const LETTERS: usize = 24;

impl Timestamp {
    /// As it is written. Every acknowledgement of a log has one, so the digits are put down one by one.
    fn letters(self) -> [u8; LETTERS] {
        let (year, month, day) = i32::try_from(self.day())
            .ok()
            .and_then(|day| Date::from_julian_day(day + UNIX_EPOCH_JULIAN_DAY).ok())
            .map_or((0, 1, 1), |date| (date.year(), u8::from(date.month()), date.day()));
        let ms = self.0.rem_euclid(86_400_000);
        let parts = [
            (0..4, i64::from(year)),
            (5..7, month.into()),
            (8..10, day.into()),
            (11..13, ms / 3_600_000),
            (14..16, ms / 60_000 % 60),
            (17..19, ms / 1_000 % 60),
            (20..23, ms % 1_000),
        ];
        let mut letters = *b"0000-00-00T00:00:00.000Z";
        for (place, mut left) in parts {
            for letter in letters[place].iter_mut().rev() {
                *letter = DIGITS[usize::try_from(left % 10).unwrap_or_default()];
                left /= 10;
            }
        }
        letters
    }
}

const DIGITS: &[u8; 10] = b"0123456789";

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.letters()).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.letters()).map_err(S::Error::custom)?)
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(ms) = as_written(text) {
            return Ok(Self(ms));
        }
        let moment = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|e| format!("`{}` is not an RFC 3339 time: {e}", text.escape_debug()))?;
        let ms = moment.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(ms).map(Self::from_unix_ms).map_err(|e| e.to_string())
    }
}

/// The milliseconds of a moment to the letter as [`Timestamp`] writes it, as in every acknowledgement of a log. `None`: it
/// wants a closer look, which a leap second does, too.
fn as_written(text: &str) -> Option<i64> {
    let bytes: &[u8; LETTERS] = text.as_bytes().try_into().ok()?;
    let is_at = |at: usize, byte| bytes[at] == byte;
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
    if !marks.iter().all(|(at, mark)| is_at(*at, *mark)) {
        return None;
    }
    let number = |range: Range<usize>| {
        bytes[range]
            .iter()
            .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0')))
    };
    let month = u8::try_from(number(5..7)?).ok()?.try_into().ok()?;
    let day = u8::try_from(number(8..10)?).ok()?;
    let days =
        Date::from_calendar_date(number(0..4)?, month, day).ok()?.to_julian_day() - UNIX_EPOCH_JULIAN_DAY;
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let is_time = hour < 24 && minute < 60 && second < 60;
    let seconds = i64::from(days) * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    is_time.then_some(seconds * 1_000 + i64::from(number(20..23)?))
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::format_description;

    use super::*;

    #[test]
    fn timestamps_have_one_spelling() {
        let moment: Timestamp = "2026-11-25T02:43:00.5+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-11-25T01:43:00.500Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    fn closely(text: &str) -> Option<i64> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_the_library_writes(ms in any::<i64>(), days in -719_528..2_932_896_i64, of_day in 0..86_400_000_i64) {
            let format =
                format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
            for moment in [Timestamp::from_unix_ms(ms), Timestamp::from_unix_ms(days * 86_400_000 + of_day)] {
                let nanos = i128::from(moment.as_unix_ms()) * 1_000_000;
                let written = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap().format(&format).unwrap();
                prop_assert_eq!(moment.to_string(), &*written);
                prop_assert_eq!(serde_json::to_value(moment).unwrap(), serde_json::Value::from(written));
            }
        }

        #[test]
        fn the_short_way_to_a_timestamp_leads_where_the_long_one_does(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{3}Z",
            letter in "\\PC", at in 0..24_usize,
        ) {
            prop_assert!(as_written(&text).is_none() || as_written(&text) == closely(&text), "{}", text);
            let mut other: Vec<_> = text.chars().collect();
            other[at] = letter.chars().next().unwrap_or(' ');
            let other: String = other.into_iter().collect();
            prop_assert!(as_written(&other).is_none() || as_written(&other) == closely(&other), "{}", other);
        }

        #[test]
        fn what_is_written_is_read_the_short_way(ms in any::<i64>(), days in -719_528..2_932_896_i64) {
            for moment in [Timestamp::from_unix_ms(ms), Timestamp::from_unix_ms(days * 86_400_000 - 1)] {
                prop_assert_eq!(as_written(&moment.to_string()), Some(moment.as_unix_ms()));
            }
        }

        #[test]
        fn timestamps_round_trip(ms in any::<i64>()) {
            let moment = Timestamp::from_unix_ms(ms);
            prop_assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        }
    }
}
