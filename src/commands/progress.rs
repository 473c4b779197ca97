//! Progress: a bar on stderr while something takes long, for people who look at it.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::audit::terminal::printable;

/// What is over sooner needs no bar.
const SHOW_AFTER: Duration = Duration::from_millis(300);

const LOOK: &str = "{percent:>3}% [{bar:40}] {human_pos} of {human_len}, {eta} to go";

/// How far something is. The bar is there on a terminal only, and goes with this value.
pub(super) struct Progress {
    bar: ProgressBar,
    /// When it comes, if it will.
    due: Cell<Option<Instant>>,
}

impl Progress {
    /// Over so many steps.
    pub(super) fn over(total: u64) -> Self {
        let progress = Self::hidden();
        progress.bar.set_length(total);
        if stderr().is_terminal() {
            progress.due.set(Some(Instant::now() + SHOW_AFTER));
        }
        progress
    }

    /// One that nobody wants to see.
    pub(super) fn hidden() -> Self {
        Self { bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()), due: Cell::new(None) }
    }

    /// It has come so far.
    pub(super) fn at(&self, step: u64) {
        if self.due.get().is_some_and(|due| due <= Instant::now()) {
            self.due.set(None);
            if let Ok(look) = ProgressStyle::with_template(LOOK) {
                self.bar.set_style(look);
            }
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(step);
    }

    /// It has come so far of what turned out to be so much.
    pub(super) fn at_of(&self, step: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
        }
        self.at(step);
    }

    /// Writes to the terminal without the bar in it.
    pub(super) fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Says a line. A stderr that nobody reads is no reason to stop.
    pub(super) fn note(&self, line: &str) {
        self.beside(|| {
            let _ = writeln!(stderr(), "{}", printable(line));
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
