//! `state_directory`: where forebay keeps its keys, and what else must outlive the cache.
//!
//! What must hold: it is not in the cache directory, whose content may be removed at any time.

use std::path::{Path, PathBuf};

use super::{
    document::Document,
    error::{Error, Key},
    paths,
};

/// What needs a place that outlives the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    PushKey,
    FirstSeen,
}

/// The directory that the file names, or the user's own; `None`: no feature needs one.
pub(super) fn read(
    document: &Document<'_>,
    configured: Option<PathBuf>,
    cache: &Path,
    need: Option<Need>,
) -> Result<Option<PathBuf>, Error> {
    let key = Key::new("state_directory");
    let is_configured = configured.is_some();
    // A cache directory that was refused is nowhere.
    if cache.as_os_str().is_empty() || document.is_refused(&Key::new("push")) {
        return Ok(None);
    }
    let directory = match configured {
        Some(path) if path.as_os_str().is_empty() => return Err(document.error(&key, "must not be empty")),
        Some(path) => Some(document.resolve(&key, &path)),
        None => paths::default_directory(paths::Purpose::State),
    };
    match directory {
        // A mirror without keys does not need the default directory.
        Some(directory) if directory.starts_with(cache) && !is_configured && need.is_none() => Ok(None),
        Some(directory) if directory.starts_with(cache) => {
            Err(document
                .error(&key, format!("must not be in the cache directory, {}: keys are no cache", cache.display())))
        }
        Some(directory) => Ok(Some(directory)),
        None => match need {
            None => Ok(None),
            Some(Need::PushKey) => Err(document.error(
                &key,
                "must be given, or push.key_file: this user has no home directory, and pushes need a key that is kept",
            )),
            Some(Need::FirstSeen) => Err(document.error(
                &key,
                "must be given: this user has no home directory, and rules with minimum_age or freeze keep the times \
                 when tags were first seen",
            )),
        },
    }
}
