//! Errors in the log: an error in one line, and how often the same line is logged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines of one kind with different texts may follow each other this fast.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// An error and its causes in one line, each cause once. Many libraries include the cause in their own text and return it as
/// the source too; `{:#}` of such an error repeats it.
pub fn causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut line, cause| {
        let cause = cause.to_string();
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
        line
    })
}

/// Limits how often the same line is logged while a problem lasts.
#[derive(Debug)]
pub struct LogLimiter {
    every: Duration,
    written: Mutex<Option<(Instant, String)>>,
}

impl LogLimiter {
    /// The same text at most this often; another text at most once a second.
    pub const fn every(every: Duration) -> Self {
        Self { every, written: Mutex::new(None) }
    }

    /// Whether this text is due to be logged now. If so, it counts as logged.
    pub fn is_due(&self, text: &str) -> bool {
        let now = Instant::now();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = written.as_ref().is_none_or(|(at, before)| {
            let pause = if before == text { self.every } else { AT_MOST_EVERY };
            now.saturating_duration_since(*at) >= pause
        });
        if is_due {
            *written = Some((now, text.to_owned()));
        }
        is_due
    }

    /// The problem is over: the next line is logged at once.
    pub fn reset(&self) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use tokio::time::advance;

    #[test]
    fn a_cause_that_an_error_has_in_its_own_text_is_not_repeated() {
        let error = anyhow!("deadline has elapsed")
            .context("timed out: deadline has elapsed")
            .context("request error: timed out: deadline has elapsed")
            .context("reading the stream");
        assert_eq!(causes(&error), "reading the stream: request error: timed out: deadline has elapsed");
        assert_eq!(causes(&anyhow!("why").context("what")), "what: why");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_not_repeated_before_its_time_and_another_one_not_within_a_second() {
        let repeated = LogLimiter::every(Duration::from_secs(10));
        let seconds = |seconds| advance(Duration::from_secs(seconds));
        assert!(repeated.is_due("a") && !repeated.is_due("a") && !repeated.is_due("b"));
        seconds(1).await;
        assert!(!repeated.is_due("a") && repeated.is_due("b") && !repeated.is_due("a"));
        seconds(10).await;
        assert!(repeated.is_due("b"));
        repeated.reset();
        assert!(repeated.is_due("b"));
    }
}
