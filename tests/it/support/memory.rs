//! How much memory a process takes.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// Runs a command to its end, which must be a good one, and returns the most memory that it had, in KiB, as Linux counts it.
pub fn peak_kib(command: &mut Command) -> u64 {
    let mut child = command.spawn().unwrap();
    // Whoever reads what it writes must see it end.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut peak = 0;
    loop {
        // It counts the most so far, so that only what comes after the last look is missed.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{command:?}: {ended}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
