//! The disk space of directories and of files that are no objects (pure).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{BLOCK, allocated};

/// Bytes on disk that belong to no object.
#[derive(Debug, Default)]
pub struct Overhead {
    bytes: u64,
    /// Directories that take more than one block, and how many bytes each takes.
    large_directories: HashMap<PathBuf, u64>,
}

impl Overhead {
    /// The sum of these bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts a file that is no object.
    pub fn add_file(&mut self, len: u64) {
        self.bytes += allocated(len);
    }

    /// Counts a directory that was created or found.
    pub fn add_directory(&mut self) {
        self.bytes += BLOCK;
    }

    /// Sets how many bytes a directory takes: a directory of many names takes more than one block.
    pub fn set_directory_size(&mut self, path: &Path, bytes: u64) {
        let bytes = allocated(bytes);
        let before = if bytes > BLOCK {
            self.large_directories.insert(path.to_owned(), bytes)
        } else {
            self.large_directories.remove(path)
        };
        self.bytes = (self.bytes + bytes.max(BLOCK)).saturating_sub(before.unwrap_or(BLOCK));
    }

    /// A directory was removed.
    pub fn remove_directory(&mut self, path: &Path) {
        let bytes = self.large_directories.remove(path).unwrap_or(BLOCK);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_many_names_counts_as_the_blocks_it_has() {
        let (mut overhead, path) = (Overhead::default(), Path::new("/cache/tags/u/app"));
        overhead.add_file(30);
        overhead.add_directory();
        for (bytes, blocks) in [(0, 2), (BLOCK, 2), (5 * BLOCK, 6), (5 * BLOCK, 6), (7 * BLOCK, 8), (512, 2)] {
            overhead.set_directory_size(path, bytes);
            assert_eq!(overhead.bytes(), blocks * BLOCK, "{bytes} bytes");
        }
        overhead.set_directory_size(path, 9 * BLOCK);
        overhead.remove_directory(path);
        assert_eq!((overhead.bytes(), overhead.large_directories.len()), (BLOCK, 0));
    }
}
