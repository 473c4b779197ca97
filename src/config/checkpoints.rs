//! The options of checkpoints.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::redacted::RedactedParser;
use crate::notary::NotaryOptions;
use crate::notary::note::{KeyName, PublicKey, SecretKey};

/// What a deployment chooses about checkpoints.
#[derive(Clone, Debug, Args)]
pub struct CheckpointOptions {
    /// Sign checkpoints of the log with the key in this file (`tidings admin keygen` makes one); several while keys are
    /// rotated. A replica that runs a NATS of its own makes itself a key in its data directory. Without a key, it only
    /// compares what others sign.
    #[arg(long, env = "TIDINGS_CHECKPOINT_KEY", value_delimiter = ',', value_name = "FILE")]
    pub checkpoint_key: Vec<PathBuf>,

    /// Make the key in the file of --checkpoint-key when there is none, under this name (a URL without its scheme is a good
    /// one, as for `tidings admin keygen`). Replicas that share the file then share the key.
    #[arg(long, env = "TIDINGS_CHECKPOINT_KEY_NAME", value_name = "NAME", requires = "checkpoint_key")]
    pub checkpoint_key_name: Option<KeyName>,

    /// Public keys of others whose checkpoints count. Without any key, everybody's do.
    #[arg(long, env = "TIDINGS_CHECKPOINT_PUBLIC_KEY", value_delimiter = ',', value_name = "KEY", value_parser = RedactedParser::<PublicKey>::new())]
    pub checkpoint_public_key: Vec<PublicKey>,

    /// Sign a checkpoint when there are this many new events, or after --checkpoint-every-seconds.
    #[arg(long, env = "TIDINGS_CHECKPOINT_EVERY_EVENTS", default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every_events: u64,

    /// Sign a checkpoint this long after the last one if there are new events, however few.
    #[arg(long, env = "TIDINGS_CHECKPOINT_EVERY_SECONDS", default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every_seconds: u64,
}

impl CheckpointOptions {
    /// What a notary with these keys needs to know.
    pub fn options(&self, keys: Vec<SecretKey>) -> NotaryOptions {
        NotaryOptions {
            keys,
            trusted: self.checkpoint_public_key.clone(),
            every_events: self.checkpoint_every_events,
            every: Duration::from_secs(self.checkpoint_every_seconds),
        }
    }
}
