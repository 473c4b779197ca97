//! Shutdown: the first signal begins an orderly end, the second one ends at once.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// Tells whoever asks that the replica is stopping.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for SIGTERM and SIGINT. The sender begins the end without a signal.
    pub fn listen() -> anyhow::Result<(watch::Sender<bool>, Self)> {
        let (begin, watched) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let signalled = begin.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            let name = next().await;
            info!("{name}: stopping in order; a second signal stops at once");
            signalled.send_replace(true);
            let name = next().await;
            warn!("{name} again: stopping at once");
            std::process::exit(1);
        });
        Ok((begin, Self(watched)))
    }

    /// Whether the end has begun.
    pub fn begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it has.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}
