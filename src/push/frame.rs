//! Frames: a WebSocket's bytes on the wire (RFC 6455, section 5), as functions of bytes and nothing else.
//!
//! Why this is not a library's: `docs/architecture.md`, "What is written by hand".
//!
//! The server's frames are whole and unmasked. A client's come masked, in any pieces: the parser takes bytes as they
//! come, works in the buffer that they came in, and keeps something of its own only while a frame or a message is
//! unfinished.

mod format;
mod parser;

pub use format::{MAX_CONTROL, Opcode, Received, Violation, close, encode};
pub use parser::Parser;

#[cfg(test)]
mod tests;
