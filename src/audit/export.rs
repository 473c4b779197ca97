//! Export: the whole log and everything that was signed of it in one file, to be read anywhere and for ever.
//!
//! ```text
//! header       which log it is, and where it ended when the export began
//! checkpoint   each message of the stream of checkpoints
//! place        each place of the log, in order: the message with all of its headers, or a hole
//! end          how many places there are, and the root of their Merkle tree
//! ```
//!
//! A line each (`schemas/export.json`). The end is written last, so that a file without one is no whole export.

mod checkpoints;
mod line;
mod lines;
pub mod reader;
mod scan;
mod tracker;
mod write;

pub use reader::ExportFile;
pub use tracker::FileFault;
pub use write::{ExportSummary, ExportWriter, export};
