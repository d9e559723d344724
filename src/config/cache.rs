//! `[cache]`: where forebay keeps content, how much of it, and for how long it trusts it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
    paths,
    units::{Period, Size},
};
use crate::cache::Config;

/// A client downloads three layers at a time, or a few more.
const MAX_PREFETCH: usize = 16;

/// The keys of `[cache]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CacheSection {
    directory: Option<PathBuf>,
    max_size: Option<Size>,
    min_free: Option<Size>,
    manifest_memory: Option<Size>,
    tag_ttl: Option<Period>,
    stale_if_error: Option<Period>,
    negative_ttl: Option<Period>,
    prefetch: Option<u64>,
    verify_every: Option<Period>,
}

impl CacheSection {
    pub(super) fn read(
        self,
        document: &Document<'_>,
        directory_flag: Option<PathBuf>,
        max_size_flag: Option<u64>,
    ) -> Config {
        let (section, defaults) = (Key::new("cache"), Config::default());
        let size = |given: Option<Size>, default| given.map_or(default, |Size(bytes)| bytes);
        let period = |given: Option<Period>, default| given.map_or(default, |Period(period)| period);
        let max_size_key = if max_size_flag.is_some() { Key::new("--max-size") } else { section.field("max_size") };
        let config = Config {
            directory: document
                .keep(directory(
                    document,
                    &section.field("directory"),
                    directory_flag.as_deref(),
                    self.directory.as_deref(),
                ))
                .unwrap_or_default(),
            max_size: max_size_flag.unwrap_or_else(|| size(self.max_size, defaults.max_size)),
            min_free: size(self.min_free, defaults.min_free),
            manifest_memory: size(self.manifest_memory, defaults.manifest_memory),
            tag_ttl: period(self.tag_ttl, defaults.tag_ttl),
            stale_if_error: period(self.stale_if_error, defaults.stale_if_error),
            negative_ttl: period(self.negative_ttl, defaults.negative_ttl),
            prefetch: document
                .keep(prefetch(document, &section.field("prefetch"), self.prefetch))
                .flatten()
                .unwrap_or(defaults.prefetch),
            verify_every: period(self.verify_every, defaults.verify_every),
            ..defaults
        };
        if config.max_size == 0 {
            document.refuse(&max_size_key, "must be more than 0: nothing could be kept");
        }
        // A value in the file is refused. The default only leaves a small disk without a cache.
        if let Some(Size(min_free)) = self.min_free
            && let Some(total) = paths::file_system_size(&config.directory)
            && min_free >= total
        {
            let directory = config.directory.display();
            document.refuse(
                &section.field("min_free"),
                format!("must be less than the file system of {directory} has: {total} bytes"),
            );
        }
        config
    }
}

/// The directory that the flag or the file names, or the default one.
fn directory(
    document: &Document<'_>,
    key: &Key,
    flag: Option<&Path>,
    configured: Option<&Path>,
) -> Result<PathBuf, Error> {
    match (flag, configured) {
        (Some(flag), _) => Ok(flag.to_owned()),
        (None, Some(path)) if path.as_os_str().is_empty() => Err(document.error(key, "must not be empty")),
        (None, Some(path)) => Ok(document.resolve(key, path)),
        (None, None) => paths::default_directory(paths::Purpose::Cache)
            .ok_or_else(|| document.error(key, "must be given (or --cache-dir): this user has no home directory")),
    }
}

fn prefetch(document: &Document<'_>, key: &Key, layers: Option<u64>) -> Result<Option<usize>, Error> {
    let Some(layers) = layers else { return Ok(None) };
    match usize::try_from(layers) {
        Ok(layers) if layers <= MAX_PREFETCH => Ok(Some(layers)),
        Ok(_) | Err(_) => Err(document.error(
            key,
            format!(
                "must be 0 to {MAX_PREFETCH}: how many layers of one image are fetched before clients request them"
            ),
        )),
    }
}
