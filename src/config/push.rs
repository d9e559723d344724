//! `[push]`: what all instances of one forebay must have in common for pushes.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
    paths,
};
use crate::push::Config;

/// The keys of `[push]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PushSection {
    key_file: Option<PathBuf>,
}

impl PushSection {
    pub(super) fn read(self, document: &Document<'_>) -> Result<Config, Error> {
        let key = Key::new("push").field("key_file");
        let key_file = self.key_file.map(|path| paths::readable(document, &key, &path)).transpose()?;
        Ok(Config { key_file })
    }
}
