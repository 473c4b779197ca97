//! The integration tests: real nats-server processes and real replicas of the built binary. A folder an area, a file a subject;
//! `tests/README.md` says which, and what shows each rule.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

#[path = "../judge/mod.rs"]
mod judge;

mod audit;
mod contracts;
mod faults;
mod http;
mod identity;
mod live;
mod log;
mod nats;
mod operations;
mod outage;
mod pages;
mod projection;
mod repository;
mod rest;
