//! The benchmarks of Tidings: a replica under load beside other servers, the verification of a long log, and single steps.
//!
//! `README.md` says what each figure means and how it is measured. The programs are `src/bin/fanout.rs` (`make bench`),
//! `src/bin/audit.rs` (`make bench-audit`) and `benches/micro.rs` (`make bench-micro`); what they share is here.

// Processes, and what they cost.
pub mod cores;
pub mod process;
pub mod nats;
pub mod replica;
pub mod measure;

// Clients: what they send, and what they check.
pub mod frames;
pub mod identity;
pub mod heard;
pub mod load;
pub mod caller;
pub mod flood;

// What a replica is measured beside.
pub mod logs;
pub mod relay;
pub mod peers;

// What is measured, and how it is shown.
pub mod options;
pub mod statistics;
pub mod table;
pub mod capacity;
pub mod rows;
