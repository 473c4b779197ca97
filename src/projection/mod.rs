//! The projection: read → apply → announce. What this replica knows, folded from the log and from nothing else.
//!
//! One reader hands over the log in order; one task folds each batch into the state and announces what changed. The store
//! follows, a batch at a time and the cursor with it. The projection never appends and never reads KV. Its disk
//! state is disposable: when it does not open, does not decode, or belongs to another log, it is moved aside and
//! rebuilt. A full disk damages nothing: then it stands still, with what is in memory, until there is room.

mod acks;
mod announcement;
mod core;
pub mod cursor;
mod fold;
mod handle;
mod incoming;
mod job;
pub mod ledger;
mod memory;
pub mod mirror;
mod owner;
mod pending;
mod position;
mod records;
mod request;
mod snapshot;
pub mod store;
mod supervise;
pub mod tree;
mod writer;

pub use announcement::{Announcement, Changed};
pub use handle::{Projection, Unavailable};
pub use position::{Halt, Position, Reached};
pub use snapshot::{Active, Snapshot};
pub use store::AckAt;
pub use supervise::{Options, Supervisor};
