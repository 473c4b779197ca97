//! Crash points: named places where a test ends the process as a power cut would. Release builds have none.

use strum::{Display, EnumIter, EnumString};

/// A place between two steps that a crash may fall between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumIter, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum CrashPoint {
    /// An event was decided, and not sent to the log.
    BeforeAppend,
    /// The log has the event, and it is not confirmed.
    AfterAppend,
    /// A batch was read, and not folded.
    BeforeApply,
    /// The store has what was folded; whoever is told of it has been told, or not.
    AfterApply,
    /// A command was accepted, and is not in the outbox.
    BeforeOutboxWrite,
    /// The outbox has a command, and it is not confirmed.
    AfterOutboxWrite,
    /// An entry of the outbox was not sent to the log.
    BeforeRelay,
    /// The log has an entry, and the outbox still has it.
    AfterRelay,
    /// The log is about to be asked for a sign of life.
    BeforeProbe,
    /// Acknowledgements were taken from the queue, and nothing was done about them.
    BeforeCommit,
    /// Acknowledgements of what is not in memory are about to be looked up.
    BeforeAckLookup,
    /// The log is about to be asked about acknowledgements of broadcasts that are not known.
    BeforeHeadLookup,
    /// A shard is about to take a connection in.
    BeforeAttach,
}

/// Names the point at which the process ends, and at which time of reaching it: `after_append:3`.
pub const VARIABLE: &str = "TIDINGS_CRASH_AT";

/// The same for a point at which the task panics, and the process lives on.
pub const PANIC_VARIABLE: &str = "TIDINGS_PANIC_AT";

impl CrashPoint {
    /// Ends the process, by SIGKILL, if this is where it was to end; panics, if this is where a task was to panic.
    #[cfg(debug_assertions)]
    ///
    /// # Panics
    ///
    /// When a test asked for it with [`PANIC_VARIABLE`].
    pub fn reached(self) {
        use rustix::process::{Signal, getpid, kill_process};

        static ENDS: Armed = Armed::new();
        static PANICS: Armed = Armed::new();
        if ENDS.is_reached(VARIABLE, self) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
        assert!(!PANICS.is_reached(PANIC_VARIABLE, self), "a test asked for a panic at {self}");
    }

    /// Nothing: release builds do not ask.
    #[cfg(not(debug_assertions))]
    pub const fn reached(self) {}
}

/// The point that a variable names, and how often it is still to be passed.
#[cfg(debug_assertions)]
struct Armed(std::sync::OnceLock<Option<(CrashPoint, std::sync::atomic::AtomicU64)>>);

#[cfg(debug_assertions)]
impl Armed {
    const fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    fn is_reached(&self, variable: &str, here: CrashPoint) -> bool {
        let armed = self.0.get_or_init(|| {
            let named = std::env::var(variable).ok()?;
            let (point, times) = named.split_once(':').unwrap_or((&named, "1"));
            Some((point.parse().ok()?, times.parse::<u64>().ok()?.into()))
        });
        let Some((point, left)) = armed else { return false };
        *point == here && left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1
    }
}
