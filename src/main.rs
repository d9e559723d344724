//! The process: everything it does is in `cli`; this gives its exit code.

#![deny(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
