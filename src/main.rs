//! The `tidings` binary: everything is in the library.

use std::ffi::c_long;
use std::process::ExitCode;

use libmimalloc_sys::{mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

/// Messages are made on one thread and dropped on another, each of them some dozens of small allocations: with glibc's
/// allocator the two wait for each other, and an auditor needs half as much of the processor again (measured over 200,000
/// events).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2, which its bindings do not name.
const PURGE_DELAY: mi_option_t = 15;

/// Pages that nothing is in any more go back to the system after so many milliseconds. By default they wait for ten, and when
/// a replica has become idle by then, for ever: what thousands of handshakes took stays with it (some 4 MiB, measured after
/// 15,000 of them, 256 at a time).
const PURGED_AFTER_MS: c_long = 1;

fn main() -> ExitCode {
    keep_no_empty_pages();
    tidings::commands::run()
}

#[expect(unsafe_code, reason = "the allocator has no other way to be told")]
fn keep_no_empty_pages() {
    // SAFETY: it sets a number, in memory of the allocator's own that exists from the start, and no other thread runs yet.
    unsafe { mi_option_set(PURGE_DELAY, PURGED_AFTER_MS) };
}
