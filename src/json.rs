//! JSON as it is sent: the one place that encodes what goes to clients.

use serde::Serialize;

/// The lines that JSON does not end and JavaScript, Python and others do: U+2028 and U+2029, in UTF-8, without the last byte.
const SEPARATORS: [u8; 2] = [0xe2, 0x80];

/// Encodes a value. U+2028 and U+2029 are written as escapes: some clients take them for the end of a line, and an event of an
/// event stream or a line of NDJSON would be cut there.
pub fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(value).map(escaped)
}

/// A value on a line of its own, with the newline at its end and the same escapes.
pub fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// In JSON both stand in strings alone.
fn escaped(json: Vec<u8>) -> Vec<u8> {
    let is_one = |bytes: &[u8]| bytes[..2] == SEPARATORS && matches!(bytes[2], 0xa8 | 0xa9);
    if !json.windows(3).any(is_one) {
        return json;
    }
    let mut escaped = Vec::with_capacity(json.len() + 16);
    let mut rest = json.as_slice();
    while let Some(at) = rest.windows(3).position(is_one) {
        escaped.extend_from_slice(&rest[..at]);
        escaped.extend_from_slice(if rest[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
        rest = &rest[at + 3..];
    }
    escaped.extend_from_slice(rest);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_sent_has_no_line_separator_and_means_the_same(text in "[a\u{2027}-\u{202a}\u{a8}é🦀\"\\\\]{0,12}") {
            let sent = to_vec(&text).unwrap();
            let sent = String::from_utf8(sent).unwrap();
            prop_assert_eq!(line(&text).unwrap(), format!("{sent}\n").into_bytes());
            let separated = sent.contains(['\u{2028}', '\u{2029}']);
            prop_assert!(!separated);
            prop_assert_eq!(serde_json::from_str::<String>(&sent).unwrap(), text);
        }
    }
}
