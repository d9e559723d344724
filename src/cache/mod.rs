//! What we already have, or are getting.
//!
//! Blobs: [`BlobCache`] answers with a [`BlobReader`] in every case. On disk: a slice of the file. In
//! flight: a reader of the growing file of its [`fill`], of which there is one per digest and registry however many
//! clients ask. No room or a failing disk: a stream straight through. Manifests: [`ManifestCache`], memory
//! over disk, and for each tag what is known and since when. [`Lists`]: what was said last, for when it cannot be said.
//! Uploads: [`Tees`] keeps them while they pass. [`Scrub`] verifies again what is on disk.
//!
//! This stage does not know who asked, and chooses no status.

pub mod blobs;
mod config;
pub mod disk;
pub mod extents;
pub mod fill;
pub mod flights;
pub mod freshness;
pub mod lists;
pub mod lru;
pub mod manifests;
pub mod parts;
pub mod pool;
pub mod prefetch;
pub mod reader;
pub mod readers;
pub mod reads;
pub mod recency;
pub mod remarks;
mod room;
pub mod scrub;
pub mod source;
pub mod tag_record;
pub mod tee;
pub mod through;
pub mod throughs;
pub mod transfer;
pub mod untaken;
pub mod writes;

pub use self::{
    blobs::{BlobCache, BlobError, OpenedBlob},
    config::Config,
    disk::{DiskStore, Pin},
    flights::CIRCLE_PATIENCE,
    lists::{FoundList, List, ListError, Lists, ServedList, WantedList},
    manifests::{ManifestCache, ManifestError, Wanted},
    parts::Parts,
    pool::{ContentId, Pool},
    prefetch::Images,
    reader::{BlobReader, FileSlice, Hold, Piece, ReadError},
    readers::{Ended, Holding, Meter, Readers, Reading, Taker, Taking},
    remarks::Remarks,
    scrub::{Scrub, WholeHit},
    source::Source,
    tee::{GivenUp, Tee, Tees},
    throughs::Client,
};
