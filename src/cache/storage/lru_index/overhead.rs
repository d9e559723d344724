//! The disk space of directories and of files that are no objects (pure).

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::{BLOCK, allocated};

/// Bytes on disk that belong to no object.
#[derive(Debug)]
pub struct Overhead {
    bytes: u64,
    /// The directories that are counted, until the end of the start-up scan: what this process makes meanwhile, the scan
    /// may find or not.
    counted: Option<HashSet<PathBuf>>,
    /// Directories that take more than one block, and how many bytes each takes.
    large_directories: HashMap<PathBuf, u64>,
}

impl Default for Overhead {
    fn default() -> Self {
        Self { bytes: 0, counted: Some(HashSet::new()), large_directories: HashMap::new() }
    }
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

    /// Counts a directory that was created, or that the start-up scan found.
    pub fn add_directory(&mut self, path: &Path) {
        if self.counted.as_mut().is_none_or(|counted| counted.insert(path.to_owned())) {
            self.bytes += BLOCK;
        }
    }

    /// From now on, directories are counted that are created, each once.
    pub fn finish_scan(&mut self) {
        self.counted = None;
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
        let large = self.large_directories.remove(path);
        let is_counted = self.counted.as_mut().is_none_or(|counted| counted.remove(path));
        let bytes = if is_counted { large.unwrap_or(BLOCK) } else { large.map_or(0, |bytes| bytes - BLOCK) };
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
        overhead.add_directory(path);
        for (bytes, blocks) in [(0, 2), (BLOCK, 2), (5 * BLOCK, 6), (5 * BLOCK, 6), (7 * BLOCK, 8), (512, 2)] {
            overhead.set_directory_size(path, bytes);
            assert_eq!(overhead.bytes(), blocks * BLOCK, "{bytes} bytes");
        }
        overhead.set_directory_size(path, 9 * BLOCK);
        overhead.remove_directory(path);
        assert_eq!((overhead.bytes(), overhead.large_directories.len()), (BLOCK, 0));
    }

    #[test]
    fn a_directory_counts_once_whoever_sees_it_first() {
        let (mut overhead, path) = (Overhead::default(), Path::new("/cache/tags/u/app"));
        // It is created, and then the scan finds it.
        overhead.add_directory(path);
        overhead.set_directory_size(path, 3 * BLOCK);
        overhead.add_directory(path);
        assert_eq!(overhead.bytes(), 3 * BLOCK);
        // It is removed, and then the scan finds that it is not there.
        overhead.remove_directory(path);
        overhead.remove_directory(path);
        assert_eq!(overhead.bytes(), 0);
        overhead.finish_scan();
        overhead.add_directory(path);
        overhead.remove_directory(path);
        assert_eq!(overhead.bytes(), 0);
    }
}
