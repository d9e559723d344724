//! A file that gets its name once it is whole.
//!
//! What must hold: nothing but a file is replaced. A device or a pipe is written as it is, and a link stays a link.

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
    path: PathBuf,
    /// Where it is until it is whole; `None`: what has the name is no file, and is written itself.
    part: Option<PathBuf>,
}

impl PartFile {
    /// Creates the file in the directory of `path`, under a name of its own.
    ///
    /// # Errors
    /// The directory cannot be written, or `path` is one.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        // What a link names, if that is there.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let kind = fs::metadata(&path).ok().map(|found| found.file_type());
        anyhow::ensure!(!kind.is_some_and(|kind| kind.is_dir()), "{} is a directory", path.display());
        if kind.is_some_and(|kind| !kind.is_file()) {
            let file = File::options().write(true).open(&path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            return Ok(Self { file, path, part: None });
        }
        let name = path.file_name().with_context(|| format!("{} is no name of a file", path.display()))?;
        let mut part = name.to_owned();
        part.push(format!(".{}.part", process::id()));
        let part = path.with_file_name(part);
        let file = File::create_new(&part).with_context(|| format!("cannot create {}", part.display()))?;
        Ok(Self { file, path, part: Some(part) })
    }

    /// Whether an unfinished file would stay if the process ended now.
    pub(super) fn is_file(&self) -> bool {
        self.part.is_some()
    }

    /// Syncs the file and gives it its name, which another file may have had.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let Some(part) = &self.part else { return Ok(()) };
        let finished = self.file.sync_all().and_then(|()| fs::rename(part, &self.path));
        finished.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.part = None;
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
        if let Some(part) = &self.part {
            let _ = fs::remove_file(part);
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
        assert!(part.is_file());
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

    #[test]
    fn only_a_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [link, file, socket] = ["link", "file", "socket"].map(|name| directory.path().join(name));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        fs::write(&file, "before").unwrap();
        let mut part = PartFile::create(&link).unwrap();
        part.write_all(b"whole").unwrap();
        part.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && fs::read(&file).unwrap() == b"whole");
        // Any device will do, and this one may be written.
        let mut part = PartFile::create(Path::new("/dev/full")).unwrap();
        assert!(!part.is_file() && part.write_all(b"x").is_err());
        drop(part);
        assert!(fs::metadata("/dev/full").is_ok_and(|found| !found.is_file()));
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(PartFile::create(&socket).is_err());
    }
}
