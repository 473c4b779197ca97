//! Crash points: named places where a test ends the process as a power cut would. Release builds have none.

use strum::{Display, EnumIter, EnumString};

/// A place between two steps that a crash may fall between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumIter, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum CrashPoint {
    /// An event was decided, and not sent to the log.
    BeforeAppend,
    /// The log has the event, and nobody was told.
    AfterAppend,
    /// A batch was read, and not folded.
    BeforeApply,
    /// The store has what was folded; whoever is told of it has been told, or not.
    AfterApply,
    /// A command was accepted, and is not in the outbox.
    BeforeOutboxWrite,
    /// The outbox has a command, and nobody was told.
    AfterOutboxWrite,
    /// An entry of the outbox was not sent to the log.
    BeforeRelay,
    /// The log has an entry, and the outbox still has it.
    AfterRelay,
}

/// Names the point at which the process ends, and at which time of reaching it: `after_append:3`.
pub const VARIABLE: &str = "TIDINGS_CRASH_AT";

impl CrashPoint {
    /// Ends the process, by SIGKILL, if this is where it was to end.
    #[cfg(debug_assertions)]
    pub fn reached(self) {
        use std::sync::OnceLock;
        use std::sync::atomic::{AtomicU64, Ordering};

        use rustix::process::{Signal, getpid, kill_process};

        static ARMED: OnceLock<Option<(CrashPoint, AtomicU64)>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| {
            let named = std::env::var(VARIABLE).ok()?;
            let (point, times) = named.split_once(':').unwrap_or((&named, "1"));
            Some((point.parse().ok()?, AtomicU64::new(times.parse().ok()?)))
        });
        if let Some((point, left)) = armed
            && *point == self
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    /// Nothing: release builds do not ask.
    #[cfg(not(debug_assertions))]
    pub const fn reached(self) {}
}
