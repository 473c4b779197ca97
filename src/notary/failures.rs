//! Failures of a notary, logged once with their end, and how long events have been unsigned.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::checkpoint::CheckpointError;

/// How long a failure lasts before it is a warning: streams elect leaders.
const FAILURE_GRACE: Duration = Duration::from_secs(10);

/// The failures of one notary.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    /// Since when everything has failed.
    since: Option<Instant>,
    said: bool,
    /// The size that was signed last, and since when the log has been longer.
    signed: u64,
    unsigned_since: Option<Instant>,
}

impl FailureLog {
    /// Records a failure, and logs it once when it lasts. Returns whether it lasts.
    pub(super) fn has(&mut self, error: &anyhow::Error) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.said && since.elapsed() >= FAILURE_GRACE {
            self.said = true;
            warn!(
                "no checkpoint can be read or signed: {error:#}. New events stay unsigned meanwhile. Check that the stream \
                 BROADCAST_CHECKPOINTS is not at its max_bytes, and that this login may read it and publish to it"
            );
        }
        self.said
    }

    /// Records a success.
    pub(super) fn is_over(&mut self) {
        self.since = None;
        if std::mem::take(&mut self.said) {
            info!("checkpoints can be read and signed again");
        }
    }

    /// For how long the log has been longer than what is signed of it.
    pub(super) fn unsigned(&mut self, signed: u64, sequence: u64) -> Duration {
        if signed >= sequence || signed != self.signed {
            self.unsigned_since = None;
        }
        self.signed = signed;
        if signed >= sequence {
            return Duration::ZERO;
        }
        self.unsigned_since.get_or_insert_with(Instant::now).elapsed()
    }
}

/// The invalid checkpoints of one pass over the stream, logged in one line, however many there are.
#[derive(Default)]
pub(super) struct SkippedCheckpoints {
    count: u64,
    /// The newest of it, and why it does not count.
    newest: Option<(u64, String)>,
}

impl SkippedCheckpoints {
    pub(super) fn note(&mut self, number: u64, why: &CheckpointError) {
        self.count += 1;
        self.newest.get_or_insert_with(|| (number, why.to_string()));
    }

    pub(super) fn warn(&self) {
        if let Some((number, why)) = &self.newest {
            warn!(
                checkpoint.number = number,
                checkpoints.passed_over = self.count,
                "passed over a checkpoint: {why}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_signed_grows_old_until_it_is_signed() {
        let mut failures = FailureLog::default();
        assert_eq!(failures.unsigned(0, 0), Duration::ZERO);
        assert_eq!(failures.unsigned(0, 1), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(failures.unsigned(0, 5), Duration::from_secs(7));
        assert_eq!(failures.unsigned(3, 5), Duration::ZERO, "a checkpoint came");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(failures.unsigned(3, 5), Duration::from_secs(2));
        assert_eq!(failures.unsigned(5, 5), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_goes_on_is_said_once_until_it_is_over() {
        let mut failures = FailureLog::default();
        let full = anyhow::anyhow!("maximum bytes exceeded");
        assert!(!failures.has(&full));
        tokio::time::advance(FAILURE_GRACE).await;
        assert!(failures.has(&full));
        failures.is_over();
        assert!(!failures.said && failures.since.is_none());
    }
}
