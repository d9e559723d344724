//! What the integration tests share.

pub mod fake_registry;
pub mod test_ca;
