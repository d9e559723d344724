//! Files and directories that the configuration names: where they are, and whether forebay can read them.
//!
//! forebay finds a file that it cannot read here, before it binds any socket, and not at the first request that needs
//! the file. The stage that reads the file checks its content.

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

/// The file that `key` names, as a path that is valid from any directory.
///
/// # Errors
/// The file does not exist, cannot be read, or is not a regular file.
pub(super) fn readable(document: &Document<'_>, key: &Key, path: &Path) -> Result<PathBuf, Error> {
    let written = path.to_string_lossy();
    let hint = match written.starts_with('~') || written.contains('$') {
        true => "; ~ and variables are not expanded here: write the whole path",
        false => "",
    };
    let path = document.resolve(key, path);
    let refuse = |why: String| document.error(key, format!("cannot read {}: {why}{hint}", path.display()));
    let metadata = fs::metadata(&path).map_err(|error| refuse(error.to_string()))?;
    // Checked before it is opened: opening a named pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file".to_owned()));
    }
    File::open(&path).map_err(|error| refuse(error.to_string()))?;
    Ok(path)
}

/// The total size in bytes of the file system that `directory` is on, or will be on.
pub(super) fn file_system_size(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|ancestor| ancestor.exists())?;
    let file_system = rustix::fs::statvfs(existing).ok()?;
    file_system.f_blocks.checked_mul(file_system.f_frsize)
}

/// What a directory is for, and where it is by default.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Cache,
    State,
}

/// The default place of a directory: the one of systemd (`CacheDirectory=`, `StateDirectory=`), the system's for root,
/// the user's own for other users (XDG Base Directory Specification).
pub(super) fn default_directory(purpose: Purpose) -> Option<PathBuf> {
    directory(purpose, |name| env::var_os(name), rustix::process::geteuid().is_root())
}

fn directory(purpose: Purpose, variable: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let (of_unit, of_root, of_user, below_home) = match purpose {
        Purpose::Cache => ("CACHE_DIRECTORY", "/var/cache/forebay", "XDG_CACHE_HOME", ".cache"),
        Purpose::State => ("STATE_DIRECTORY", "/var/lib/forebay", "XDG_STATE_HOME", ".local/state"),
    };
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    if let Some(directories) = variable(of_unit)
        && let Some(first) = env::split_paths(&directories).find_map(absolute)
    {
        return Some(first);
    }
    if root {
        return Some(PathBuf::from(of_root));
    }
    let of_user = variable(of_user).map(PathBuf::from).and_then(absolute);
    let of_home = || variable("HOME").map(PathBuf::from).and_then(absolute).map(|home| home.join(below_home));
    of_user.or_else(of_home).map(|directory| directory.join("forebay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_directories_are_where_the_user_may_write() {
        type Case = (Purpose, &'static [(&'static str, &'static str)], bool, Option<&'static str>);
        use Purpose::{Cache, State};
        let cases: [Case; 14] = [
            (Cache, &[("HOME", "/root")], true, Some("/var/cache/forebay")),
            (Cache, &[("HOME", "/root"), ("XDG_CACHE_HOME", "/x")], true, Some("/var/cache/forebay")),
            (Cache, &[("CACHE_DIRECTORY", "/var/cache/private/forebay")], true, Some("/var/cache/private/forebay")),
            (Cache, &[("CACHE_DIRECTORY", "/a:/b"), ("HOME", "/home/u")], false, Some("/a")),
            (Cache, &[("HOME", "/home/u")], false, Some("/home/u/.cache/forebay")),
            (Cache, &[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/x")], false, Some("/x/forebay")),
            (Cache, &[("HOME", "/home/u"), ("XDG_CACHE_HOME", "relative")], false, Some("/home/u/.cache/forebay")),
            (Cache, &[("HOME", "")], false, None),
            (Cache, &[], false, None),
            (State, &[("HOME", "/root"), ("XDG_STATE_HOME", "/x")], true, Some("/var/lib/forebay")),
            (State, &[("STATE_DIRECTORY", "/a:/b"), ("HOME", "/root")], true, Some("/a")),
            (State, &[("HOME", "/home/u"), ("CACHE_DIRECTORY", "/c")], false, Some("/home/u/.local/state/forebay")),
            (State, &[("HOME", "/home/u"), ("XDG_STATE_HOME", "/x")], false, Some("/x/forebay")),
            (State, &[("STATE_DIRECTORY", "relative")], false, None),
        ];
        for (purpose, variables, root, expected) in cases {
            let found = directory(
                purpose,
                |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
                root,
            );
            assert_eq!(found.as_deref(), expected.map(Path::new), "{purpose:?} {variables:?} root={root}");
        }
    }
}
