//! What we already have, or are getting.
//!
//! Blobs: [`BlobCache`] answers with a [`BlobReader`] in every case. On disk: a slice of the file. In
//! flight: a reader of the growing file of its [`download`], of which there is one per digest and registry however many
//! clients ask. No room or a failing disk: a stream straight through. Manifests: [`ManifestCache`], memory
//! over disk, and for each tag what is known and since when. [`Lists`]: what was said last, for when it cannot be said.
//! Uploads: [`Captures`] keeps them while they pass. [`Scrub`] verifies again what is on disk.
//!
//! This stage does not know who asked, and chooses no status.

pub(crate) mod blob;
pub(crate) mod capture;
mod config;
pub(crate) mod download;
pub(crate) mod freshness;
mod hash;
pub(crate) mod list;
mod make_room;
pub(crate) mod manifest;
mod outcome;
pub(crate) mod prefetch;
pub(crate) mod revalidate;
pub(crate) mod scrub;
pub(crate) mod slow_readers;
mod source;
pub mod storage;
pub(crate) mod visibility;
pub(crate) mod warnings;
pub(crate) mod write_counter;

pub use self::visibility::Visibility;
pub(crate) use self::{
    blob::{
        BlobCache, BlobError, OpenedBlob,
        parts::Parts,
        reader::{BlobReader, BodyPiece, ReadError},
        uncached_limit::Client,
    },
    capture::{Capture, CaptureError, Captures},
    config::Config,
    download::DownloadResult,
    list::{List, ListError, ListLookup, ListRequest, Lists, ServedList},
    manifest::{ManifestCache, ManifestError, ManifestRequest},
    outcome::Outcome,
    prefetch::Images,
    scrub::{Scrub, WholeHit},
    slow_readers::{Holding, ReadersEnded, Reading, SlowReaders},
    source::Source,
    storage::{DiskStore, ObjectKind},
    visibility::ContentKey,
    warnings::Warnings,
};
pub(crate) use crate::single_flight::CYCLE_TIMEOUT;
