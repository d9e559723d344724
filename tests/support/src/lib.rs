//! What the integration tests, the tests with real programs and the benches share.
//!
//! `fake_registry` and `internet` are upstreams within the test's process; `mirror` runs forebay there, `program` runs the
//! real program; `real` starts other real programs: registries, container engines, clients.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]
#![allow(clippy::new_without_default, reason = "a registry or an authority starts by a call that says so")]

pub mod bench;
pub mod blob;
pub mod cluster;
pub mod control;
pub mod fake_registry;
pub mod fake_s3;
pub mod internet;
pub mod layout;
pub mod manifest;
pub mod mirror;
mod partial_map;
pub mod program;
pub mod raw;
pub mod real;
pub mod test_ca;
pub mod test_server;
pub mod until;
pub mod uploads;
pub mod users;
pub mod wire;
