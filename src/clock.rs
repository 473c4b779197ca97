//! Now and new ids: the only place that asks the system for either.

use uuid::Uuid;

use crate::domain::Timestamp;

/// A source of time and of ids that never repeat. Everything else gets both as arguments.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// A new UUIDv7: unique, and ordered by time within one clock.
    fn new_id(&self) -> Uuid;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place that may")]
    fn now(&self) -> Timestamp {
        let ns = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
        Timestamp::from_unix_ns(i64::try_from(ns).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place that may")]
    fn new_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}
