//! The trace: what happened, in order, in virtual time. Two runs of one seed are told apart by it.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

#[derive(Clone)]
pub struct Trace {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    pub fn begin() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }

    pub fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.began.elapsed().as_millis();
        self.lines.lock().unwrap().push(format!("{at:>6} {what}"));
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// In the order of time, and of the words where that is the same: what happens at one moment has no order, since tokio wakes
/// those who wait for one thing in an order of its own.
pub fn ordered(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
