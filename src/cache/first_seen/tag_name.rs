//! A tag by its names: one for all clients, whatever they accept.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    cache::storage::tag_record::TagKey,
    oci::{Repository, Tag},
};

/// `upstream/repository:tag`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TagName {
    pub upstream: Arc<str>,
    pub repository: Repository,
    pub tag: Tag,
}

/// A text that names no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoTagName;

impl From<&TagKey> for TagName {
    fn from(key: &TagKey) -> Self {
        Self { upstream: key.upstream.clone(), repository: key.repository.clone(), tag: key.tag.clone() }
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.upstream, self.repository, self.tag)
    }
}

impl FromStr for TagName {
    type Err = NoTagName;

    fn from_str(text: &str) -> Result<Self, NoTagName> {
        let (upstream, rest) = text.split_once('/').ok_or(NoTagName)?;
        let (repository, tag) = rest.rsplit_once(':').ok_or(NoTagName)?;
        Ok(Self {
            upstream: upstream.into(),
            repository: repository.parse().map_err(|_| NoTagName)?,
            tag: tag.parse().map_err(|_| NoTagName)?,
        })
    }
}
