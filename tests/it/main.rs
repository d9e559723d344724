//! The integration tests: one binary, a file per stage, named like its source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]

mod blob_errors;
mod blobs;
mod cli;
mod coalesce;
mod config;
mod corrupt;
mod disk;
mod drain;
mod eviction;
mod ranges;
mod restart;
mod resume;
mod stress;
mod support;
mod upstream;
