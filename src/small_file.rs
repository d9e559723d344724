//! Small files that the operator names: certificates, passwords, users.
//!
//! What must hold: a file that is replaced while forebay runs blocks no thread (a named pipe) and takes bounded memory (an
//! endless file).

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};

/// Whether an operation failed because no descriptor was left.
pub(crate) fn is_lack_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Reads a whole file of up to `max` bytes.
///
/// # Errors
/// It cannot be read, is no regular file, or is longer.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {max} bytes")));
    }
    Ok(content)
}

/// The same for text.
///
/// # Errors
/// As [`read`], or it is not UTF-8.
pub(crate) fn read_text(path: &Path, max: u64) -> io::Result<String> {
    String::from_utf8(read(path, max)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_of_the_length_that_it_may_have_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), [b'x'; 10]).unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::fs::write(path("bytes"), [0xff]).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR).unwrap();
        for (name, max, expected) in [
            ("file", 10, None),
            ("link", 10, None),
            ("file", 9, Some("longer than 9 bytes")),
            ("/dev/zero", 9, Some("not a regular file")),
            ("pipe", 9, Some("not a regular file")),
            (".", 9, Some("not a regular file")),
            ("none", 9, Some("No such file")),
        ] {
            let read = read(&path(name), max).map_err(|error| error.to_string());
            match expected {
                None => assert_eq!(read.unwrap(), [b'x'; 10], "{name}"),
                Some(why) => assert!(read.as_ref().unwrap_err().contains(why), "{name}: {read:?}"),
            }
        }
        assert!(read_text(&path("bytes"), 9).unwrap_err().to_string().contains("not UTF-8"));
    }
}
