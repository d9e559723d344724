//! The integration tests: one binary, a file per stage, named like its source.

mod config;
mod support;
mod upstream;
