//! The pace of long work beside everything else.

use std::thread;
use std::time::Instant;

/// How much of the processor sealing takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As much as there is: everything else waits for it.
    Full,
    /// A third of a core at most, so that a replica with one core serves its clients meanwhile.
    Third,
}

impl Pace {
    /// Does a step of some milliseconds, and rests for twice as long after it where that is the pace.
    pub(super) fn step<T>(self, step: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = step();
        if self == Self::Third {
            thread::sleep(begun.elapsed() * 2);
        }
        done
    }
}
