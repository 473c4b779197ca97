//! Audit: what the log says, told from the log alone, with the server's own decoding and its own `evolve`.
//!
//! Nothing here asks another replica, and nothing is written.

pub mod export;
pub mod feed;
pub mod finding;
pub mod follow;
pub mod moment;
pub mod proof;
pub mod replay;
pub mod source;
pub mod state;
pub mod terminal;
pub mod verify;

/// Batches read ahead of whoever looks at them.
const READ_AHEAD: usize = 4;
