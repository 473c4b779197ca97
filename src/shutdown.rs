//! Signals: SIGTERM or SIGINT begins an orderly end and a second one ends at once; SIGHUP asks for a reload.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// The signal that the replica is stopping.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for SIGTERM and SIGINT. The sender begins the end without a signal.
    pub fn listen() -> anyhow::Result<(watch::Sender<bool>, Self)> {
        let (begin, watched) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        ignore_other_signals()?;
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
        signalled(&mut self.0).await;
    }
}

/// Waits until the value is true, or its sender is gone.
pub async fn signalled(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|begun| *begun).await;
}

/// SIGHUP: asks the process to read again what may change while it runs. Signals that come before the first call of
/// [`Hangups::next`], or while one is handled, count as one.
pub struct Hangups(Signal);

impl Hangups {
    /// Handles SIGHUP from now on; without this the signal ends the process.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self(signal(SignalKind::hangup()).context("handling SIGHUP")?))
    }

    /// Waits for the next one; `None`: no further signal can come.
    pub async fn next(&mut self) -> Option<()> {
        self.0.recv().await
    }
}

/// SIGUSR1 and SIGUSR2 end a process that does not handle them, and log rotation sends them by habit. A replica logs the
/// signal and goes on.
fn ignore_other_signals() -> anyhow::Result<()> {
    for (kind, name) in [(SignalKind::user_defined1(), "SIGUSR1"), (SignalKind::user_defined2(), "SIGUSR2")] {
        let mut signals = signal(kind).with_context(|| format!("handling {name}"))?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                info!("{name} has no effect: a changed option needs a restart, and diagnostics go to stderr");
            }
        });
    }
    Ok(())
}
