//! Tidings
pub mod clock;
pub mod domain;
pub mod log;
pub mod projection;
pub mod submit;
pub mod push;
pub mod audit;
pub mod http;
pub mod config;
pub mod shutdown;
pub mod metrics;
pub mod commands;
