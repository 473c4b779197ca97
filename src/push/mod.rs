//! Push: from the projection's announcements to every connection of this replica, in log order.
//!
//! The hub spreads connections over shards. A shard is the one task that knows its connections and writes to their sockets;
//! it learns of events and of attaching connections in one order, so a connection gets a snapshot and then everything after
//! it: no gap and no double by construction.

pub mod admission;
pub mod client;
pub mod clock_check;
mod connection;
pub mod counts;
mod drain;
pub mod frame;
pub mod heartbeat;
pub mod hub;
pub mod lifetime;
pub mod local;
mod mode;
pub mod moment;
mod name;
pub mod peers;
pub mod presence;
mod readiness;
pub mod release;
mod report;
mod room;
mod roster;
pub mod session;
mod shard;
pub mod sketch;
pub mod socket;
mod tape;
mod timers;
mod users;
pub mod wire;
