//! NATS is away: what a replica accepts alone, and what the log gets when NATS is back.

mod alone;
mod connections;
mod order;
mod races;
mod start;
