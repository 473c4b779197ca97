//! Now, new ids and salts: the only place that asks the system for any of them.

use uuid::Uuid;

use crate::domain::Timestamp;

/// A source of time, of ids that never repeat, and of randomness. Everything else gets them as arguments.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// A new UUIDv7: unique, and ordered by time within one clock.
    fn new_id(&self) -> Uuid;

    /// A new UUIDv4: 122 bits that nobody can guess.
    fn new_salt(&self) -> Uuid;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// 32 bytes that nobody can guess, to make a key of.
    pub fn new_seed() -> anyhow::Result<[u8; 32]> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
        Ok(seed)
    }

    /// 64 bits that nobody can guess.
    pub fn random_bits() -> anyhow::Result<u64> {
        getrandom::u64().map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place that may")]
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(jiff::Timestamp::now().as_millisecond())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place that may")]
    fn new_id(&self) -> Uuid {
        Uuid::now_v7()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place that may")]
    fn new_salt(&self) -> Uuid {
        Uuid::new_v4()
    }
}
