//! The integration tests: one binary, a file per stage, named like its source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]

mod cli;
mod config;
mod support;
mod upstream;
