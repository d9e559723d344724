//! What a request is about, in the form that patterns match.

use crate::oci::{Digest, Reference, Repository, Tag};

/// A tag, a digest or all of a repository, as `upstream/repository:tag` or `upstream/repository@digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    text: String,
    name_len: usize,
    pub(super) kind: SubjectKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubjectKind {
    Tag,
    /// A manifest or a blob.
    Digest,
    /// The repository itself, as for a list of its tags.
    Repository,
}

impl Subject {
    pub fn tag(upstream: &str, repository: &Repository, tag: &Tag) -> Self {
        Self::new(upstream, repository, Some((':', tag.as_str())), SubjectKind::Tag)
    }

    pub fn digest(upstream: &str, repository: &Repository, digest: &Digest) -> Self {
        Self::new(upstream, repository, Some(('@', digest.as_str())), SubjectKind::Digest)
    }

    pub fn reference(upstream: &str, repository: &Repository, reference: &Reference) -> Self {
        match reference {
            Reference::Tag(tag) => Self::tag(upstream, repository, tag),
            Reference::Digest(digest) => Self::digest(upstream, repository, digest),
        }
    }

    pub fn repository(upstream: &str, repository: &Repository) -> Self {
        Self::new(upstream, repository, None, SubjectKind::Repository)
    }

    fn new(upstream: &str, repository: &Repository, reference: Option<(char, &str)>, kind: SubjectKind) -> Self {
        let mut text = format!("{upstream}/{repository}");
        let name_len = text.len();
        if let Some((mark, reference)) = reference {
            text.push(mark);
            text.push_str(reference);
        }
        Self { text, name_len, kind }
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `upstream/repository`.
    pub(super) fn name(&self) -> &str {
        self.text.get(..self.name_len).unwrap_or_default()
    }

    /// The tag or the digest; empty for a repository.
    pub(super) fn reference_text(&self) -> &str {
        self.text.get(self.name_len + 1..).unwrap_or_default()
    }
}
