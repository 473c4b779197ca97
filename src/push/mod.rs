//! Push: from the projection's announcements to every connection of this replica, in log order.
//!
//! The hub is the one task that knows the connections. It learns of events and of attaching connections in one order,
//! so a connection gets a snapshot and then everything after it: no gap and no double by construction.

pub mod admission;
mod drain;
pub mod heartbeat;
pub mod hub;
mod mode;
pub mod presence;
mod report;
mod room;
pub mod session;
pub mod wire;
