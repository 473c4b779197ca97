//! Every option, default and limit. An option is a flag and an environment variable; a flag wins.

mod admin;
mod audit;
mod checkpoints;
mod limits;
mod identity;
mod nats;
mod parsers;
mod rates;
mod serve;
mod sockets;
mod streams;
mod redacted;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub use admin::{Admin, MintToken, StatusFormat};
pub use audit::{
    Audit, Check, CheckFormat, Export, LogFrom, Prove, Replay, ReplayFormat, State, StateFormat, Verify,
    VerifyFormat,
};
pub use checkpoints::CheckpointOptions;
pub use identity::{Auth, IdentityOptions, SECRET_VARIABLE, Secret};
pub use limits::LimitOptions;
pub use nats::NatsOptions;
pub use rates::RateOptions;
pub use serve::{LogFormat, OnOutage, Serve};
pub use sockets::SOCKET_LIMITS;
pub use streams::StreamOptions;

/// One announcement to every connected user, on an event log that anybody can check.
#[derive(Debug, Parser)]
#[command(name = "tidings", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one replica of the service.
    Serve(Box<Serve>),
    /// Read the event log: what happened, what was true at a moment, and whether anything was changed since.
    #[command(subcommand)]
    Audit(Audit),
    /// Look after a deployment.
    #[command(subcommand)]
    Admin(Admin),
    /// Print an interface description of this build, whole, as a replica serves it.
    Contract {
        /// Which one.
        #[arg(value_enum)]
        document: Contract,
    },
    /// How `serve` starts its embedded nats-server.
    #[command(name = crate::log::embedded::CHILD_COMMAND, hide = true)]
    NatsChild {
        /// The nats-server.
        binary: PathBuf,
        /// Its configuration.
        configuration: PathBuf,
    },
}

/// An interface description.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Contract {
    /// The HTTP interface, as OpenAPI 3.1.
    Openapi,
    /// The messages of live connections and the events of the log, as AsyncAPI 3.0.
    Asyncapi,
}
