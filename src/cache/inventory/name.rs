//! The name of an image: an upstream, a repository, and a tag or a digest.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    cache::{Visibility, storage::tag_record::TagKey},
    oci::{Accept, Reference, Repository},
};

/// `upstream/repository:tag` or `upstream/repository@digest`, in one part of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    pub visibility: Visibility,
    pub upstream: Arc<str>,
    pub repository: Repository,
    pub reference: Reference,
}

/// The same, borrowed: a look-up allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameRef<'a> {
    pub visibility: Visibility,
    pub upstream: &'a str,
    pub repository: &'a str,
    is_digest: bool,
    reference: &'a str,
}

/// A text that is no name of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoImageName;

impl<'a> NameRef<'a> {
    pub fn new(
        visibility: Visibility,
        upstream: &'a str,
        repository: &'a Repository,
        reference: &'a Reference,
    ) -> Self {
        let (is_digest, reference) = match reference {
            Reference::Tag(tag) => (false, tag.as_str()),
            Reference::Digest(digest) => (true, digest.as_str()),
        };
        Self { visibility, upstream, repository: repository.as_str(), is_digest, reference }
    }

    /// The tag or the digest.
    pub(super) fn reference(&self) -> &'a str {
        self.reference
    }
}

impl<'a> From<&'a TagKey> for NameRef<'a> {
    fn from(key: &'a TagKey) -> Self {
        let TagKey { visibility, upstream, repository, tag, .. } = key;
        Self {
            visibility: *visibility,
            upstream,
            repository: repository.as_str(),
            is_digest: false,
            reference: tag.as_str(),
        }
    }
}

impl ImageName {
    pub fn borrow(&self) -> NameRef<'_> {
        NameRef::new(self.visibility, &self.upstream, &self.repository, &self.reference)
    }

    /// The key of the tag's records, of whatever class; `None` for a digest.
    pub fn tag_key(&self) -> Option<TagKey> {
        let Reference::Tag(tag) = &self.reference else { return None };
        Some(TagKey {
            visibility: self.visibility,
            upstream: self.upstream.clone(),
            repository: self.repository.clone(),
            tag: tag.clone(),
            class: Accept::default().class(),
        })
    }

    /// Reads what [`fmt::Display`] writes, of one part of the cache.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(visibility: Visibility, text: &str) -> Result<Self, NoImageName> {
        let (upstream, rest) = text.split_once('/').ok_or(NoImageName)?;
        let (repository, reference) = match rest.split_once('@') {
            Some((repository, digest)) => (repository, Reference::Digest(digest.parse().map_err(|_| NoImageName)?)),
            None => {
                let (repository, tag) = rest.rsplit_once(':').ok_or(NoImageName)?;
                (repository, Reference::Tag(tag.parse().map_err(|_| NoImageName)?))
            }
        };
        let repository = Repository::from_str(repository).map_err(|_| NoImageName)?;
        match upstream.is_empty() {
            true => Err(NoImageName),
            false => Ok(Self { visibility, upstream: upstream.into(), repository, reference }),
        }
    }
}

impl From<&TagKey> for ImageName {
    fn from(key: &TagKey) -> Self {
        Self {
            visibility: key.visibility,
            upstream: key.upstream.clone(),
            repository: key.repository.clone(),
            reference: Reference::Tag(key.tag.clone()),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, repository, reference, .. } = self;
        let mark = match reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{upstream}/{repository}{mark}{reference}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    #[test]
    fn names_are_read_back() {
        let digest = Digest::of(Algorithm::Sha512, b"x");
        for text in [
            "docker.io/library/node:22",
            "[::1]:5000/a:_",
            "harbor.lan:8443/a/b.c/d:v1",
            &format!("harbor.lan:8443/a/b@{digest}"),
        ] {
            let name = ImageName::parse(Visibility::Shared, text).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.tag_key().as_ref().map(ImageName::from), name.tag_key().map(|_| name.clone()));
            assert_eq!(name.tag_key().as_ref().map(NameRef::from), name.tag_key().map(|_| name.borrow()));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "docker.io", "docker.io/a", "/a:1", "docker.io/A:1", "docker.io/a:", "docker.io/a@sha256:1"] {
            assert_eq!(ImageName::parse(Visibility::Shared, text), Err(NoImageName), "{text}");
        }
    }
}
