//! The log: its contract, its epoch, and requests that are made at the same time.

mod concurrency;
mod conflicts;
mod contract;
mod epoch;
mod linearizability;
