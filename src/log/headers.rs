//! Headers of NATS messages as a list.

use async_nats::HeaderMap;

/// The headers of a message, one entry a value, but for those that are not its own.
pub(super) fn flatten(headers: &HeaderMap, not_its_own: &[&str]) -> Vec<(String, String)> {
    let mut flat = Vec::with_capacity(headers.len());
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        if !not_its_own.contains(&name) {
            flat.extend(values.iter().map(|value| (name.to_owned(), value.as_str().to_owned())));
        }
    }
    // The client keeps headers in a hash map; a stable order makes equal messages equal.
    flat.sort_unstable();
    flat
}
