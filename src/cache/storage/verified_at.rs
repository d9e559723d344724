//! When the bytes of an object were last compared with its digest, noted in an extended attribute of its file: `LENGTH
//! SECONDS`.
//!
//! The length reveals a file that was truncated while forebay did not run. Both are missing on a file system without
//! extended attributes; the time is missing in files of a forebay that did not note it.

use std::{
    fs::File,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::XattrFlags;

pub(super) const ATTRIBUTE: &str = "user.forebay.length";
/// The longest value, in bytes.
pub(super) const MAX_VALUE: usize = 48;

/// The content of the attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub len: u64,
    /// `None` if it is not known.
    pub verified: Option<SystemTime>,
}

impl Noted {
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (len, seconds) = match text.split_once(' ') {
            Some((len, seconds)) => (len, seconds.parse().ok()),
            None => (text, None),
        };
        let verified = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        Some(Self { len: len.parse().ok()?, verified })
    }

    fn spell(&self) -> String {
        let seconds = self.verified.and_then(|verified| verified.duration_since(UNIX_EPOCH).ok());
        match seconds {
            Some(seconds) => format!("{} {}", self.len, seconds.as_secs()),
            None => self.len.to_string(),
        }
    }
}

/// Notes that all `len` bytes of an object were just verified.
pub(super) fn note(file: &File, len: u64) {
    let noted = Noted { len, verified: Some(SystemTime::now()) };
    if let Err(error) = rustix::fs::fsetxattr(file, ATTRIBUTE, noted.spell().as_bytes(), XattrFlags::empty()) {
        tracing::debug!(%error, "the file system of the cache has no extended attributes");
    }
}

pub(super) fn noted(file: &File) -> Option<Noted> {
    let mut value = [0; MAX_VALUE];
    let read = rustix::fs::fgetxattr(file, ATTRIBUTE, &mut value).ok()?;
    Noted::parse(value.get(..read)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_as_it_was_written() {
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        for (text, len, verified) in [
            ("0", 0, None),
            ("500000", 500_000, None),
            ("500000 1700000000", 500_000, at(1_700_000_000)),
            ("18446744073709551615 0", u64::MAX, at(0)),
        ] {
            let noted = Noted { len, verified };
            assert_eq!((Noted::parse(text.as_bytes()), &*noted.spell()), (Some(noted), text));
        }
        for (text, expected) in [
            ("", None),
            ("x 1", None),
            (" 1", None),
            ("-1 1", None),
            ("7 never", Some(7)),
            ("7 -1", Some(7)),
            ("7 1 1", Some(7)),
            ("7 18446744073709551615", Some(7)),
        ] {
            let noted = Noted::parse(text.as_bytes());
            assert_eq!(noted.map(|noted| noted.len), expected, "{text:?}");
            assert_eq!(noted.and_then(|noted| noted.verified), None, "{text:?}");
        }
    }
}
