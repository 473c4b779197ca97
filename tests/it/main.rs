//! The integration tests: real nats-server processes, real replicas of the built binary, a file a behaviour.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

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
