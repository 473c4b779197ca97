//! Positions in a log, as clients keep them.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use super::epoch::Epoch;

/// A position in a log: epoch and sequence, written `{epoch}-{sequence}`, such as `9f2c41d07be3a865-17`.
///
/// Clients keep it as it is and hand it back. Sequences of two epochs are never compared: they count different logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log.
    pub epoch: Epoch,
    /// The last sequence that is reflected; 0 before the first event.
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

/// A text is not in the form of [`Position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a position in the form EPOCH-SEQUENCE")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    /// One spelling: neither `+1` nor `01`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, number) = text.split_once('-').ok_or(InvalidPosition)?;
        let sequence: u64 = number.parse().map_err(|_| InvalidPosition)?;
        if sequence.to_string() != number {
            return Err(InvalidPosition);
        }
        Ok(Self { epoch: epoch.parse().map_err(|_| InvalidPosition)?, sequence })
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_position_has_one_spelling() {
        let epoch = "9f2c41d07be3a865";
        for bad in
            ["", "7", "-7", epoch, &format!("{epoch}-"), &format!("{epoch}-+7"), &format!("{epoch}-07")]
        {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
        assert!(format!("{epoch}-18446744073709551616").parse::<Position>().is_err());
        assert!(format!("{}-7", epoch.to_uppercase()).parse::<Position>().is_err());
    }

    proptest! {
        #[test]
        fn positions_round_trip(bits: u64, sequence: u64) {
            let position = Position { epoch: Epoch::from_bits(bits), sequence };
            let text = position.to_string();
            prop_assert_eq!(text.parse(), Ok(position));
            prop_assert_eq!(serde_json::to_value(position).unwrap(), text);
        }

        #[test]
        fn what_parses_is_written_the_same(text in "[0-9a-f]{15,17}-?[0-9+-]{0,4}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }
}
