//! Files and directories the configuration names: where they are, and whether they can be read.
//!
//! A file that cannot be read is found here, before any socket is bound, rather than by the first
//! request that needs it. What is in the file is the business of the stage that reads it.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    document::Document,
    error::{Error, Key},
};

/// The file that `key` names, by a path that is good from any directory.
///
/// # Errors
/// It is not there, may not be read, or is no file.
pub fn readable(document: &Document<'_>, key: &Key, path: &Path) -> Result<PathBuf, Error> {
    let path = document.resolve(path);
    let refuse = |why: String| document.error(key, format!("cannot read {}: {why}", path.display()));
    let metadata = fs::metadata(&path).map_err(|error| refuse(error.to_string()))?;
    // Looked at before it is opened: opening a named pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file".to_owned()));
    }
    File::open(&path).map_err(|error| refuse(error.to_string()))?;
    Ok(path)
}

/// How many bytes the file system that `directory` is on, or will be on, has in all.
pub fn file_system_size(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|ancestor| ancestor.exists())?;
    let file_system = rustix::fs::statvfs(existing).ok()?;
    file_system.f_blocks.checked_mul(file_system.f_frsize)
}

/// Where the cache is when nobody says: systemd's `CacheDirectory=`, the system's cache for root,
/// the user's own for everybody else (XDG Base Directory Specification).
pub fn default_cache_directory() -> Option<PathBuf> {
    cache_directory(|name| env::var_os(name), rustix::process::geteuid().is_root())
}

fn cache_directory(variable: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    if let Some(directories) = variable("CACHE_DIRECTORY")
        && let Some(first) = env::split_paths(&directories).find_map(absolute)
    {
        return Some(first);
    }
    if root {
        return Some(PathBuf::from("/var/cache/forebay"));
    }
    let of_user = variable("XDG_CACHE_HOME").map(PathBuf::from).and_then(absolute);
    let of_home = || variable("HOME").map(PathBuf::from).and_then(absolute).map(|home| home.join(".cache"));
    of_user.or_else(of_home).map(|caches| caches.join("forebay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cache_directory_is_where_the_user_may_write() {
        type Case = (&'static [(&'static str, &'static str)], bool, Option<&'static str>);
        let cases: [Case; 9] = [
            (&[("HOME", "/root")], true, Some("/var/cache/forebay")),
            (&[("HOME", "/root"), ("XDG_CACHE_HOME", "/x")], true, Some("/var/cache/forebay")),
            (&[("CACHE_DIRECTORY", "/var/cache/private/forebay")], true, Some("/var/cache/private/forebay")),
            (&[("CACHE_DIRECTORY", "/a:/b"), ("HOME", "/home/u")], false, Some("/a")),
            (&[("HOME", "/home/u")], false, Some("/home/u/.cache/forebay")),
            (&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/x")], false, Some("/x/forebay")),
            (&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "relative")], false, Some("/home/u/.cache/forebay")),
            (&[("HOME", "")], false, None),
            (&[], false, None),
        ];
        for (variables, root, expected) in cases {
            let found = cache_directory(
                |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
                root,
            );
            assert_eq!(found.as_deref(), expected.map(Path::new), "{variables:?} root={root}");
        }
    }
}
