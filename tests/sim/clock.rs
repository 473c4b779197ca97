//! The clock of a simulated replica: virtual time, a little off, and ids that follow from it.

use std::sync::atomic::{AtomicU64, Ordering};

use tidings::clock::Clock;
use tidings::domain::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

/// When every run begins: 2026-01-01T00:00:00Z.
const BEGINNING_MS: i64 = 1_767_225_600_000;

pub struct VirtualClock {
    began: Instant,
    /// How far it is off.
    skew_ms: i64,
    /// What no other clock of the run has in its ids.
    name: u16,
    made: AtomicU64,
}

impl VirtualClock {
    pub fn new(began: Instant, skew_ms: i64, name: u16) -> Self {
        Self { began, skew_ms, name, made: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> i64 {
        BEGINNING_MS + self.skew_ms + i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.now_ms())
    }

    fn new_id(&self) -> Uuid {
        let mut rest = [0; 10];
        rest[..8].copy_from_slice(&self.made.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        rest[8..].copy_from_slice(&self.name.to_be_bytes());
        let at = u64::try_from(self.now_ms()).unwrap();
        uuid::Builder::from_unix_timestamp_millis(at, &rest).into_uuid()
    }

    fn new_salt(&self) -> Uuid {
        self.new_id()
    }
}
