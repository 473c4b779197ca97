//! How far this replica's clock is from that of NATS: by the time at which NATS recorded a heartbeat of this replica, which
//! was sent before and confirmed after.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::domain::Timestamp;
use crate::log::jetstream::nanoseconds;
use crate::log::names::{REPLICAS_BUCKET, bucket_subject};
use crate::log::provision::replicas_stream;
use crate::metrics::Metrics;
use crate::warnings::{Warning, Warnings};

/// A clock further from that of NATS than this is reported, by the replica and by `admin status`. Tokens are judged with a
/// leeway of 30 s, but of two posts made while NATS was away the newer one is found by the replicas' clocks.
pub const CLOCK_OFFSET_MS: i64 = 3_000;

/// How often NATS is asked when it recorded a heartbeat.
const CHECK_EVERY: Duration = Duration::from_secs(15);

/// A heartbeat that NATS has confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirmed {
    /// When it was sent, by this replica's clock.
    pub(super) sent: Timestamp,
    /// When the confirmation came, by the same clock.
    pub(super) answered: Timestamp,
    /// Where NATS stored it.
    pub(super) sequence: u64,
}

/// Compares the clocks now and then.
#[derive(Debug, Default)]
pub struct ClockCheck {
    /// When it did that last, and whether the clock was off then.
    last: Mutex<(Option<Instant>, bool)>,
}

impl ClockCheck {
    /// Compares the clocks by a heartbeat of this replica, if it is time.
    pub(super) async fn compare(
        &self,
        context: &jetstream::Context,
        replica: &str,
        confirmed: Confirmed,
        metrics: &Metrics,
        warnings: &Warnings,
    ) {
        let due = |last: Option<Instant>| last.is_none_or(|at| at.elapsed() >= CHECK_EVERY);
        if !due(self.last.lock().unwrap_or_else(PoisonError::into_inner).0) {
            return;
        }
        let recorded = match recorded_at(context, replica, confirmed.sequence).await {
            Ok(Some(recorded)) => recorded,
            // Another heartbeat has taken its place, or NATS is away: the next one will do.
            Ok(None) => return,
            Err(error) => return debug!("NATS does not say when it recorded a heartbeat: {error:#}"),
        };
        let offset_ms = offset_ms(confirmed, recorded);
        metrics.set_clock_offset(offset_ms);
        let is_off = offset_ms.abs() > CLOCK_OFFSET_MS;
        warnings.set(Warning::ClockOffset, is_off);
        let (_, was_off) = std::mem::replace(
            &mut *self.last.lock().unwrap_or_else(PoisonError::into_inner),
            (Some(Instant::now()), is_off),
        );
        match (was_off, is_off) {
            (false, true) => warn!(
                clock.offset_ms = offset_ms,
                "the clock of this replica is {} ms {} that of NATS: set both by NTP. The times of broadcasts are wrong by \
                 this, tokens are judged by it, and of posts made while NATS was away the newest is found by it",
                offset_ms.unsigned_abs(),
                if offset_ms > 0 { "ahead of" } else { "behind" }
            ),
            (true, false) => info!("the clock of this replica agrees with that of NATS again"),
            _ => {}
        }
    }
}

/// When NATS recorded the heartbeat at a sequence; `None` when another one is the last of this replica already.
async fn recorded_at(
    context: &jetstream::Context,
    replica: &str,
    sequence: u64,
) -> anyhow::Result<Option<i64>> {
    let stream = context.get_stream_no_info(replicas_stream()).await?;
    let subject = bucket_subject(REPLICAS_BUCKET, replica);
    let last = stream.get_last_raw_message_by_subject(&subject).await?;
    Ok((last.sequence == sequence).then(|| nanoseconds(last.time.unix_timestamp_nanos()) / 1_000_000))
}

/// The least by which this replica's clock is ahead of that of NATS (behind it, when negative), in milliseconds: NATS recorded
/// the heartbeat at some moment between its sending and its confirmation. However long that took, it makes no difference of
/// clocks where there is none.
fn offset_ms(Confirmed { sent, answered, .. }: Confirmed, recorded_ms: i64) -> i64 {
    let (least, most) = (sent.as_unix_ms() - recorded_ms, answered.as_unix_ms() - recorded_ms);
    if least > 0 { least } else { most.min(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_that_takes_long_is_no_difference_of_clocks() {
        let confirmed = |sent, answered| Confirmed {
            sent: Timestamp::from_unix_ms(sent),
            answered: Timestamp::from_unix_ms(answered),
            sequence: 1,
        };
        for (sent, received, recorded, offset) in [
            (1_000, 1_010, 1_005, 0),
            (1_000, 9_000, 1_001, 0),
            (1_000, 9_000, 8_999, 0),
            (5_000, 5_010, 1_000, 4_000),
            (1_000, 1_010, 5_000, -3_990),
        ] {
            assert_eq!(
                offset_ms(confirmed(sent, received), recorded),
                offset,
                "{sent} {received} {recorded}"
            );
        }
    }
}
