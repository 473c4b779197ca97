//! Tidings: one announcement to every connected user, on an event log that anybody can check.
//!
//! ```text
//!  creators ──REST──►┐                                                  ┌──► tidings audit (replay, state, verify, prove, export)
//!  users ────acks───►│ http ► submit: decide(state, command) ► append ─►│
//!                    └─────────────────────────────────────────────┐    │
//!                                                                  ▼    │
//!                 JetStream stream BROADCASTS ── the only thing that a command ever writes
//!                                                                  │
//!                       every replica: one reader, in order        ▼
//!                       projection: evolve(state, event) ► sled ─────────► mirror (one replica holds the lease)
//!                                                                  │             ▼
//!                       push: hub ► WebSocket / event-stream clients       NATS KV broadcast_active, broadcast_acks
//!                       notary: Merkle tree ► signed checkpoints ► JetStream stream BROADCAST_CHECKPOINTS
//! ```
//!
//! # What always holds
//!
//! 1. **One write.** A command becomes at most one event, appended under an optimistic-concurrency guard. It writes
//!    nothing else: not sled, not KV, not a socket. Only while the log is away, the event waits in the outbox.
//! 2. **Everything else is derived, in log order.** Projections, KV, pushes and counts are functions of the log up to a
//!    sequence. Delete any of them and it comes back the same.
//! 3. **The core returns, the edge acts.** [`domain::decide()`] and [`domain::evolve()`] are pure; time, ids and randomness
//!    are arguments.
//! 4. **Accepted means durable.** A success is sent when the log has the event on disk, or, marked as such, the outbox.
//!    Every other answer says what to do, and says so when the outcome is unknown.
//!
//! And what never happens: KV is never read to decide or to serve; the projection never appends; reads never leave
//! the process; nothing old is ever dropped from the log.
//!
//! # The map
//!
//! The modules in layer order. Each imports only from those above it, which a test reads from here and holds.

pub mod domain;
pub mod clock;
pub mod duration;
pub mod json;
pub mod suggest;
pub mod rate_limit;
pub mod blocking;
pub mod crash_point;
pub mod error_log;
pub mod warnings;
pub mod disk;
pub mod shutdown;
pub mod critical_tasks;
pub mod metrics;
pub mod log;
pub mod projection;
pub mod submit;
pub mod push;
pub mod notary;
pub mod audit;
pub mod contract;
pub mod http;
pub mod config;
pub mod commands;
