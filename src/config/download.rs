//! `[download]`: what forebay downloads into the cache.

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
};
use crate::cache::download::Complete;

/// The keys of `[download]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DownloadSection {
    complete: Option<String>,
}

impl DownloadSection {
    /// When a range of a large blob brings all of it.
    pub(super) fn complete(self, document: &Document<'_>) -> Result<Complete, Error> {
        match self.complete.as_deref() {
            None => Ok(Complete::default()),
            Some("always") => Ok(Complete::Always),
            Some("when-half") => Ok(Complete::WhenHalf),
            Some("never") => Ok(Complete::Never),
            Some(_) => Err(document.error(
                &Key::new("download").field("complete"),
                "must be \"always\", \"when-half\" or \"never\": when a range of a large blob brings all of it",
            )),
        }
    }
}
