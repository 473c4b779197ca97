//! The log: its contract, its epoch, and commands that are appended at the same time.

mod concurrency;
mod conflicts;
mod contract;
mod epoch;
