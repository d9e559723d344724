//! A file that gets its name once it is whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
};

use anyhow::Context as _;

/// A file beside its final place; dropped before [`PartFile::finish`] it is removed.
pub(super) struct PartFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
    is_finished: bool,
}

impl PartFile {
    /// Creates the file in the directory of `path`, under a name of its own.
    ///
    /// # Errors
    /// The directory cannot be written, or `path` is one.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(!path.is_dir(), "{} is a directory", path.display());
        let name = path.file_name().with_context(|| format!("{} is no name of a file", path.display()))?;
        let mut part = name.to_owned();
        part.push(format!(".{}.part", process::id()));
        let part = path.with_file_name(part);
        let file = File::create_new(&part).with_context(|| format!("cannot create {}", part.display()))?;
        Ok(Self { file, part, path: path.to_owned(), is_finished: false })
    }

    /// Syncs the file and gives it its name, which another file may have had.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let finished = self.file.sync_all().and_then(|()| fs::rename(&self.part, &self.path));
        finished.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Write for PartFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar");
        fs::write(&path, "before").unwrap();
        let mut part = PartFile::create(&path).unwrap();
        part.write_all(b"half").unwrap();
        drop(part);
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let mut part = PartFile::create(&path).unwrap();
        part.write_all(b"whole").unwrap();
        part.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(PartFile::create(directory.path()).is_err());
    }
}
