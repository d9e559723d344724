//! `[access]`: who may pull.

use std::path::PathBuf;

/// The `[access]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub anonymous: Anonymous,
    /// bcrypt lines; present: these users may pull.
    pub htpasswd: Option<PathBuf>,
}

/// What somebody without credentials may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Pull,
    None,
}
