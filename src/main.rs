//! The `tidings` binary: everything is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Messages are made on one thread and dropped on another, each of them some dozens of small allocations: with glibc's
/// allocator the two wait for each other, and an auditor needs half as much of the processor again (measured over 200,000
/// events).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    tidings::commands::run()
}
