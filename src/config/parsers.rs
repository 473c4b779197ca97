//! Parsers of option values that several options share.

use clap::builder::RangedU64ValueParser;

/// A number of 1 or more.
pub(super) fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}
