//! `[download]`: what forebay downloads into the cache.

use serde::Deserialize;

use crate::cache::download::Complete;

/// The keys of `[download]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DownloadSection {
    complete: Whole,
}

/// When a range of a large blob brings all of it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Whole {
    Always,
    #[default]
    WhenHalf,
    Never,
}

impl DownloadSection {
    pub(super) fn complete(&self) -> Complete {
        match self.complete {
            Whole::Always => Complete::Always,
            Whole::WhenHalf => Complete::WhenHalf,
            Whole::Never => Complete::Never,
        }
    }
}
