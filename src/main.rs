//! The process: everything it does is in `cli`; this gives its exit code.

#![warn(unreachable_pub)]
#![deny(unsafe_code)]

mod cli;

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// It gives back what is free within seconds, by threads of its own. The C library's keeps it: after twenty minutes of mixed
/// load it had four times what was in use, and went on growing. How it is set up: `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
