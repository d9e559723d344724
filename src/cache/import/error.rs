//! Why an archive is not imported.

use std::io;

use crate::{
    cache::{pins::PinError, storage::NoSpace},
    oci::{Digest, ParseError},
    tar::TarError,
};

/// Why an archive is not imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("another import is running; try again when it is over")]
    Busy,
    #[error("a removal is running; try again soon")]
    Removal,
    #[error(
        "the archive has at least {bytes} bytes, and the cache has room for {most}: see cache.max_size and min_free"
    )]
    TooLarge { bytes: u64, most: u64 },
    #[error("the cache has no room for the archive: see cache.max_size and min_free")]
    NoRoom(#[from] NoSpace),
    #[error("the cache cannot be written")]
    Storage(#[source] io::Error),
    #[error("an import is pinned")]
    NotPinned(#[from] PinError),
    #[error("forebay is about to end")]
    End,
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(
        "{0:?} is no file of an image layout; of an archive of `docker save`, `skopeo copy docker-archive:FILE \
         oci-archive:FILE` makes one"
    )]
    Name(String),
    #[error("{0:?} is no plain file")]
    Kind(String),
    #[error("{0:?} is in the archive twice")]
    Twice(String),
    #[error("the archive has more than {0} entries")]
    TooMany(usize),
    #[error("{name} is longer than {most} bytes")]
    TooLong { name: String, most: u64 },
    #[error("the manifests of the archive have more than {0} bytes")]
    ManifestsTooLong(usize),
    #[error("the images of the archive have too many manifests: import fewer at a time")]
    TooManyManifests,
    #[error("the content of {0} does not match its digest")]
    Mismatch(Digest),
    #[error("this is no image layout: there is no {0}")]
    NoLayout(&'static str),
    #[error("oci-layout is of a version that forebay does not know")]
    Version,
    #[error("the index.json of the archive cannot be used")]
    Index(#[source] ParseError),
    /// A line for each problem.
    #[error("{}", .0.join("\n"))]
    Incomplete(Vec<String>),
}
