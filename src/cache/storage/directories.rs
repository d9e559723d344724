//! Creates, counts and removes the directories of objects.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use super::DiskStore;
use crate::cache::Visibility;

/// How often a rename is tried while another task prunes the target's directory.
const MAX_RENAMES: u32 = 8;

impl DiskStore {
    /// Removes the directories of repositories without tags, up to `tags/` itself.
    pub(super) fn prune_directories(&self, visibility: Visibility, path: &Path) {
        let top = self.folder(visibility, "tags");
        for directory in path.ancestors().skip(1).take_while(|directory| **directory != top) {
            if std::fs::remove_dir(directory).is_err() {
                break;
            }
            self.0.index.overhead(|overhead| overhead.remove_directory(directory));
        }
    }

    /// Creates the directories above `path` and counts each new one.
    pub(super) fn make_parents(&self, path: &Path) -> io::Result<()> {
        for directory in self.missing_parents(path).into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(directory) {
                Ok(()) => {
                    self.0.index.overhead(|overhead| overhead.add_directory(directory));
                    self.measure_above(directory);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fails if a symbolic link or a file stands in the place of a directory: the target of a link is not forebay's, so
    /// forebay renames and creates nothing there.
    pub(super) fn refuse_links(&self, path: &Path) -> io::Result<()> {
        for directory in path.ancestors().skip(1).take_while(|directory| **directory != self.0.root) {
            if directory.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                let why = format!("{} is not a directory of forebay's; remove it", directory.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
            }
        }
        Ok(())
    }

    /// Gives a temporary file its final name, and creates the missing directories above it.
    pub(super) fn rename(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        for _ in 0..MAX_RENAMES {
            let parents = self.refuse_links(path).and_then(|()| self.make_parents(path));
            match parents.and_then(|()| std::fs::rename(temporary, path)) {
                // Another task pruned an empty directory before the next directory or the file was in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && temporary.exists() => {}
                renamed => {
                    self.measure_above(path);
                    return renamed;
                }
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Measures the directory of `path`, which may have grown by the new name in it.
    pub(super) fn measure_above(&self, path: &Path) {
        if let Some(directory) = path.parent()
            && let Ok(metadata) = directory.metadata()
        {
            let bytes = metadata.blocks() * 512;
            self.0.index.overhead(|overhead| overhead.set_directory_size(directory, bytes));
        }
    }

    /// The missing directories above `path`, the lowest first.
    pub(super) fn missing_parents<'a>(&self, path: &'a Path) -> Vec<&'a Path> {
        let above = path.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.0.root));
        above.take_while(|directory| !directory.exists()).collect()
    }
}
