//! The file `images` of the state directory: how images were used, so that it outlives a restart.
//!
//! The first line names the format. Each other line is a name, `clients` if it belongs to an upstream that authorizes each
//! client and `shared` if not, the number of pulls, and the last use in seconds since 1970 (0: none):
//!
//! ```text
//! forebay-images 1
//! docker.io/library/node:22 shared 1204 1764489600
//! ```
//!
//! What must hold: a file that cannot be read is kept beside the new one, and what can be read of it counts. All functions
//! block.

use std::{fmt::Write as _, io, path::Path};

use super::{
    name::ImageName,
    names::{MAX_NAMES, Named},
};
use crate::{
    cache::Visibility,
    state_dir::{IMAGES, IMAGES_DAMAGED, StateDirectory},
};

const FORMAT: &str = "forebay-images 1";
/// The longest name is one of 255 bytes for the upstream, 255 for the repository, and a digest of 135.
const MAX_LINE: usize = 700;
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = (MAX_NAMES * MAX_LINE) as u64;

/// How an image was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub name: ImageName,
    pub pulls: u64,
    pub last_use: u32,
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReadFile {
    pub images: Vec<Usage>,
    /// How many lines could not be read.
    pub damaged: usize,
}

/// Reads the file of a directory, if there is one. A damaged one is kept beside it.
///
/// # Errors
/// It cannot be read, or not be kept.
pub(super) fn read(directory: &Path) -> io::Result<ReadFile> {
    // A directory that has none is not created for this.
    if !directory.join(IMAGES).exists() {
        return Ok(ReadFile::default());
    }
    let state = StateDirectory::open(directory).map_err(io::Error::other)?;
    let bytes = state.read(IMAGES, MAX_FILE)?;
    let read = decode(&bytes);
    if read.damaged > 0 {
        state.write(IMAGES_DAMAGED, &bytes)?;
    }
    Ok(read)
}

/// Replaces the file of a directory; returns its length in bytes.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(directory: &Path, images: &[Named]) -> io::Result<usize> {
    let state = StateDirectory::open(directory).map_err(io::Error::other)?;
    let text = encode(images);
    state.write(IMAGES, text.as_bytes())?;
    Ok(text.len())
}

fn encode(images: &[Named]) -> String {
    let mut text = format!("{FORMAT}\n");
    for Named { name, state } in images.iter().take(MAX_NAMES) {
        let part = match name.visibility {
            Visibility::Shared => "shared",
            Visibility::PerClient => "clients",
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name} {part} {} {}", state.pulls, state.last_use);
    }
    text
}

fn decode(bytes: &[u8]) -> ReadFile {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // Nothing, or a line that was not written to its end.
    let is_cut = lines.pop().is_none_or(|rest| !rest.is_empty());
    let mut read = ReadFile { images: Vec::new(), damaged: usize::from(is_cut) };
    let mut lines = lines.into_iter();
    if lines.next() != Some(FORMAT.as_bytes()) {
        read.damaged += 1;
        return read;
    }
    for line in lines {
        match std::str::from_utf8(line).ok().filter(|line| line.len() <= MAX_LINE).and_then(decode_line) {
            Some(image) if read.images.len() < MAX_NAMES => read.images.push(image),
            Some(_) | None => read.damaged += 1,
        }
    }
    read
}

fn decode_line(line: &str) -> Option<Usage> {
    let mut words = line.split(' ');
    let [name, part, pulls, last_use] = [words.next()?, words.next()?, words.next()?, words.next()?];
    let visibility = match part {
        "shared" => Visibility::Shared,
        "clients" => Visibility::PerClient,
        _ => return None,
    };
    let name = ImageName::parse(visibility, name).ok()?;
    let usage = Usage { name, pulls: pulls.parse().ok()?, last_use: last_use.parse().ok()? };
    words.next().is_none().then_some(usage)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::cache::inventory::names::NameState;

    fn image(name: &str, visibility: Visibility, pulls: u64, last_use: u32) -> Named {
        let name = ImageName::parse(visibility, name).unwrap();
        Named { name, state: NameState { pulls, last_use, ..NameState::default() } }
    }

    fn usage(image: &Named) -> Usage {
        Usage { name: image.name.clone(), pulls: image.state.pulls, last_use: image.state.last_use }
    }

    fn images() -> Vec<Named> {
        let digest = format!("[::1]:5000/a@sha512:{}", "0".repeat(128));
        vec![
            image("docker.io/library/node:22", Visibility::Shared, 1204, 1_764_489_600),
            image("docker.io/library/node:22", Visibility::PerClient, 0, 0),
            image(&digest, Visibility::Shared, u64::MAX, u32::MAX),
        ]
    }

    #[test]
    fn a_file_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert_eq!(read(&path).unwrap(), ReadFile::default());
        assert!(!path.exists());
        write(&path, &images()).unwrap();
        let expected = ReadFile { images: images().iter().map(usage).collect(), damaged: 0 };
        assert_eq!(read(&path).unwrap(), expected);
        assert!(!path.join(IMAGES_DAMAGED).exists());
    }

    #[test]
    fn a_damaged_file_is_kept_and_the_rest_of_it_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let whole = encode(&images());
        let [_, line, ..] = whole.lines().collect::<Vec<_>>()[..] else { panic!("lines") };
        for (text, kept) in [
            (whole.replace(" 0 0\n", " 0 x\n"), &[0, 2][..]),
            (whole.replace("clients", "both"), &[0, 2]),
            (format!("{FORMAT}\n{line}\n{line} 1\n\0\n"), &[0]),
            (whole[..whole.len() - 1].to_owned(), &[0, 1]),
            (whole.replace("images 1", "images 2"), &[]),
            (String::new(), &[]),
        ] {
            fs::write(path.join(IMAGES), &text).unwrap();
            let read = read(path).unwrap();
            assert!(read.damaged > 0, "{text}");
            assert_eq!(read.images, kept.iter().map(|at| usage(&images()[*at])).collect::<Vec<_>>(), "{text}");
            assert_eq!(fs::read_to_string(path.join(IMAGES_DAMAGED)).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), line in "\\PC{0,60}") {
            decode(&bytes);
            decode(&[format!("{FORMAT}\n{line}\n").as_bytes(), &bytes].concat());
        }
    }
}
