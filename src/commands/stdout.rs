//! Stdout for what never ends: written by a thread of its own, so that a reader that does not read holds nothing up.

use std::io::{self, Write as _, stdout};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Texts that wait for a slow reader; then whoever sends them waits.
const WAITING: usize = 4;

/// How long what was sent may take to be written at the end.
const GRACE: Duration = Duration::from_secs(1);

/// The thread that writes.
pub(super) struct StdoutWriter {
    ended: oneshot::Receiver<io::Result<()>>,
}

impl StdoutWriter {
    /// Starts it. Each text is flushed; an error closes the channel.
    pub(super) fn start() -> anyhow::Result<(mpsc::Sender<String>, Self)> {
        let (texts, mut waiting) = mpsc::channel::<String>(WAITING);
        let (end, ended) = oneshot::channel();
        let write = move || {
            let mut written = Ok(());
            while let (Ok(()), Some(text)) = (&written, waiting.blocking_recv()) {
                let mut out = stdout().lock();
                written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
            drop(waiting);
            let _ = end.send(written);
        };
        thread::Builder::new().name("stdout".to_owned()).spawn(write).context("starting a thread")?;
        Ok((texts, Self { ended }))
    }

    /// Waits, a moment at most, until everything is written. Every sender must be gone.
    pub(super) async fn finish(self) -> io::Result<()> {
        match timeout(GRACE, self.ended).await {
            Ok(Ok(written)) => written,
            // It ends with the process: whoever stops us does not wait for a reader that does not read.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

/// Waits until stdout is a pipe that nobody reads any more, which writing would show only with the next line.
pub(super) async fn abandoned() {
    let (say, said) = oneshot::channel();
    let watch = move || {
        let out = stdout();
        // Nothing is asked for, so that only an error or the other end's absence ends it; a file has neither.
        loop {
            match poll(&mut [PollFd::new(&out, PollFlags::empty())], None) {
                Ok(_) => return say.send(()),
                Err(Errno::INTR) => {}
                Err(_) => return Ok(()),
            }
        }
    };
    let watching = thread::Builder::new().name("stdout-watch".to_owned()).spawn(watch);
    if watching.is_err() || said.await.is_err() {
        std::future::pending::<()>().await;
    }
}
