//! The auditor's side: commands, exports, proofs, checkpoints, and what they find in a log that was changed.

mod checkpoints;
mod cluster;
mod commands;
mod damaged_exports;
mod exit_codes;
mod export;
mod follow;
mod http;
mod independent_verifier;
mod login;
mod many_readers;
mod past_states;
mod proofs;
mod signing;
mod tampering;
mod verify;
