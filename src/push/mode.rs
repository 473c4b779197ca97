//! The modes that clients are notified of: the two that matter to them, and not too often.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::wire::{Frame, Mode, ServerMessage};
use crate::submit;

/// Clients are notified of a change of mode at most this often.
const SENT_EVERY: Duration = Duration::from_secs(5);

/// The mode that clients were notified of last, and when the next one is due.
pub(super) struct ModeNotifier {
    last_sent: Mode,
    not_before: Instant,
    modes: watch::Receiver<submit::mode::Mode>,
}

impl ModeNotifier {
    pub(super) fn new(modes: watch::Receiver<submit::mode::Mode>) -> Self {
        Self { last_sent: Mode::default(), not_before: Instant::now(), modes }
    }

    /// The mode that clients were notified of last, which new ones get too.
    pub(super) const fn last_sent(&self) -> Mode {
        self.last_sent
    }

    /// Waits until a notification is due.
    pub(super) async fn due(&mut self) {
        let last_sent = self.last_sent;
        loop {
            if self.modes.wait_for(|mode| Mode::from(*mode) != last_sent).await.is_err() {
                // The replica stops.
                std::future::pending::<()>().await;
            }
            sleep_until(self.not_before).await;
            if self.now() != last_sent {
                return;
            }
        }
    }

    /// The notification.
    pub(super) fn next_frame(&mut self) -> Frame {
        self.last_sent = self.now();
        self.not_before = Instant::now() + SENT_EVERY;
        ServerMessage::Mode { mode: self.last_sent }.frame()
    }

    fn now(&self) -> Mode {
        Mode::from(*self.modes.borrow())
    }
}
