//! The file `pins` of the state directory.
//!
//! The first line names the format and the number of pins. Each other line is a pin: a name or pattern, and the end that an
//! operator gave it in seconds since 1970 (0: none); `refresh` if an import made it; or both, with a `+`:
//!
//! ```text
//! forebay-pins 1 3
//! docker.io/library/node:22 0
//! quay.io/org/app:1 refresh
//! quay.io/org/app:2 refresh+0
//! registry.k8s.io/* 1796025600
//! ```
//!
//! What must hold: a file that is not whole is an error, since a pin must not be lost unnoticed. All functions block.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use super::pin::{MAX_PINS, Pin, PinEnd, PinList};
use crate::{
    rule::Pattern,
    state_dir::{PINS, StateDirectory},
};

const FORMAT: &str = "forebay-pins 1";
/// What a pin has that an import made.
const REFRESH: &str = "refresh";
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = (MAX_PINS * 640) as u64;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsFileError {
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {problem}; repair it, or remove it to begin without pins")]
    Damaged { path: PathBuf, problem: String },
}

/// Reads the pins of a directory: none if it has no file.
///
/// # Errors
/// The file cannot be read, or is not whole.
pub(super) fn read(directory: &Path) -> Result<PinList, PinsFileError> {
    let path = directory.join(PINS);
    // A directory that has none is not created for this.
    let bytes = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PinList::default()),
        _ => StateDirectory::open(directory).map_err(io::Error::other).and_then(|state| state.read(PINS, MAX_FILE)),
    };
    let bytes = bytes.map_err(|source| PinsFileError::Io { path: path.clone(), source })?;
    let decoded = std::str::from_utf8(&bytes).map_err(|_| "it is no text".to_owned()).and_then(decode);
    decoded.map_err(|problem| PinsFileError::Damaged { path, problem })
}

/// Replaces the file of a directory.
///
/// # Errors
/// It cannot be written; then the one before it is there still.
pub(super) fn write(directory: &Path, pins: &PinList) -> io::Result<()> {
    let state = StateDirectory::open(directory).map_err(io::Error::other)?;
    state.write(PINS, encode(pins).as_bytes())
}

fn encode(pins: &PinList) -> String {
    let line = |Pin { text, own, is_imported, .. }: &Pin| {
        let own = own.map(|own| match own {
            PinEnd::Never => 0,
            PinEnd::At(end) => end,
        });
        match (own, is_imported) {
            (Some(end), false) => format!("{text} {end}"),
            (Some(end), true) => format!("{text} {REFRESH}+{end}"),
            (None, _) => format!("{text} {REFRESH}"),
        }
    };
    let mut lines: Vec<String> = pins.iter().map(line).collect();
    lines.sort_unstable();
    let mut text = format!("{FORMAT} {}\n", lines.len());
    for line in lines {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

fn decode(text: &str) -> Result<PinList, String> {
    let mut lines = text.lines();
    let head = lines.next().and_then(|line| line.strip_prefix(FORMAT)?.strip_prefix(' ')?.parse::<usize>().ok());
    let Some(count) = head.filter(|count| *count <= MAX_PINS) else {
        return Err(format!("its first line is not \"{FORMAT}\" and a number up to {MAX_PINS}"));
    };
    let pins = lines.enumerate().map(|(at, line)| decode_line(line).ok_or(format!("line {} is no pin", at + 2)));
    let pins: Vec<Pin> = pins.collect::<Result<_, _>>()?;
    let read = pins.len();
    let list: PinList = pins.into_iter().collect();
    match read == count && list.len() == count && text.ends_with('\n') && !list.are_too_many() {
        true => Ok(list),
        false => Err(format!("it should have {count} different pins, and has {read} lines of them")),
    }
}

fn decode_line(line: &str) -> Option<Pin> {
    let (text, end) = line.split_once(' ')?;
    let (is_imported, seconds) = match end.strip_prefix(REFRESH) {
        None => (false, Some(end)),
        Some("") => (true, None),
        Some(rest) => (true, Some(rest.strip_prefix('+')?)),
    };
    let own = match seconds.map(str::parse).transpose().ok()? {
        None => None,
        Some(0) => Some(PinEnd::Never),
        Some(end) => Some(PinEnd::At(end)),
    };
    Some(Pin { text: text.to_owned(), pattern: Pattern::parse_in_full(text).ok()?, own, is_imported })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use proptest::prelude::*;

    use super::{super::pin::tests::pin, *};
    use crate::cache::{Visibility, inventory::ImageName};

    fn pins() -> PinList {
        [pin("docker.io/library/node:22", None), pin("registry.k8s.io/*", Some(1_796_025_600))].into_iter().collect()
    }

    #[test]
    fn a_file_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert_eq!(read(&path).unwrap(), PinList::default());
        assert!(!path.exists());
        let imported = ImageName::parse(Visibility::Shared, "quay.io/org/app:1").unwrap();
        let imports = pins().with_imports([&imported]).unwrap();
        let both = [None, Some(1_796_025_600)].map(|until| imports.with(pin("quay.io/org/app:1", until)));
        for (list, line) in [
            (pins(), "docker.io/library/node:22 0"),
            (imports, "quay.io/org/app:1 refresh"),
            (both[0].clone(), "quay.io/org/app:1 refresh+0"),
            (both[1].clone(), "quay.io/org/app:1 refresh+1796025600"),
            (PinList::default(), "forebay-pins 1 0"),
        ] {
            write(&path, &list).unwrap();
            assert!(fs::read_to_string(path.join(PINS)).unwrap().lines().any(|found| found == line), "{line}");
            assert_eq!(read(&path).unwrap(), list);
        }
        assert_eq!(fs::metadata(path.join(PINS)).unwrap().permissions().mode() & 0o777, 0o600);
        // A kill while the file was written leaves the one before it.
        write(&path, &pins()).unwrap();
        fs::write(path.join("pins.new"), "forebay-pins 1 7\nhalf").unwrap();
        assert_eq!(read(&path).unwrap(), pins());
        write(&path, &PinList::default()).unwrap();
        assert_eq!(read(&path).unwrap(), PinList::default());
    }

    #[test]
    fn a_file_that_is_not_whole_is_named_with_its_problem() {
        let directory = tempfile::tempdir().unwrap();
        let (path, whole) = (directory.path(), encode(&pins()));
        let lines = whole.lines().collect::<Vec<_>>();
        for (text, problem) in [
            (String::new(), "its first line is not \"forebay-pins 1\" and a number up to 10000"),
            (whole.replace("pins 1", "pins 2"), "its first line is not"),
            (format!("{}\n{}\n", lines[0], lines[1]), "it should have 2 different pins, and has 1 lines of them"),
            (format!("{whole}{}\n", lines[1]), "it should have 2 different pins, and has 3 lines of them"),
            (whole[..whole.len() - 1].to_owned(), "it should have 2 different pins, and has 2 lines of them"),
            (whole.replace("node:22 0", "node:22"), "line 2 is no pin"),
            (whole.replace("k8s.io/*", "k8s.io/ü"), "line 3 is no pin"),
            (whole.replace(" 0\n", " 4294967296\n"), "line 2 is no pin"),
            (whole.replace(" 0\n", " refreshed\n"), "line 2 is no pin"),
            (whole.replace(" 0\n", " refresh+\n"), "line 2 is no pin"),
            (whole.replace(" 0\n", " refresh+soon\n"), "line 2 is no pin"),
        ] {
            fs::write(path.join(PINS), &text).unwrap();
            let error = read(path).unwrap_err().to_string();
            assert!(error.contains(&*path.join(PINS).to_string_lossy()), "{error}");
            assert!(error.contains(problem), "{text}: {error}");
        }
        fs::remove_file(path.join(PINS)).unwrap();
        fs::create_dir(path.join(PINS)).unwrap();
        assert!(matches!(read(path), Err(PinsFileError::Io { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,80}", lines in prop::collection::vec("\\PC{0,30}", 0..4)) {
            let _ = decode(&text);
            let _ = decode(&format!("{FORMAT} {}\n{}\n", lines.len(), lines.join("\n")));
        }
    }
}
