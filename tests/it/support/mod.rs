//! The harness: reads like the interface. Everything that it starts it ends, by its own handle.

pub mod altered;
pub mod balancer;
pub mod browser;
pub mod checkpoints;
pub mod clock;
pub mod client;
pub mod contract;
pub mod disk;
pub mod events;
pub mod fitful;
pub mod front;
pub mod issuer;
pub mod link;
pub mod log;
pub mod memory;
pub mod nats;
pub mod operator;
pub mod program;
pub mod raw;
pub mod projecting;
pub mod random;
pub mod replica;
pub mod request;
pub mod spec;
pub mod terminal;
pub mod tls;
pub mod users;
pub mod wire;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use browser::Browser;
pub use client::Client;
pub use disk::SmallDisk;
pub use events::Events;
pub use issuer::{Issuer, KeyServer};
pub use link::{Condition, Link};
pub use nats::{Cluster, Nats};
pub use raw::Raw;
pub use replica::Replica;
pub use request::{Http, Request, choose_cryptography};
pub use spec::Spec;

/// How long anything may take that should take a moment: generous, since machines are shared and noisy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits a condition, looking at it every 20 ms; fails with what was awaited.
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    within(PATIENCE, what, condition).await;
}

/// Awaits a condition for a given time.
pub async fn within<F: Future<Output = bool>>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The nats-server that the suite uses: what `make test` found, else what the install script finds.
pub fn nats_server() -> PathBuf {
    static FOUND: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    FOUND
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("NATS_SERVER") {
                return path.into();
            }
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/nats/install.sh");
            let found = std::process::Command::new(script).output().expect("nats/install.sh runs");
            assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
            String::from_utf8(found.stdout).expect("a path").trim().into()
        })
        .clone()
}

/// Any string as part of a query.
pub fn percent_encoded(text: &str) -> String {
    text.bytes().flat_map(|byte| ["%".to_owned(), format!("{byte:02X}")]).collect()
}

/// A file of the repository.
pub fn shipped(path: &str) -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"))
}
