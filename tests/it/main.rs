//! The integration tests: real nats-server processes, real replicas of the built binary, a file a behaviour.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod acknowledgements;
mod api;
mod audit;
mod audit_cluster;
mod audit_export;
mod audit_file;
mod audit_follow;
mod auditor;
mod autobahn;
mod audit_http;
mod benchmark;
mod checklist;
mod checkpoints;
mod compose;
mod contracts;
mod convergence;
mod diagnostics;
mod drain;
mod edge;
mod embedded;
mod faults;
mod garbage;
mod guards;
mod history;
mod identity;
mod identity_keys;
mod identity_live;
mod identity_pages;
mod identity_rates;
mod install;
mod load;
mod log_contract;
mod metrics;
mod mirror;
mod nats_facts;
mod nats_tls;
mod operations;
mod outage;
mod outage_races;
mod page;
mod presence;
mod projection;
mod proofs;
mod rebuild;
mod rolling;
mod schemas;
mod second_verifier;
mod tidy;
mod tampering;
mod time_travel;
mod verify;
mod websocket;
