//! The projection: read → apply → announce. The state of this replica, derived from the log and from nothing else.
//!
//! One reader delivers the log in order. One task, the owner, has the state and the store: it applies each batch, publishes
//! a [`Snapshot`] and a [`Position`], and announces what changed. The store follows, a batch at a time with the cursor in it. The
//! projection never appends and never reads KV. Its store is disposable: if it does not open, does not decode, or belongs to
//! another log, it is quarantined and rebuilt. A full disk damages nothing: then the projection stops with what is in memory,
//! until there is room.
//!
//! # Who waits for whom
//!
//! Between the owner and everybody else there are three things, and no lock:
//!
//! - the **snapshot**, which is swapped as a whole: what readers ask all the time is read from it without waiting;
//! - the **request channel**, for everything else: the owner answers from memory, or has a thread read the store;
//! - the **position**, a `watch` that is set last: whoever sees it knows that everything up to it is in the state, in the
//!   snapshot, and announced.
//!
//! The owner waits for the store and for subscribers, serving requests meanwhile, and never for a reader. A request that it
//! cannot answer, since the store is being rebuilt, fails with [`Unavailable`].

mod ack_records;
mod announcement;
pub mod cursor;
mod fold;
mod handle;
mod incoming;
mod job;
pub mod decoded_entry;
pub mod materializer;
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
