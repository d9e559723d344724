//! The file `first-seen`: lines are appended and synced; the whole is replaced when half of it is outdated.
//!
//! What must hold: a kill leaves at most the last lines cut or missing, and a cut line is left out. All functions block.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{checks::TagChecks, line, tag_name::TagName};
use crate::state_dir::{FIRST_SEEN, FIRST_SEEN_DAMAGED, StateDirectory};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 128 << 20;
/// How many bytes may be outdated in any case before the file is replaced.
const MIN_OUTDATED: u64 = 1 << 20;

/// The file of a state directory.
pub(super) struct FirstSeenLog {
    directory: PathBuf,
    /// The bytes of the file, and those that it had when it was replaced last.
    len: u64,
    replaced_len: u64,
    /// The last write failed: the end of the file may be cut, and lines are missing.
    is_failing: bool,
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct ReadLog {
    pub tags: HashMap<TagName, TagChecks>,
    /// How many lines could not be read, the cut last one apart.
    pub damaged: usize,
}

impl FirstSeenLog {
    /// Opens the file of a directory, and reads it. A damaged file is kept beside it.
    pub(super) fn open(path: &Path) -> io::Result<(Self, ReadLog)> {
        let state = StateDirectory::open(path).map_err(io::Error::other)?;
        let bytes = state.read(FIRST_SEEN, MAX_FILE)?;
        let mut read = read(&bytes);
        if bytes.len() as u64 >= MAX_FILE {
            // The rest, which counts more, is not read.
            read.damaged += 1;
        }
        if read.damaged > 0
            && let Err(error) = state.write(FIRST_SEEN_DAMAGED, &bytes)
        {
            tracing::warn!(%error, "the damaged file first-seen cannot be kept as first-seen.damaged");
        }
        let len = bytes.len() as u64;
        Ok((Self { directory: path.to_owned(), len, replaced_len: len, is_failing: false }, read))
    }

    pub(super) fn is_in(&self, path: &Path) -> bool {
        self.directory == path
    }

    /// Replaces the file.
    pub(super) fn replace<'a>(
        &mut self,
        tags: impl IntoIterator<Item = (&'a TagName, &'a TagChecks)>,
    ) -> io::Result<()> {
        let text: String = tags.into_iter().map(|(name, checks)| line::encode(name, checks)).collect();
        let state = StateDirectory::open(&self.directory).map_err(io::Error::other);
        let written = state.and_then(|state| state.write(FIRST_SEEN, text.as_bytes()));
        self.is_failing = written.is_err();
        self.len = text.len() as u64;
        self.replaced_len = self.len;
        written
    }

    /// Adds the lines of tags, and waits until they are on disk.
    pub(super) fn append<'a>(
        &mut self,
        tags: impl IntoIterator<Item = (&'a TagName, &'a TagChecks)>,
    ) -> io::Result<()> {
        let lines: String = tags.into_iter().map(|(name, checks)| line::encode(name, checks)).collect();
        let written = self.append_lines(&lines);
        self.is_failing = written.is_err();
        self.len += lines.len() as u64;
        written
    }

    fn append_lines(&self, lines: &str) -> io::Result<()> {
        // Another file under this name, such as a pipe, must not block the writer.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let path = self.directory.join(FIRST_SEEN);
        let mut file = File::options().append(true).mode(0o600).custom_flags(flags).open(path)?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()
    }

    pub(super) fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// Whether the next write has to replace the file: the last one failed, or too much is outdated.
    pub(super) fn must_be_replaced(&self) -> bool {
        self.is_failing || self.len - self.replaced_len > self.replaced_len.max(MIN_OUTDATED)
    }
}

fn read(bytes: &[u8]) -> ReadLog {
    let mut found = ReadLog::default();
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // Nothing, or a line that was not written to its end.
    lines.pop();
    for line in lines {
        match std::str::from_utf8(line).ok().and_then(line::decode) {
            Some((name, checks)) if checks.classes.is_empty() => drop(found.tags.remove(&name)),
            Some((name, checks)) => drop(found.tags.insert(name, checks)),
            None => found.damaged += 1,
        }
    }
    found
}
