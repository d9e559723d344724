//! The state directory: keys and other state that must outlive the cache.
//!
//! What must hold: it is created when it is first needed, with access for its user only; a directory with other files is not
//! changed. A file that an earlier version kept in the cache directory is moved once, and never lost.

use std::{
    fs::{self, DirBuilder, File, Metadata, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};

/// All files of forebay here, with the names they have while they are written.
const FILES: [&str; 21] = [
    "push.key",
    "push.key.new",
    DELETED,
    "deleted.new",
    FIRST_SEEN,
    "first-seen.new",
    FIRST_SEEN_DAMAGED,
    "first-seen.damaged.new",
    IMAGES,
    "images.new",
    IMAGES_DAMAGED,
    "images.damaged.new",
    PINS,
    "pins.new",
    CONTROL_SOCKET,
    STORE_UPLOADS,
    "store-uploads.new",
    STORE_REMOVALS,
    "store-removals.new",
    STORE_HELD_BACK,
    "store-held-back.new",
];
/// The blobs and manifests deleted lately through forebay.
pub(crate) const DELETED: &str = "deleted";
/// What tags that a rule holds were seen to name, and since when.
pub(crate) const FIRST_SEEN: &str = "first-seen";
/// The same, as it was when it could not be read.
pub(crate) const FIRST_SEEN_DAMAGED: &str = "first-seen.damaged";
/// How the images in the cache were used.
pub(crate) const IMAGES: &str = "images";
/// The same, as it was when it could not be read.
pub(crate) const IMAGES_DAMAGED: &str = "images.damaged";
/// Which images an operator has pinned.
pub(crate) const PINS: &str = "pins";
/// The control socket, if it is here.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
/// The uploads to the object store that are under way.
pub(crate) const STORE_UPLOADS: &str = "store-uploads";
/// What is still to be removed from the object store.
pub(crate) const STORE_REMOVALS: &str = "store-removals";
/// Of which contents on disk some must not be in the object store.
pub(crate) const STORE_HELD_BACK: &str = "store-held-back";
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use {path} for forebay's keys")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a directory; give forebay one for its keys")]
    NotDirectory { path: PathBuf },
}

impl Error {
    /// Whether a retry cannot help.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::NotDirectory { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::AlreadyExists
            ),
        }
    }
}

/// A directory in use: other processes wait for it until this is dropped.
pub(crate) struct StateDirectory {
    path: PathBuf,
    _turn: Option<File>,
}

/// Checks that `path` may be the state directory, and changes nothing.
///
/// # Errors
/// It is no directory.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(Error::NotDirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(Error::Io { path: path.to_owned(), source: error })
        }
        // `serve` creates a missing one; one that this user may not see may be right for another user.
        Ok(_) | Err(_) => Ok(()),
    }
}

impl StateDirectory {
    /// Creates the directory if it is missing. Blocks.
    ///
    /// # Errors
    /// It cannot be created, or is no directory.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        check(path)?;
        let failed = |source| Error::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let metadata = fs::metadata(path).map_err(failed)?;
        close(path, &metadata).map_err(failed)?;
        // Some network file systems lock no directory; two processes that start at once may then create different keys.
        let turn = File::open(path).ok().filter(|file| flock(file, FlockOperation::LockExclusive).is_ok());
        Ok(Self { path: path.to_owned(), _turn: turn })
    }

    /// The path of a file, which need not exist.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file, up to `most` bytes; empty if there is none. Blocks.
    pub(crate) fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        match read_up_to(&self.file(name), most) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Writes a file atomically, for this user only. Blocks.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.new"));
        // A kill may have left one.
        let _ = fs::remove_file(&temporary);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    /// Moves a file here that an earlier version kept in another directory. A file that is here already stays. Blocks.
    ///
    /// It is copied, synced, then removed there: a kill in between leaves both, and the next start removes the old one.
    pub(crate) fn take_over(&self, name: &str, from: &Path) -> io::Result<()> {
        let old = from.join(name);
        let content = match read(&old) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let new = self.file(name);
        // One directory under two names, by a link for example: to remove the old file would lose the only one.
        if is_same_file(&old, &new) {
            return Ok(());
        }
        if !new.exists() {
            self.write(name, &content)?;
            tracing::info!(from = %old.display(), to = %new.display(), "moved out of the cache");
        } else if read(&new)? != content {
            tracing::warn!(
                used = %new.display(), unused = %old.display(),
                "there are two different files of this name; the one in the cache is not used, remove it"
            );
            return Ok(());
        }
        if let Err(error) = fs::remove_file(&old) {
            tracing::warn!(path = %old.display(), %error, "cannot remove what was moved out of the cache");
        }
        Ok(())
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    identity(one).is_some_and(|file| identity(other) == Some(file))
}

/// Takes the permissions of others from a directory of forebay's alone.
fn close(path: &Path, metadata: &Metadata) -> io::Result<()> {
    if metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let mut others = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        others.extend((!name.to_str().is_some_and(|name| FILES.contains(&name))).then_some(name));
    }
    if others.is_empty() && fs::set_permissions(path, Permissions::from_mode(metadata.mode() & 0o700)).is_ok() {
        return Ok(());
    }
    tracing::warn!(
        path = %path.display(), mode = format!("{:o}", metadata.mode() & 0o7777),
        "other users may use state_directory; give forebay one of its own, of mode 700"
    );
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, MAX_FILE)
}

fn read_up_to(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let mut content = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, most), &mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_of_the_cache_is_moved_once_and_a_later_one_left() {
        let (cache, above) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = above.path().join("a/state");
        let old = cache.path().join("push.key");
        for (in_cache, expected, left) in [
            (None, None, false),
            (Some("one"), Some("one"), false),
            // A kill after the copy.
            (Some("one"), Some("one"), false),
            (Some("two"), Some("one"), true),
        ] {
            if let Some(text) = in_cache {
                fs::write(&old, text).unwrap();
            }
            let state = StateDirectory::open(&path).unwrap();
            state.take_over("push.key", cache.path()).unwrap();
            assert_eq!(fs::read_to_string(state.file("push.key")).ok().as_deref(), expected);
            assert_eq!(old.exists(), left);
        }
        assert_eq!((mode(&path), mode(&path.join("push.key"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_link_in_the_cache_is_not_followed() {
        let (cache, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(cache.path().join("other"), "theirs").unwrap();
        std::os::unix::fs::symlink("other", cache.path().join("push.key")).unwrap();
        let state = StateDirectory::open(state.path()).unwrap();
        state.take_over("push.key", cache.path()).unwrap_err();
        assert!(!state.file("push.key").exists() && cache.path().join("other").exists());
    }

    #[test]
    fn only_a_directory_of_its_own_is_closed_to_others() {
        for (files, expected) in [(&[][..], 0o700), (&["push.key"], 0o700), (&["push.key", "passwd"], 0o755)] {
            let directory = tempfile::tempdir().unwrap();
            fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
            for name in files {
                fs::write(directory.path().join(name), "text").unwrap();
            }
            StateDirectory::open(directory.path()).unwrap();
            assert_eq!(mode(directory.path()), expected, "{files:?}");
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("state")] {
            check(&path).unwrap_err();
            assert!(StateDirectory::open(&path).is_err());
        }
        check(&directory.path().join("none")).unwrap();
        assert!(!directory.path().join("none").exists());
    }

    #[test]
    fn a_key_is_not_lost_where_both_names_are_one_directory() {
        let above = tempfile::tempdir().unwrap();
        let (cache, link) = (above.path().join("cache"), above.path().join("link"));
        let state = StateDirectory::open(&cache).unwrap();
        state.write("push.key", b"key").unwrap();
        std::os::unix::fs::symlink(&cache, &link).unwrap();
        for alias in [&cache, &link, &cache.join("../cache")] {
            state.take_over("push.key", alias).unwrap();
            assert_eq!(fs::read(cache.join("push.key")).unwrap(), b"key", "{}", alias.display());
        }
    }
}
