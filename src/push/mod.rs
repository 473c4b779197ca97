//! Push: from the projection's announcements to every connection of this replica, in log order.
//!
//! The hub spreads connections over shards. A shard is the one task that knows its connections and writes to their sockets;
//! it learns of events and of attaching connections in one order, so a connection gets a snapshot and then everything after
//! it: no gap and no double by construction.

pub mod admission;
pub mod client;
mod connection;
mod drain;
pub mod frame;
pub mod heartbeat;
pub mod hub;
pub mod lifetime;
mod mode;
pub mod moment;
pub mod presence;
mod readiness;
mod report;
mod room;
mod roster;
pub mod session;
mod shard;
pub mod socket;
mod tape;
mod timers;
mod users;
pub mod wire;
