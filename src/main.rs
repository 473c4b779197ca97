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

/// Options of mimalloc 3 that its bindings do not name, and what they are set to. The allocator keeps pages that nothing is in any
/// more: some of each size of block, and others for ten milliseconds, which is for ever when the replica has become idle by
/// then. What thousands of handshakes took would stay with it (some 4 MiB, measured after 15,000 of them, 256 at a time).
const KEEP_NO_EMPTY_PAGES: [(mi_option_t, c_long); 2] = [
    // mi_option_purge_delay, in milliseconds.
    (15, 1),
    // mi_option_page_full_retain.
    (36, 0),
];

fn main() -> ExitCode {
    keep_no_empty_pages();
    tidings::commands::run()
}

#[expect(unsafe_code, reason = "the allocator has no other way to be told")]
fn keep_no_empty_pages() {
    for (option, value) in KEEP_NO_EMPTY_PAGES {
        // SAFETY: it sets a number, in memory of the allocator's own that exists from the start, and no other thread runs yet.
        unsafe { mi_option_set(option, value) };
    }
}
