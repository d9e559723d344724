//! `[access]`: who may pull.

use std::path::PathBuf;

/// The `[access]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub anonymous: Anonymous,
    /// bcrypt lines; present: these users may pull.
    pub htpasswd: Option<PathBuf>,
    /// Passwords are taken over clear HTTP, too.
    pub allow_clear_login: bool,
}

/// What somebody without credentials may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Pull,
    None,
}
