//! Users of forebay, and the credentials that clients send.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;

use crate::fake_registry::FakeRegistry;

/// The value of an Authorization header with a user and a password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A directory with `htpasswd`, in which `ann` has the password `secret`.
pub fn with_users() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_users(&directory, &[("ann", "secret")]);
    directory
}

/// Writes `htpasswd` with these users and passwords.
pub fn write_users(directory: &TempDir, users: &[(&str, &str)]) {
    let line = |(user, password): &(&str, &str)| format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap());
    fs::write(directory.path().join("htpasswd"), users.iter().map(line).collect::<String>()).unwrap();
}

/// The configuration of a mirror of this registry with these users.
pub fn configuration(registry: &FakeRegistry, users: &TempDir, anonymous: &str) -> String {
    format!(
        "[access]\nanonymous = \"{anonymous}\"\nhtpasswd = \"{}\"\n\
         [[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n",
        users.path().join("htpasswd").display(),
        registry.url()
    )
}
