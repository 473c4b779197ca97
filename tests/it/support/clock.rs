//! A clock that is wrong: a library that a process is started with, and that moves the time of day which the process is told.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::Spec;

/// Moves the time of day alone: durations are measured by another clock.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    const char *ahead = getenv("CLOCK_AHEAD_SECONDS");
    if (!failed && clock == CLOCK_REALTIME && ahead)
        time->tv_sec += atol(ahead);
    return failed;
}
"#;

/// The library, as long as this value lives.
pub struct WrongClock {
    folder: TempDir,
}

impl WrongClock {
    /// Compiles it, with the compiler that Rust links with.
    pub fn compile() -> Self {
        let folder = tempfile::Builder::new().prefix("tidings-clock-").tempdir().unwrap();
        let source = folder.path().join("clock.c");
        fs::write(&source, SOURCE).unwrap();
        let clock = Self { folder };
        let output =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(clock.library()).arg(&source).output();
        let output = output.expect("there is a C compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        clock
    }

    fn library(&self) -> std::path::PathBuf {
        self.folder.path().join("clock.so")
    }

    /// A replica whose clock is ahead by so many seconds, or behind.
    pub fn ahead(&self, spec: Spec, seconds: i64) -> Spec {
        spec.with_variable("LD_PRELOAD", self.library().to_str().unwrap())
            .with_variable("CLOCK_AHEAD_SECONDS", &seconds.to_string())
    }
}
