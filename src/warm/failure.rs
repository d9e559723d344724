//! Why an image was not fetched: a word for programs, a sentence for people.

use crate::{
    cache::{BlobError, ManifestError},
    error::{Error, ErrorKind},
    error_chain::ErrorChain,
};

/// The longest sentence, in bytes: an upstream may have written part of it.
const MAX_WHY: usize = 1024;
/// The word for images that pins have no room for.
const NOT_PINNED: &str = "not_pinned";

/// Why an image was not fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// As in the field `failure` of the log, or one of those below.
    pub word: &'static str,
    pub why: String,
}

impl Failure {
    fn new(word: &'static str, why: impl Into<String>) -> Self {
        let mut why: String = why.into();
        why.truncate(why.floor_char_boundary(MAX_WHY));
        Self { word, why }
    }

    pub(super) fn invalid_name(why: impl Into<String>) -> Self {
        Self::new("invalid_name", why)
    }

    pub(super) fn unconfigured_upstream(name: &str) -> Self {
        let why =
            format!("no upstream is configured for {name}: add [[upstream]] name = \"{name}\" to the configuration");
        Self::new("unconfigured_upstream", why)
    }

    pub(super) fn client_credentials(upstream: &str) -> Self {
        let why = format!("{upstream} has access = \"client\": only a client's own pull may fetch its images");
        Self::new("client_credentials", why)
    }

    pub(super) fn pull_limit() -> Self {
        Self::new("pull_limit", "the limit of pulls is reached: the next run goes on from here")
    }

    pub(super) fn no_room(why: &str) -> Self {
        Self::new("no_room", why)
    }

    pub(super) fn no_room_left() -> Self {
        Self::new("no_room", "the cache has no room for it: other content that is in use takes it")
    }

    pub(super) fn disk(problem: &str) -> Self {
        Self::new("disk", format!("the cache cannot be written: {problem}"))
    }

    pub(super) fn evicted() -> Self {
        Self::new("evicted", "part of it was evicted again while the rest was fetched: the cache is too small")
    }

    pub(super) fn no_platform(missing: &str, there_are: &str) -> Self {
        Self::new("no_platform", format!("it has no {missing}; there are {there_are}"))
    }

    pub(super) fn not_pinned(why: impl std::fmt::Display) -> Self {
        Self::new(NOT_PINNED, format!("it is in the cache, and is not pinned: {why}"))
    }

    pub(super) fn no_room_for_pins(why: impl std::fmt::Display) -> Self {
        Self::new(NOT_PINNED, format!("{why}: nothing was downloaded or pinned"))
    }

    /// Whether no image is pinned, also of those that are here.
    pub(super) fn is_of_all(&self) -> bool {
        self.word == NOT_PINNED
    }

    pub(super) fn unreadable(why: impl std::fmt::Display) -> Self {
        Self::new("unreadable_manifest", format!("its manifest cannot be read: {why}"))
    }

    pub(super) fn too_many_parts(what: &str) -> Self {
        Self::new("too_many_parts", what)
    }

    pub(super) fn ending() -> Self {
        Self::new("given_up", "forebay is about to end")
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let why = ErrorChain(&error).to_string();
        Self::new(error.kind.word(), why)
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        Error::from(kind).into()
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Error::from(error).into()
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream;

    #[test]
    fn a_failure_is_told_in_a_word_and_a_bounded_sentence() {
        let missing = || upstream::Error::new(upstream::ErrorKind::NotFound, "the registry has no such manifest");
        let of_manifest = Failure::from(ManifestError::Upstream(missing()));
        assert_eq!(of_manifest.word, "manifest_unknown");
        assert!(of_manifest.why.ends_with("the registry has no such manifest"), "{}", of_manifest.why);
        assert_eq!(Failure::from(BlobError::Upstream(missing())).word, "blob_unknown");
        assert_eq!(Failure::from(ErrorKind::Draining).word, "given_up");
        let long = Failure::invalid_name("é".repeat(MAX_WHY));
        assert_eq!(long.why.len(), MAX_WHY);
    }
}
