//! Text from a request, as an error or a line of diagnostics may repeat it.

/// The most characters that are repeated.
const MAX_CHARS: usize = 100;

/// The beginning of a text, with control characters escaped.
pub fn excerpt(text: &str) -> String {
    text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect()
}
