//! Names: repositories, tags, and references (a tag or a digest).
//!
//! Source: OCI distribution specification v1.1, "Pulling manifests": the grammar of `<name>` and
//! of a tag. A valid name is safe as a relative path: no component is empty, `.` or `..`.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use super::{Digest, ParseError};

/// The longest repository name accepted, in bytes; common registries refuse longer ones.
const MAX_REPOSITORY_LEN: usize = 255;
/// The longest tag, in bytes, by the specification's grammar.
const MAX_TAG_LEN: usize = 128;

/// A repository's name, such as `library/nginx`: any number of components.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name has one component only, as Docker Hub's official images are typed.
    pub fn is_single(&self) -> bool {
        !self.0.contains('/')
    }

    /// The name below `library/`, where Docker Hub keeps its official images.
    ///
    /// # Errors
    /// `ParseError::Repository` when the name is too long for that.
    pub fn in_library(&self) -> Result<Self, ParseError> {
        format!("library/{}", self.0).parse()
    }
}

impl FromStr for Repository {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_REPOSITORY_LEN {
            return Err(ParseError::Repository("longer than 255 characters"));
        }
        if !text.split('/').all(is_component) {
            return Err(ParseError::Repository(
                "each part must be lower-case letters and digits, joined by single '.', '_', '__' or dashes",
            ));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes
        .split(|&byte| alphanumeric(byte))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-'))
}

/// A tag: a name that its upstream may point at another manifest at any time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let bytes = text.as_bytes();
        let Some((&first, rest)) = bytes.split_first() else {
            return Err(ParseError::Tag("empty"));
        };
        if bytes.len() > MAX_TAG_LEN {
            return Err(ParseError::Tag("longer than 128 characters"));
        }
        if !word(first) || !rest.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-') {
            return Err(ParseError::Tag("must be letters, digits, '_', '.' and '-', not starting with '.' or '-'"));
        }
        Ok(Self(text.into()))
    }
}

/// What follows `/manifests/`: a tag, or a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = ParseError;

    /// A colon can only be a digest's: no tag contains one.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.contains(':') { text.parse().map(Self::Digest) } else { text.parse().map(Self::Tag) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Repository {
    fn borrow(&self) -> &str {
        &self.0
    }
}
