//! Push: from the projection's announcements to every connection of this replica, in log order.
//!
//! The hub spreads connections over shards. A shard is the one task that knows its connections and writes to their sockets;
//! it learns of events and of attaching connections in one order, so a connection gets a snapshot and then everything after
//! it: no gap and no double by construction.

mod ack_traffic;
pub mod admission;
pub mod attach;
mod backlog;
pub mod client;
pub mod clock_check;
mod connection;
mod connection_table;
mod context;
pub mod counts;
mod drain;
pub mod frame;
pub mod heartbeat;
pub mod hub;
mod individual;
pub mod identity;
pub mod lifetime;
pub mod local;
mod mode;
mod name;
pub mod peers;
pub mod presence;
mod readiness;
pub mod release;
mod report;
pub mod session;
mod shard;
pub mod sketch;
mod sockets;
mod subscribers;
pub mod tick;
mod timers;
mod user_index;
pub mod websocket;
pub mod wire;
