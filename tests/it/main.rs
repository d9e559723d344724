//! The integration tests: one binary, a file per stage, named like its source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]

mod access;
mod access_e2e;
mod admin;
mod answers;
mod blob_errors;
mod blobs;
mod cli;
mod client_access;
mod coalesce;
mod config;
mod corrupt;
mod delivery;
mod dialects;
mod disk;
mod drain;
mod eviction;
mod forward;
mod freshness;
mod lanes;
mod leftovers;
mod lists;
mod manifests;
mod negative;
mod prefetch;
mod push;
mod ranges;
mod referrers;
mod reload;
mod restart;
mod resume;
mod routing;
mod scrub;
mod server_drain;
mod server_limits;
mod server_protocol;
mod server_silence;
mod server_stall;
mod server_support;
mod server_tls;
mod slow_disk;
mod stress;
mod support;
mod tags;
mod upstream;
