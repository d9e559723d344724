//! Why forebay refuses a configuration: where, which key, what is wrong, and what to write instead.
//!
//! The text is for the operator who wrote the file, so it is complete: the message includes an I/O cause, which is not
//! left to a `source()` that a caller may forget to print.

use std::{fmt, path::PathBuf};

/// The first error in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// `None`: the error is on the command line.
    pub(super) file: Option<PathBuf>,
    pub(super) position: Option<Position>,
    pub(super) key: Option<Key>,
    pub(super) problem: String,
}

impl Error {
    /// The place in the file, if the error has one.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The key's full path, such as `upstream[1].urls[0]`, or the flag, such as `--max-size`.
    pub fn key(&self) -> Option<&str> {
        self.key.as_ref().map(Key::as_str)
    }

    /// What is wrong, and how to correct it.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for Error {
    /// `forebay.toml:12:8: upstream[1].urls[0]: must be …`, without the parts that are not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(Position { line, column }) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Error {}

/// A place in the file; both count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A key's full path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    pub fn item(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The table or array that contains this key.
    pub fn parent(&self) -> Option<Self> {
        self.0.rfind(['.', '[']).map(|end| Self(self.0[..end].to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a flag of the command line rather than a key of the file.
    pub fn is_flag(&self) -> bool {
        self.0.starts_with('-')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
