//! Logs why requests were refused for what they said of their sender, their page or their host: a wrong configuration shows
//! there, while a browser hides it from its page.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::Instant;
use tracing::{info, warn};

use super::error::Refusal;

/// One line of each error code at most this often: clients choose how often they are refused.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The last line of each error code. There are some ten of them.
#[derive(Debug, Default)]
pub struct RefusalLog(Mutex<HashMap<&'static str, LastLine>>);

#[derive(Debug)]
struct LastLine {
    at: Instant,
    suppressed: u64,
}

impl RefusalLog {
    /// Logs why a request to a route was refused, unless a line of the same code was written a moment ago.
    pub fn log(&self, status: StatusCode, refusal: &Refusal, route: &str) {
        let Some(suppressed) = self.due(refusal.code) else { return };
        let Refusal { code, message } = refusal;
        let status = status.as_u16();
        let more = match suppressed {
            0 => String::new(),
            _ => format!(" ({suppressed} more since the last such line)"),
        };
        // A page or a host that is not allowed is a matter of configuration, or an attack.
        if matches!(*code, "origin_not_allowed" | "host_not_allowed") {
            warn!(
                http.route = route,
                http.response.status_code = status,
                code,
                "refused a request: {message}{more}"
            );
        } else {
            info!(
                http.route = route,
                http.response.status_code = status,
                code,
                "refused a request: {message}{more}"
            );
        }
    }

    /// How many lines of this code were suppressed since the last one; `None` when it is too early for another.
    fn due(&self, code: &'static str) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match lines.get_mut(code) {
            Some(last) if now.duration_since(last.at) < LOG_EVERY => {
                last.suppressed += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.suppressed))
            }
            None => {
                lines.insert(code, LastLine { at: now, suppressed: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn each_code_is_logged_now_and_then_with_how_many_were_suppressed() {
        let log = RefusalLog::default();
        assert_eq!((log.due("a"), log.due("b")), (Some(0), Some(0)));
        assert_eq!((log.due("a"), log.due("a")), (None, None));
        advance(LOG_EVERY).await;
        assert_eq!((log.due("a"), log.due("a"), log.due("b")), (Some(2), None, Some(0)));
    }
}
