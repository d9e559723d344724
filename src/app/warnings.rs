//! What the operator is told at the start and at a reload.

use std::{fs::File, path::Path};

use crate::{auth, config::Config, transport::zero_copy::file_system::Pages, upstream};

/// Whether the kernel can send cached blobs without a copy depends on the file system of the cache.
pub(super) fn tell_zero_copy(cache: &Path) {
    // Any file will do; this one is always there.
    match File::open(cache.join("CACHEDIR.TAG")).and_then(|file| Pages::of(&file)) {
        Ok(pages) => tracing::info!(path = %cache.display(), zero_copy = %pages, "the cache directory was probed"),
        Err(error) => tracing::warn!(path = %cache.display(), %error, "the cache directory cannot be probed"),
    }
}

/// Content that was cached while an upstream had access = "shared" stays readable to all clients: nothing records which blobs
/// those are.
pub(super) fn warn_of_open_content(config: &Config) {
    for upstream in config.upstreams.iter().filter(|upstream| upstream.access != upstream::Access::Shared) {
        let tags = config.cache.directory.join("tags").join(&*upstream.name);
        if tags.exists() {
            tracing::warn!(
                upstream = %upstream.name,
                tags = %tags.display(),
                "content that was cached before this upstream had access = \"client\" can still be pulled by its digest, by any \
                 client: to prevent that, stop forebay and remove blobs, manifests and tags from the cache directory"
            );
        }
    }
}

/// An unknown user in `push_users` cannot push, but does not keep other users from pulling.
pub(super) fn warn_of_push_users(config: &Config) {
    if let Err(error) = auth::check_push_users(&config.access) {
        tracing::warn!(error = &error as &dyn std::error::Error, "access.push_users names a user who cannot push");
    }
}
