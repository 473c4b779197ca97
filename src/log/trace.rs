//! The W3C trace context of a request, carried through the event that comes of it to every replica's diagnostics.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use tracing::{Span, error_span};

/// The header of a request and of a stored event, and the CloudEvents attribute (extension "distributed tracing").
pub const TRACEPARENT: &str = "traceparent";

/// A `traceparent`: which trace a request belongs to, and which span of the caller it came from.
///
/// Tidings sends no spans of its own to any collector, so it passes on what the caller sent: whoever finds the event
/// finds the caller's span. Of a version newer than 00 only the parts that 00 has are known, and passed on as 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

/// The flags that version 00 defines: sampled, and random trace id.
const KNOWN_FLAGS: u8 = 0b11;

/// The length of version 00: `00-{32 digits}-{16 digits}-{2 digits}`.
const LENGTH: usize = 55;

impl TraceParent {
    /// The one in a request or a stored event; `None` when there is none, or several, or it is not valid: the context
    /// is then ignored, as the specification says.
    pub fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let value = std::str::from_utf8(values.next()?).ok()?;
        if values.next().is_some() { None } else { value.parse().ok() }
    }

    /// A span whose field `trace.id` every line said in it carries; no span without a trace.
    pub fn span(trace: Option<Self>) -> Span {
        // At the highest level, so that no filter leaves lines without it.
        trace.map_or_else(Span::none, |trace| {
            error_span!("traced", trace.id = format!("{:032x}", trace.trace_id))
        })
    }
}

/// A text is not a `traceparent` of the W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = text.get(..LENGTH).ok_or(InvalidTraceParent)?;
        let mut parts = known.split('-');
        let [version, trace_id, parent_id, flags] =
            [2, 32, 16, 2].map(|digits| hexadecimal(parts.next(), digits));
        let (version, trace_id) = (version.ok_or(InvalidTraceParent)?, trace_id.ok_or(InvalidTraceParent)?);
        let parent_id =
            u64::try_from(parent_id.ok_or(InvalidTraceParent)?).map_err(|_| InvalidTraceParent)?;
        let flags = u8::try_from(flags.ok_or(InvalidTraceParent)?).map_err(|_| InvalidTraceParent)?;
        let more = &text[LENGTH..];
        let flags = match version {
            0 if more.is_empty() => flags,
            1..=0xfe if more.is_empty() || more.starts_with('-') => flags & KNOWN_FLAGS,
            _ => return Err(InvalidTraceParent),
        };
        if trace_id == 0 || parent_id == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self { trace_id, parent_id, flags })
    }
}

/// A part of exactly so many digits, in lower case.
fn hexadecimal(part: Option<&str>, digits: usize) -> Option<u128> {
    let part = part.filter(|part| part.len() == digits)?;
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if part.bytes().all(digit) { u128::from_str_radix(part, 16).ok() } else { None }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn only(values: &[&str]) -> Option<String> {
        TraceParent::only(values.iter().map(|value| value.as_bytes())).map(|trace| trace.to_string())
    }

    #[test]
    fn one_valid_header_counts_and_anything_else_is_ignored() {
        assert_eq!(only(&[GOOD]).as_deref(), Some(GOOD));
        assert_eq!(only(&[]), None);
        assert_eq!(only(&[GOOD, GOOD]), None);
        let zeros = |from, to| GOOD.replace(from, to);
        for bad in [
            "",
            "00",
            "4bf92f3577b34da6a3ce929d0e0e4736",
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}-00"),
            &format!(" {GOOD}"),
            &format!("{GOOD}0"),
            &zeros("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &zeros("00f067aa0ba902b7", "0000000000000000"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0g", 1),
            &GOOD.replace("-01", "-0x"),
            &GOOD.replace("4bf9", "+bf9"),
            &GOOD.replace("4bf92f", "4bf9é"),
            "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
        ] {
            assert_eq!(only(&[bad]), None, "{bad}");
        }
        assert_eq!(TraceParent::only([b"\xff".as_slice()].into_iter()), None);
    }

    #[test]
    fn a_newer_version_is_passed_on_as_far_as_it_is_known() {
        let newer = GOOD.replacen("00", "cc", 1);
        for more in ["", "-", "-what-the-future-will-be-like"] {
            assert_eq!(only(&[&format!("{newer}{more}")]).as_deref(), Some(GOOD));
        }
        assert_eq!(only(&[&newer.replace("-01", "-ff")]), Some(GOOD.replace("-01", "-03")));
        assert_eq!(only(&[&format!("{newer}.what")]), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_passed_on_unchanged(trace_id in 1..=u128::MAX, parent_id in 1..=u64::MAX, flags: u8) {
            let text = TraceParent { trace_id, parent_id, flags }.to_string();
            prop_assert_eq!(only(&[&text]), Some(text));
        }

        #[test]
        fn only_what_follows_the_grammar_is_read(text in "[0f]{2}-[0-9a-fA-F]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{2}(-|-a)?") {
            let parts: Vec<_> = text.split('-').collect();
            let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
            let valid = (parts[0] == "00" && parts.len() == 4 || parts[0] != "00" && parts[0] != "ff")
                && parts[1].len() == 32 && !parts[1].bytes().any(|b| b.is_ascii_uppercase()) && !zero(parts[1])
                && parts[2].len() == 16 && !zero(parts[2]);
            prop_assert_eq!(text.parse::<TraceParent>().is_ok(), valid);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = text.parse::<TraceParent>();
        }
    }
}
