//! Says in the diagnostics why requests were refused by what they said of their sender, their page or their host: whoever
//! runs the service sees a wrong configuration there, which a browser hides from its page.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::Instant;
use tracing::{info, warn};

use super::error::Refusal;

/// A line of each error code at most this often: callers choose how often they are refused.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// When each error code was last said. There are some ten of them.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<&'static str, Spell>>);

#[derive(Debug)]
struct Spell {
    said: Instant,
    unsaid: u64,
}

impl Refusals {
    /// Says why a request to a route was refused, unless that was said of another a moment ago.
    pub fn say(&self, status: StatusCode, refusal: &Refusal, route: &str) {
        let Some(unsaid) = self.due(refusal.code) else { return };
        let Refusal { code, message } = refusal;
        let status = status.as_u16();
        let before =
            if unsaid == 0 { String::new() } else { format!(" ({unsaid} more since the last such line)") };
        // A page or a host that is not allowed is a matter of configuration, or an attack.
        if matches!(*code, "origin_not_allowed" | "host_not_allowed") {
            warn!(
                http.route = route,
                http.response.status_code = status,
                code,
                "refused a request: {message}{before}"
            );
        } else {
            info!(
                http.route = route,
                http.response.status_code = status,
                code,
                "refused a request: {message}{before}"
            );
        }
    }

    /// How many were passed over since the last line of this code; none: it is too early for another.
    fn due(&self, code: &'static str) -> Option<u64> {
        let mut spells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match spells.get_mut(code) {
            Some(spell) if now.duration_since(spell.said) < SAY_EVERY => {
                spell.unsaid += 1;
                None
            }
            Some(spell) => {
                spell.said = now;
                Some(std::mem::take(&mut spell.unsaid))
            }
            None => {
                spells.insert(code, Spell { said: now, unsaid: 0 });
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
    async fn each_code_is_said_now_and_then_with_how_many_were_not() {
        let refusals = Refusals::default();
        assert_eq!((refusals.due("a"), refusals.due("b")), (Some(0), Some(0)));
        assert_eq!((refusals.due("a"), refusals.due("a")), (None, None));
        advance(SAY_EVERY).await;
        assert_eq!((refusals.due("a"), refusals.due("a"), refusals.due("b")), (Some(2), None, Some(0)));
    }
}
