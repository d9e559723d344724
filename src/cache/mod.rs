//! The cache: content that forebay has, or is downloading.
//!
//! - [`BlobCache`] serves a blob by a [`BlobReader`]: from its file on disk; from the growing file of a [`download`],
//!   of which there is one per digest and registry for all clients; or, without room on disk, from the upstream.
//! - [`ManifestCache`] serves manifests from memory over disk, and records where each tag points.
//! - [`Lists`] serves tags, catalogs and referrers, and their last responses while the upstream fails.
//! - [`Inventory`] tells which images are here, how they are used, and how much of each is here.
//! - [`Pins`] keep images that an operator names from being evicted.
//! - [`Exports`] makes archives of images, and [`Imports`] takes them.
//! - [`revalidate`] decides for tags, lists and clients' grants when a stale value is served.
//! - [`Captures`] caches blobs while clients push them. [`Scrub`] verifies what is on disk.
//!
//! This stage does not authorize clients, and chooses no HTTP status.

pub(crate) mod blob;
pub(crate) mod capture;
mod config;
mod context;
pub(crate) mod download;
pub(crate) mod export;
pub(crate) mod first_seen;
pub(crate) mod freshness;
mod hash;
pub(crate) mod import;
pub mod inventory;
pub(crate) mod list;
mod make_room;
pub(crate) mod manifest;
mod outcome;
pub(crate) mod pins;
pub(crate) mod prefetch;
mod reloadable_config;
pub(crate) mod removal;
pub(crate) mod replicate;
pub(crate) mod revalidate;
pub(crate) mod scrub;
pub(crate) mod slow_readers;
mod source;
pub mod storage;
pub(crate) mod upkeep;
mod uploads;
pub(crate) mod verify;
pub(crate) mod visibility;
pub(crate) mod warnings;
pub(crate) mod write_counter;

pub(crate) use self::{
    blob::{
        BlobCache, BlobError, FillError, OpenedBlob,
        parts::Parts,
        read_error::ReadError,
        reader::{BlobReader, BodyPiece},
        uncached_limit::Client,
    },
    capture::{Capture, Captures},
    config::Config,
    context::{CacheContext, ObjectSources},
    download::{Download, DownloadEvent, DownloadResult, Downloads, RunningDownload},
    export::Exports,
    import::Imports,
    inventory::Inventory,
    list::{List, ListError, ListLookup, ListRequest, Lists, ServedList},
    manifest::{CachedImage, ManifestCache, ManifestError, ManifestRequest, NotRefreshed, Place},
    pins::Pins,
    prefetch::Images,
    reloadable_config::{NegativeTtl, ReloadableConfig},
    removal::Removal,
    replicate::Replication,
    scrub::{Scrub, WholeHit},
    slow_readers::{Holding, ReadersEnded, Reading, SlowReaders},
    source::Source,
    storage::{DiskStore, EvictionTotals, ObjectKind},
    upkeep::Upkeep,
    uploads::UploadQueue,
    verify::ImageVerification,
    visibility::ContentKey,
    warnings::Warnings,
};
pub use self::{download::Complete, outcome::Outcome, source::Origin, visibility::Visibility};
pub(crate) use crate::single_flight::CYCLE_TIMEOUT;
