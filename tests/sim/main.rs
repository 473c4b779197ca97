//! The simulation: replicas, clients and people over the log in memory, in virtual time, under seeded trouble. A seed is a
//! run, and the same seed is the same run.
//!
//! ```text
//! cargo test --test sim                  500 seeds
//! SEEDS=10000 cargo test --test sim      more
//! SEED=17 cargo test --test sim          one, with all that happened in it, and what RUST_LOG asks for
//! ```
//!
//! What is real: the domain, the projection with its store on disk, submit with its outbox on disk, the relay, the hub and the
//! sessions. What is not: NATS, HTTP, sockets, the clock, and the death of a process, which is played.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod client;
mod clock;
mod dice;
mod evidence;
mod hearing;
#[path = "../judge/mod.rs"]
mod judge;
mod link;
mod network;
mod people;
mod replica;
mod rules;
mod seeds;
mod tally;
mod trace;
mod trouble;
mod world;
