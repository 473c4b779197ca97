//! What clients are told of the mode: the two that matter to them, and not too often.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::wire::{Frame, Mode, ServerMessage};
use crate::submit;

/// Clients are told of a change of mode at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// What clients were told, and what they are told next.
pub(super) struct Telling {
    told: Mode,
    not_before: Instant,
    modes: watch::Receiver<submit::mode::Mode>,
}

impl Telling {
    pub(super) fn new(modes: watch::Receiver<submit::mode::Mode>) -> Self {
        Self { told: Mode::default(), not_before: Instant::now(), modes }
    }

    /// What everybody was told, and who connects is told too.
    pub(super) const fn told(&self) -> Mode {
        self.told
    }

    /// Waits until there is something to tell, and it is time to.
    pub(super) async fn due(&mut self) {
        let told = self.told;
        loop {
            if self.modes.wait_for(|mode| Mode::from(*mode) != told).await.is_err() {
                // The replica stops.
                std::future::pending::<()>().await;
            }
            sleep_until(self.not_before).await;
            if self.now() != told {
                return;
            }
        }
    }

    /// The message for everybody.
    pub(super) fn tell(&mut self) -> Frame {
        self.told = self.now();
        self.not_before = Instant::now() + TOLD_EVERY;
        ServerMessage::Mode { mode: self.told }.frame()
    }

    fn now(&self) -> Mode {
        Mode::from(*self.modes.borrow())
    }
}
