//! Running a replica: options, health, metrics, warnings, logs, secrets, shutdown, restarts and containers.

mod alerts;
mod containers;
mod diagnostics;
mod metrics;
mod private_files;
pub mod replica;
mod rolling_restart;
mod secrets;
mod shutdown;
mod status_command;
pub mod warnings;
