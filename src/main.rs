//! The `tidings` binary: everything is in the library, but for the allocator.

mod allocator;

use std::process::ExitCode;

use allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    Allocator::keep_no_empty_pages();
    tidings::commands::run()
}
