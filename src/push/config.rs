//! `[push]`: what all instances of one forebay must have in common for pushing.

use std::path::PathBuf;

/// The `[push]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The file with the key of the URLs of uploads; without it, forebay makes a key in the state directory.
    pub key_file: Option<PathBuf>,
}
