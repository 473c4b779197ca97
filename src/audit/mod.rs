//! Audit: what the log says, told from the log alone, with the server's own decoding and its own `evolve`.
//!
//! Replicas and the KV mirror are only compared with it, never used as evidence. Nothing is written but the
//! auditor's own files.

pub mod connection;
pub mod export;
pub mod feed;
pub mod finding;
pub mod follow;
pub mod time_point;
pub mod log_head;
pub mod proof;
pub mod replay;
pub mod source;
pub mod state;
pub mod terminal;
pub mod verify;

/// Batches that are read ahead.
const READ_AHEAD: usize = 4;
