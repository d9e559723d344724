//! What the integration tests share.

pub mod blob;
pub mod fake_registry;
pub mod internet;
pub mod mirror;
pub mod program;
pub mod raw;
pub mod test_ca;
pub mod test_server;
pub mod until;
pub mod uploads;
pub mod wire;
