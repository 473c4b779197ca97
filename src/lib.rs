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
//! # The words
//!
//! `docs/glossary.md` explains them to users; here they are by module.
//!
//! | term | meaning |
//! | --- | --- |
//! | acknowledgement | a user's confirmation of a broadcast, counted once, whatever the number of devices |
//! | announcement | what the projection sends to the shards after each batch: which broadcast became active or ended |
//! | broadcast | a text with a severity, shown in one channel; at most one is active there |
//! | change | what one event did to the state, as `evolve` returns it |
//! | channel | an independent series of broadcasts, the path segment after `/api/` |
//! | checkpoint | a signed statement: the log with this epoch has this root at this size |
//! | decide, evolve | the pure functions that judge a command, and that fold a recorded event into the state |
//! | digest | a sum over all facts of the state, by which replicas compare themselves |
//! | drain | the orderly end: stop accepting, close connections over some seconds, give up the lease |
//! | epoch | the identity of one log; sequences of two epochs are never compared |
//! | event, log | what happened, as a CloudEvent; the JetStream stream with all of them, the source of truth |
//! | frontier, leaf | the roots of the perfect subtrees of a Merkle tree; the hash of one log entry in it |
//! | generation | how often the projection was rebuilt in this process; what was observed in another one is stale |
//! | guard | the condition of an append: the last sequence of its subject, as it was when the event was decided |
//! | hole | a sequence whose message NATS has lost; skipped in the same way on every replica |
//! | hub, shard | the push layer of a replica; one of its tasks, which owns a part of the connections |
//! | late event | one that was overtaken while it waited in an outbox: recorded, without effect |
//! | lease, mirror | the right of one replica to write the KV buckets, which are the mirror of the log's state |
//! | lifecycle | the events of a channel that start and end broadcasts |
//! | mode | `cluster`, `local` (NATS is away) or `relaying` (the outbox is on its way to the log) |
//! | notary | compares the replica's tree with checkpoints, and signs new ones |
//! | outbox, relay | the file of events accepted while NATS was away; the task that appends them when it is back |
//! | pending | accepted and not in the log yet: folded over the log's state until the relay is done |
//! | position | epoch and sequence, as clients keep it |
//! | projection | the state folded from the log, on disk, and its one owner; disposable |
//! | session | the protocol of one connection, a pure state machine over bytes and time |
//! | snapshot | the state that a connection or a shard gets first |
//! | submit | the write path: decide, append, and on a conflict read on and decide again |
//! | view | the log's state with what is pending over it: what commands are judged by and reads are answered from |
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
