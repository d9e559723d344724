//! What a run has to fetch: all blobs of all images, each once, and whether there is room for them (pure).
//!
//! What must hold: a blob that several images have is counted and downloaded once; the number of blobs is bounded, and so is
//! how often images have them.

use std::collections::{HashMap, hash_map::Entry};

use super::resolve::ResolvedImage;
use crate::{
    cache::{
        ContentKey,
        storage::{
            StoreStatus,
            lru_index::{CompactKey, IndexKey, allocated},
        },
    },
    units,
};

/// How many different blobs the images of a run may have.
const MAX_BLOBS: usize = 200_000;
/// The same, where a blob counts for each image that has it.
const MAX_PARTS: usize = 2_000_000;

/// What a run has to fetch.
#[derive(Default)]
pub(super) struct Plan {
    pub images: Vec<PlannedImage>,
    pub blobs: Vec<PlannedBlob>,
    positions: HashMap<ContentKey, u32>,
    /// The blobs of all images, with those that several have.
    parts: usize,
}

/// An image whose blobs are known.
pub(super) struct PlannedImage {
    /// Without its blobs.
    pub image: ResolvedImage,
    /// The length of its blobs.
    pub bytes: u64,
    /// The positions of its blobs.
    pub blobs: Vec<u32>,
}

/// A blob of one or several images.
#[derive(Debug)]
pub(super) struct PlannedBlob {
    pub key: ContentKey,
    /// As the manifest says, in bytes.
    pub size: u64,
    pub is_here: bool,
    /// The images that have it, by their positions.
    pub images: Vec<u32>,
}

/// The run has too many blobs with the image of this name.
#[derive(Debug)]
pub(super) struct TooManyBlobs(pub String);

impl Plan {
    /// Adds an image; `is_here`: whether a blob is cached.
    ///
    /// # Errors
    /// The run has too many blobs with it; then it is not added.
    pub(super) fn add(
        &mut self,
        mut image: ResolvedImage,
        is_here: impl Fn(&ContentKey) -> bool,
    ) -> Result<(), TooManyBlobs> {
        let parts = self.parts + image.blobs.len();
        if self.blobs.len() + image.blobs.len() > MAX_BLOBS || parts > MAX_PARTS {
            return Err(TooManyBlobs(image.name));
        }
        self.parts = parts;
        let number = u32::try_from(self.images.len()).unwrap_or(u32::MAX);
        let (bytes, of_image) = (image.bytes(), std::mem::take(&mut image.blobs));
        let mut blobs = Vec::with_capacity(of_image.len());
        for blob in &of_image {
            let key = image.visibility().key(&blob.digest);
            let position = match self.positions.entry(key) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let key = new.key().clone();
                    let is_here = is_here(&key);
                    let position = u32::try_from(self.blobs.len()).unwrap_or(u32::MAX);
                    self.blobs.push(PlannedBlob { key, size: blob.size, is_here, images: Vec::new() });
                    *new.insert(position)
                }
            };
            if let Some(blob) = self.blobs.get_mut(position as usize)
                && blob.images.last() != Some(&number)
            {
                blob.images.push(number);
                blobs.push(position);
            }
        }
        self.images.push(PlannedImage { image, bytes, blobs });
        Ok(())
    }

    /// The length of all blobs that are to be fetched, in bytes.
    pub(super) fn missing_bytes(&self) -> u64 {
        self.sum(|blob| if blob.is_here { 0 } else { blob.size })
    }

    /// Why the images have no room together; `None`: they have, or nothing is missing.
    pub(super) fn lacks_room(&self, status: &StoreStatus) -> Option<String> {
        if self.missing_bytes() == 0 {
            return None;
        }
        let needed = self.sum(|blob| allocated(blob.size));
        let spare = status.free_bytes.map_or(u64::MAX, |free| free.saturating_sub(status.min_free));
        // What is cached and belongs to other images can be evicted.
        let on_disk = status.usage.total().saturating_add(spare);
        let (room, what) = match status.max_bytes <= on_disk {
            true => (status.max_bytes, "cache.max_size"),
            false => (on_disk, "what the file system has free beside cache.min_free, and what the cache can evict,"),
        };
        (needed > room).then(|| {
            let [needed, room] = [needed, room].map(units::bytes);
            format!("the images need {needed} together, and {what} is {room}: nothing was downloaded")
        })
    }

    /// The blobs, and what each takes on disk.
    pub(super) fn objects(&self) -> Vec<(CompactKey, u64)> {
        let object = |blob: &PlannedBlob| (CompactKey::from(&IndexKey::Blob(blob.key.clone())), allocated(blob.size));
        self.blobs.iter().map(object).collect()
    }

    fn sum(&self, bytes: impl Fn(&PlannedBlob) -> u64) -> u64 {
        self.blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(bytes(blob)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Visibility, storage::Usage},
        oci::{Algorithm, Digest},
    };

    fn key(name: &str) -> ContentKey {
        Visibility::Shared.key(&Digest::of(Algorithm::Sha256, name.as_bytes()))
    }

    fn plan(images: &[&[(&str, u64)]], here: &[&str]) -> Plan {
        let mut plan = Plan::default();
        for (number, blobs) in images.iter().enumerate() {
            let image = ResolvedImage::of_test(&number.to_string(), blobs);
            plan.add(image, |blob| here.iter().any(|name| key(name) == *blob)).unwrap();
        }
        plan
    }

    #[test]
    fn a_blob_of_several_images_is_planned_once() {
        let plan = plan(&[&[("a", 10), ("base", 100)], &[("b", 20), ("base", 100), ("base", 100)], &[]], &["a"]);
        let told: Vec<_> = plan.blobs.iter().map(|blob| (blob.size, blob.is_here, &*blob.images)).collect();
        assert_eq!(told, [(10, true, &[0][..]), (100, false, &[0, 1]), (20, false, &[1])]);
        let of_images: Vec<&[u32]> = plan.images.iter().map(|image| &*image.blobs).collect();
        assert_eq!(of_images, [&[0, 1][..], &[2, 1], &[]]);
        assert_eq!(plan.missing_bytes(), 120);
    }

    #[test]
    fn images_of_the_same_blobs_are_bounded_too() {
        let image = |name| ResolvedImage::of_test(name, &[("a", 10), ("base", 100)]);
        let mut plan = Plan { parts: MAX_PARTS - 3, ..Plan::default() };
        plan.add(image("first"), |_| true).unwrap();
        assert!(plan.add(image("second"), |_| true).is_err());
        assert_eq!((plan.images.len(), plan.blobs.len(), plan.images[0].bytes), (1, 2, 110));
        assert!(plan.images[0].image.blobs.is_empty(), "they are kept once");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_fetched() {
        const BLOCK: u64 = 4096;
        let status = |max_bytes, free_bytes| StoreStatus {
            usage: Usage::default(),
            max_bytes: max_bytes * BLOCK,
            min_free: BLOCK,
            free_bytes: Some(free_bytes * BLOCK),
            is_scanned: true,
            oldest_use: None,
        };
        let two = plan(&[&[("a", 1), ("b", BLOCK)]], &[]);
        assert_eq!(two.lacks_room(&status(2, 100)), None);
        assert!(
            two.lacks_room(&status(1, 100)).unwrap().contains("need 8.0 KiB together, and cache.max_size is 4.0 KiB")
        );
        assert_eq!(two.lacks_room(&status(100, 3)), None);
        assert!(two.lacks_room(&status(100, 2)).unwrap().contains("beside cache.min_free"));
        let unknown = StoreStatus { free_bytes: None, ..status(2, 0) };
        assert_eq!(two.lacks_room(&unknown), None);
        // All of it is here, whatever the limits are now.
        assert_eq!(plan(&[&[("a", BLOCK)]], &["a"]).lacks_room(&status(0, 0)), None);
        let huge = plan(&[&[("a", u64::MAX), ("b", u64::MAX)]], &[]);
        assert!(huge.lacks_room(&status(1 << 40, 1 << 40)).is_some());
    }
}
