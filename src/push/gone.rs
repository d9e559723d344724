//! Blobs that were deleted through us: what of them is on its way into the cache is not served under that repository.
//!
//! Their bytes are removed, but another repository's clients may bring them back. The upstream is asked instead, until
//! the blob is pushed again or an hour has passed; we do not learn of what is deleted in other ways.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::oci::{Digest, Repository};

/// How many deletions are remembered.
const MOST: u64 = 100_000;
const TTL: Duration = Duration::from_secs(60 * 60);

type Place = (Arc<str>, Repository, Digest);

/// The blobs that were deleted lately. A cheap handle.
#[derive(Clone, Debug)]
pub struct Gone {
    /// Whether there ever was one: usually not, and every blob is asked about.
    any: Arc<AtomicBool>,
    places: moka::sync::Cache<Place, ()>,
}

impl Default for Gone {
    fn default() -> Self {
        let places = moka::sync::Cache::builder().max_capacity(MOST).time_to_live(TTL).build();
        Self { any: Arc::default(), places }
    }
}

impl Gone {
    pub fn note(&self, upstream: &Arc<str>, repository: &Repository, digest: &Digest) {
        self.any.store(true, Ordering::SeqCst);
        self.places.insert((upstream.clone(), repository.clone(), digest.clone()), ());
    }

    pub fn forget(&self, upstream: &Arc<str>, repository: &Repository, digest: &Digest) {
        self.places.invalidate(&(upstream.clone(), repository.clone(), digest.clone()));
    }

    pub fn contains(&self, upstream: &Arc<str>, repository: &Repository, digest: &Digest) -> bool {
        self.any.load(Ordering::SeqCst)
            && self.places.contains_key(&(upstream.clone(), repository.clone(), digest.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_gone_under_its_repository_alone_and_until_it_is_pushed_again() {
        let gone = Gone::default();
        let (hub, other): (Arc<str>, Arc<str>) = ("docker.io".into(), "ghcr.io".into());
        let (app, base) = ("team/app".parse().unwrap(), "team/base".parse().unwrap());
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        gone.note(&hub, &app, &digest);
        assert!(gone.contains(&hub, &app, &digest));
        assert!(!gone.contains(&hub, &base, &digest) && !gone.contains(&other, &app, &digest));
        gone.forget(&hub, &app, &digest);
        assert!(!gone.contains(&hub, &app, &digest));
    }
}
