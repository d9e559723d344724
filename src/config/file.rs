//! The configuration file: which one it is, and its text.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::error::{Error, Mistake, Place};

/// The longest configuration file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The file that forebay reads when none is named: `forebay.toml` in the directory of systemd (`ConfigurationDirectory=`),
/// else in `/etc/forebay`.
pub fn default_file() -> PathBuf {
    in_directory(env::var_os("CONFIGURATION_DIRECTORY"))
}

fn in_directory(of_unit: Option<OsString>) -> PathBuf {
    let first = of_unit.as_ref().and_then(|paths| env::split_paths(paths).find(|path| path.is_absolute()));
    first.unwrap_or_else(|| PathBuf::from("/etc/forebay")).join("forebay.toml")
}

/// The text of a file that has to be there.
///
/// # Errors
/// It cannot be read, is longer than 1 MiB, or is not UTF-8.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    content(path).map_err(|error| refusal(path, &error))
}

/// The text of a file that need not be there.
///
/// # Errors
/// As [`read`], but that a missing file is none. A link to nowhere is an error: the operator meant a file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match content(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => Ok(None),
        Err(error) => Err(refusal(path, &error)),
    }
}

/// Also reads pipes, for `--config <(…)`.
fn content(path: &Path) -> io::Result<String> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {MAX_FILE} bytes")));
    }
    String::from_utf8(content).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

fn refusal(path: &Path, error: &io::Error) -> Error {
    let place = Place::File { file: path.into(), position: None };
    Mistake { place, key: None, problem: format!("cannot read the configuration file: {error}") }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_in_the_directory_of_the_unit() {
        for (variable, expected) in [
            (None, "/etc/forebay/forebay.toml"),
            (Some(""), "/etc/forebay/forebay.toml"),
            (Some("relative"), "/etc/forebay/forebay.toml"),
            (Some("/etc/a:/etc/b"), "/etc/a/forebay.toml"),
        ] {
            assert_eq!(in_directory(variable.map(Into::into)), Path::new(expected), "{variable:?}");
        }
    }

    #[test]
    fn a_missing_file_is_none_and_an_unreadable_one_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("good"), "a = 1").unwrap();
        fs::write(path("bytes"), [0xff]).unwrap();
        fs::write(path("long"), vec![b'#'; 2 << 20]).unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        let read = |name: &str| read_if_there(&path(name)).map_err(|error| error.to_string());
        assert_eq!(read("good"), Ok(Some("a = 1".to_owned())));
        assert_eq!(read("missing"), Ok(None));
        for (name, why) in [
            ("bytes", "not UTF-8"),
            ("long", "longer than 1048576 bytes"),
            ("link", "No such file"),
            (".", "directory"),
            ("good/forebay.toml", "Not a directory"),
        ] {
            let error = read(name).unwrap_err();
            assert!(error.contains("cannot read the configuration file") && error.contains(why), "{name}: {error}");
        }
    }
}
