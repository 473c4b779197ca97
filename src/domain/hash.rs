//! The hash of a list of parts: the first half of a SHA-256.

use sha2::{Digest as _, Sha256};

/// Facts of up to this many bytes are hashed in one call: that is nearly all of them, and most of the time of a fold.
const AT_ONCE: usize = 256;

/// The first two times 64 bits of a SHA-256 over the parts, each with its length before it, so that no two lists of parts hash
/// the same bytes.
pub(super) fn first_half_of_sha256(parts: &[&[u8]]) -> [u64; 2] {
    let mut hasher = Sha256::new();
    let (mut joined, mut end) = ([0; AT_ONCE], 0);
    for part in parts {
        for bytes in [(part.len() as u64).to_be_bytes().as_slice(), part] {
            if let Some(room) = joined.get_mut(end..end + bytes.len()) {
                room.copy_from_slice(bytes);
                end += bytes.len();
            } else {
                hasher.update(&joined[..end]);
                hasher.update(bytes);
                end = 0;
            }
        }
    }
    hasher.update(&joined[..end]);
    let hash: [u8; 32] = hasher.finalize().into();
    [0, 8].map(|at| hash[at..].first_chunk().map_or(0, |part| u64::from_be_bytes(*part)))
}
