//! What the upstreams have, and the truth about each of it.

use crate::dice::Dice;
use forebay_test_support::real::{
    image::{Blob, Format, Image},
    registry::Registry,
};

/// Where blobs break: around what is verified before its head is sent (64 KiB), around a batch (1 MiB), and beyond.
const SIZES: [usize; 12] =
    [1, 100, 65_535, 65_536, 65_537, 300_000, 1_048_576, 1_048_577, 2_500_000, 4_000_000, 700_000, 9_000_000];

/// Something that can be had by its digest.
pub struct Good {
    pub upstream: &'static str,
    pub repository: &'static str,
    pub blob: Blob,
    /// A manifest's tag; none: a blob.
    pub tag: Option<String>,
}

impl Good {
    /// What the last part of its path may be.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tag.as_deref().into_iter().chain([&*self.blob.digest])
    }

    pub fn path(&self) -> String {
        let kind = if self.tag.is_some() { "manifests" } else { "blobs" };
        format!("/v2/{}/{}/{kind}/{}", self.upstream, self.repository, self.blob.digest)
    }
}

pub struct Goods {
    pub all: Vec<Good>,
}

impl Goods {
    pub fn new() -> Goods {
        Goods { all: Vec::new() }
    }

    /// Fills a registry with blobs: `shared` of its sizes are the same in every registry.
    pub async fn fill(&mut self, registry: &Registry, upstream: &'static str, seed: u64, shared: usize) {
        let repository = "team/app";
        for (number, size) in SIZES.into_iter().enumerate() {
            let own = if number % 2 == 1 && number / 2 < shared { 0 } else { seed };
            let blob = Blob::random(own * 1000 + 7 * number as u64, size);
            registry.store(repository, &blob);
            self.all.push(Good { upstream, repository, blob, tag: None });
        }
        let pusher = registry.pusher();
        for number in 0..3 {
            let image = Image::new(Format::Oci, seed * 10 + number, &[20_000, 400_000]);
            let tag = format!("v{number}");
            pusher.image(repository, &tag, &image).await;
            let blobs = image.layers.iter().chain([&image.config]).cloned();
            self.all.extend(blobs.map(|blob| Good { upstream, repository, blob, tag: None }));
            self.all.push(Good { upstream, repository, blob: image.manifest.blob, tag: Some(tag) });
        }
    }

    pub fn of(&self, dice: &mut Dice, upstream: &str) -> &Good {
        let those: Vec<&Good> = self.all.iter().filter(|good| good.upstream == upstream).collect();
        those.get(dice.below(those.len() as u64) as usize).expect("every upstream has something")
    }
}
