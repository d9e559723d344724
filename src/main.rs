//! The process: everything it does is in `cli`; this gives its exit code.

#![warn(unreachable_pub)]
#![deny(unsafe_code)]

mod cli;

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// This allocator returns free memory to the kernel within seconds, by threads of its own. The C library's allocator
/// keeps it: after twenty minutes of mixed load it held four times the memory in use, and went on growing.
/// `.cargo/config.toml` configures this one.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
