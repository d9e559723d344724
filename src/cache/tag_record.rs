//! What is known of a tag: where it pointed, and when that was last confirmed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::oci::{AcceptClass, Digest, MediaType, Repository, Tag};

/// A tag of one upstream, as clients of one kind see it: an old registry converts what it serves to what the
/// client says it accepts, so one tag can mean several manifests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagKey {
    pub upstream: Arc<str>,
    pub repository: Repository,
    pub tag: Tag,
    pub class: AcceptClass,
}

impl TagKey {
    /// The path below `tags/`. No name contains `@`, so no tag's file is in the way of a repository's directory.
    pub fn path(&self) -> PathBuf {
        let mut path = PathBuf::from(&*self.upstream);
        path.push(self.repository.as_str());
        path.push(format!("{}@{}", self.tag, self.class));
        path
    }

    /// The tag whose file has this path below `tags/`.
    pub fn from_path(path: &Path) -> Option<Self> {
        let (upstream, rest) = path.to_str()?.split_once('/')?;
        let (repository, file) = rest.rsplit_once('/')?;
        let (tag, class) = file.split_once('@')?;
        Some(Self {
            upstream: upstream.into(),
            repository: repository.parse().ok()?,
            tag: tag.parse().ok()?,
            class: class.parse().ok()?,
        })
    }
}

/// The answer an upstream gave for a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: Digest,
    pub media_type: MediaType,
    /// The manifest's size in bytes.
    pub size: u64,
    pub confirmed: SystemTime,
}

/// The file's form: TOML, for whoever looks into the cache.
#[derive(Serialize, Deserialize)]
struct Text {
    digest: String,
    media_type: String,
    size: u64,
    /// Seconds since 1970.
    confirmed: u64,
}

impl TagRecord {
    /// The longest file that is read, in bytes.
    pub const MAX_LEN: u64 = 4096;

    pub fn encode(&self) -> Vec<u8> {
        let confirmed = self.confirmed.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = Text {
            digest: self.digest.to_string(),
            media_type: self.media_type.to_string(),
            size: self.size,
            confirmed,
        };
        // Strings and numbers always have a TOML form; an empty file would be read as no record.
        toml::to_string(&text).unwrap_or_default().into_bytes()
    }

    /// `None` for anything that [`TagRecord::encode`] did not write whole.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text: Text = toml::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
        Some(Self {
            digest: text.digest.parse().ok()?,
            media_type: text.media_type.parse().ok()?,
            size: text.size,
            confirmed: UNIX_EPOCH.checked_add(Duration::from_secs(text.confirmed))?,
        })
    }
}
