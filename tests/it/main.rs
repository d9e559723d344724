//! The integration tests: one binary, a file per stage, named like its source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]

mod access;
mod access_e2e;
mod admin;
mod answers;
mod cli;
mod config;
mod forward;
mod freshness;
mod manifests;
mod negative;
mod reload;
mod routing;
mod server_drain;
mod server_limits;
mod server_protocol;
mod server_silence;
mod server_stall;
mod server_support;
mod server_tls;
mod support;
mod tags;
mod upstream;
