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

    /// Whether the name has one component only, as users write the names of Docker Hub's official images.
    pub fn is_single(&self) -> bool {
        !self.0.contains('/')
    }

    /// The name under `library/`, where Docker Hub keeps its official images.
    ///
    /// # Errors
    /// `ParseError::Repository` if the name becomes too long.
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

/// A tag: a name that the upstream may point at another manifest at any time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of the index of what refers to this digest, in a registry without an endpoint for referrers.
    ///
    /// Source: OCI distribution specification v1.1, "Referrers Tag Schema": the algorithm, of at most 32 characters, a
    /// dash, and at most 64 characters of the encoded part. Every character of a digest is allowed in a tag.
    pub fn of_referrers(digest: &Digest) -> Self {
        let hex = digest.hex();
        Self(format!("{}-{}", digest.algorithm().as_str(), hex.get(..64).unwrap_or(hex)).into())
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

/// The text after `/manifests/`: a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl Reference {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    /// A text with a colon can only be a digest: no tag contains one.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn repositories_follow_the_grammar() {
        let longest = "a".repeat(255);
        for good in ["a", "0", "nginx", "library/nginx", "a/b/c/d/e/f/g", "a.b_c__d-e---f", "manifests/blobs", &longest]
        {
            assert_eq!(good.parse::<Repository>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a/B", ".", "..", "a/../b", "a..b", "a___b", "a._b", "a.-b", "_a", "a_",
            "-a", "a-", ".a", "a.", "a b", "a\0", "a%2fb", "a\\b", "a:b", "é", &too_long,
        ] {
            assert!(matches!(bad.parse::<Repository>(), Err(ParseError::Repository(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_library_is_put_in_front_while_there_is_room() {
        let name: Repository = "nginx".parse().unwrap();
        assert!(name.is_single());
        assert_eq!(name.in_library().unwrap().as_str(), "library/nginx");
        assert!(!name.in_library().unwrap().is_single());
        assert!("a".repeat(255).parse::<Repository>().unwrap().in_library().is_err());
    }

    #[test]
    fn tags_follow_the_grammar() {
        let longest = "a".repeat(128);
        for good in ["latest", "1", "_", "1.25-alpine", "V1..2__-", "sha256-0123abcd.sig", &longest] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(129);
        for bad in ["", ".", "..", "-", ".a", "-a", "a/b", "a:b", "a b", "a\n", "é", "a+b", &too_long] {
            assert!(matches!(bad.parse::<Tag>(), Err(ParseError::Tag(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_tag_of_what_refers_to_a_digest() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"subject");
            let tag = Tag::of_referrers(&digest);
            assert_eq!(tag.as_str(), format!("{}-{}", algorithm.as_str(), &digest.hex()[..64]));
            assert_eq!(tag.as_str().parse(), Ok(tag));
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(digest.parse(), Ok(Reference::Digest(digest.parse().unwrap())));
        assert_eq!("latest".parse(), Ok(Reference::Tag("latest".parse().unwrap())));
        assert!(matches!("sha256:abc".parse::<Reference>(), Err(ParseError::Digest(_))));
        assert!(matches!("-".parse::<Reference>(), Err(ParseError::Tag(_))));
    }

    /// The specification's regular expression, read from left to right:
    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
    fn by_the_specification(text: &str) -> bool {
        let word = |rest: &str| rest.find(|it| !matches!(it, 'a'..='z' | '0'..='9')).unwrap_or(rest.len());
        let mut rest = text;
        loop {
            let len = word(rest);
            if len == 0 {
                return false;
            }
            rest = &rest[len..];
            let dashes = rest.len() - rest.trim_start_matches('-').len();
            rest = match rest.as_bytes() {
                [] => return true,
                [b'_', b'_', ..] => &rest[2..],
                [b'/' | b'.' | b'_', ..] => &rest[1..],
                [b'-', ..] => &rest[dashes..],
                _ => return false,
            };
        }
    }

    proptest! {
        #[test]
        fn repositories_are_what_the_specification_says(text in "[a-c0-1./_A-]{0,24}") {
            prop_assert_eq!(text.parse::<Repository>().is_ok(), by_the_specification(&text));
        }

        #[test]
        fn a_name_is_safe_as_a_path(text in ".{0,32}") {
            if let Ok(name) = text.parse::<Repository>() {
                prop_assert!(name.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert!(!tag.as_str().contains('/') && !matches!(tag.as_str(), "" | "." | ".."));
            }
        }

        #[test]
        fn references_print_as_they_were_read(text in "[a-z:0-9._-]{1,16}|sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
