//! What manifests name, by the numbers of the objects (pure).
//!
//! What must hold: a summary never changes, as its manifest never does; an object of which images share the bytes is
//! there once; a walk over an image visits each of its objects once and comes to an end, whatever its manifests say.

use std::collections::{BTreeSet, HashMap};

use super::{
    document::Document,
    objects::{Number, Objects},
};
use crate::{
    cache::{
        ContentKey,
        storage::lru_index::{CompactKey, IndexKey},
    },
    oci::{Digest, Platform},
};

/// How many different platforms are remembered; there are a few dozen.
const MAX_PLATFORMS: usize = 1024;
/// How many objects a walk visits at most.
const MAX_WALK: usize = 65_536;
/// How many objects are counted of an image that may be too large.
const MAX_WEIGHED: usize = 4096;
/// What an object takes in memory at most: see [`Objects`].
const OBJECT_MEMORY: usize = 64;
/// What an entry of the map takes beside the entry itself: hash maps are three quarters full on average.
const MAP_OVERHEAD: usize = 12;

/// What one manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Summary {
    Index(Box<[ChildSummary]>),
    Image {
        /// The configuration first.
        blobs: Box<[Number]>,
        platform: ImagePlatform,
    },
    Other,
    /// There was no room to remember it. It stays so: to read it again might take the same room again.
    LeftOut,
}

/// The platform of an image that no index led to: its configuration says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImagePlatform {
    Unread,
    Unsaid,
    /// Where it is in the list of all.
    At(u16),
}

/// A manifest of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChildSummary {
    pub manifest: Number,
    /// Where the platform is in the list of all.
    platform: Option<u16>,
}

#[derive(Default)]
pub(super) struct Summaries {
    objects: Objects,
    by_manifest: HashMap<Number, Summary>,
    /// The bytes of the lists of all summaries.
    parts: usize,
    platforms: Vec<Platform>,
}

/// Which objects a walk has visited.
#[derive(Default)]
pub(super) struct Visited {
    marks: Vec<u32>,
    walk: u32,
    left: Vec<Number>,
}

impl Visited {
    /// Begins a walk that visits everything anew.
    pub(super) fn begin(&mut self, objects: usize) {
        self.marks.resize(objects.max(self.marks.len()), 0);
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.marks.fill(0);
            self.walk = 1;
        }
    }

    fn is_first(&mut self, number: Number) -> bool {
        let walk = self.walk;
        self.marks.get_mut(number as usize).is_some_and(|mark| std::mem::replace(mark, walk) != walk)
    }
}

impl Summaries {
    pub(super) fn number(&self, of: &CompactKey) -> Option<Number> {
        self.objects.number(of)
    }

    pub(super) fn key(&self, number: Number) -> Option<&CompactKey> {
        self.objects.key(number)
    }

    pub(super) fn summary(&self, manifest: Number) -> Option<&Summary> {
        self.by_manifest.get(&manifest)
    }

    /// The platform of a manifest of an index.
    pub(super) fn platform(&self, child: ChildSummary) -> Option<&Platform> {
        self.platforms.get(usize::from(child.platform?))
    }

    /// The platform of an image by itself, if it was read.
    pub(super) fn platform_at(&self, place: u16) -> Option<&Platform> {
        self.platforms.get(usize::from(place))
    }

    /// Takes what the configuration of an image says.
    pub(super) fn set_platform(&mut self, image: Number, said: Option<Platform>) {
        let place = said.and_then(|platform| self.place_of(platform));
        if let Some(Summary::Image { platform, .. }) = self.by_manifest.get_mut(&image) {
            *platform = place.map_or(ImagePlatform::Unsaid, ImagePlatform::At);
        }
    }

    /// The manifests of an index of which nothing is read yet.
    pub(super) fn unread_children(&self, manifest: &CompactKey) -> Vec<CompactKey> {
        let Some(Summary::Index(children)) = self.number(manifest).and_then(|number| self.summary(number)) else {
            return Vec::new();
        };
        let unread = children.iter().filter(|child| !self.by_manifest.contains_key(&child.manifest));
        unread.filter_map(|child| self.key(child.manifest).cloned()).collect()
    }

    /// One more than the highest number of an object.
    pub(super) fn objects_end(&self) -> usize {
        self.objects.end()
    }

    /// How many objects there are.
    #[cfg(test)]
    pub(super) fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Makes a manifest known, of which a name leads to it and nothing is read yet.
    pub(super) fn expect(&mut self, manifest: CompactKey) -> Option<Number> {
        self.objects.add(manifest)
    }

    /// Whether a manifest is known and nothing is read of it yet.
    pub(super) fn is_expected(&self, manifest: &CompactKey) -> bool {
        self.number(manifest).is_some_and(|number| !self.by_manifest.contains_key(&number))
    }

    /// Takes what a manifest names.
    pub(super) fn insert(&mut self, manifest: &ContentKey, document: Document) {
        let visibility = manifest.visibility;
        let manifest_of = |digest: &Digest| CompactKey::from(&IndexKey::Manifest(visibility.key(digest)));
        let blob_of = |digest: &Digest| CompactKey::from(&IndexKey::Blob(visibility.key(digest)));
        let Some(number) = self.objects.add(manifest_of(&manifest.digest)) else { return };
        if self.by_manifest.contains_key(&number) {
            return;
        }
        let summary = match document {
            Document::Index(children) => {
                let children = children.into_iter().filter_map(|child| {
                    let platform = child.platform.and_then(|platform| self.place_of(platform));
                    let manifest = self.objects.add(manifest_of(&child.digest))?;
                    Some(ChildSummary { manifest, platform })
                });
                Summary::Index(children.collect())
            }
            Document::Image(blobs) => {
                let blobs = blobs.iter().filter_map(|blob| self.objects.add(blob_of(blob))).collect();
                Summary::Image { blobs, platform: ImagePlatform::Unread }
            }
            Document::Other => Summary::Other,
        };
        self.parts += summary.bytes();
        self.by_manifest.insert(number, summary);
    }

    fn place_of(&mut self, platform: Platform) -> Option<u16> {
        let place = match self.platforms.iter().position(|known| *known == platform) {
            Some(place) => place,
            None if self.platforms.len() < MAX_PLATFORMS => {
                self.platforms.push(platform);
                self.platforms.len() - 1
            }
            None => return None,
        };
        u16::try_from(place).ok()
    }

    /// Visits the objects of an image that were not visited since [`Visited::begin`], its manifest among them.
    pub(super) fn walk(&self, root: Number, visited: &mut Visited, visit: impl FnMut(Number)) {
        self.walk_up_to(MAX_WALK, root, visited, visit);
    }

    fn walk_up_to(&self, most: usize, root: Number, visited: &mut Visited, mut visit: impl FnMut(Number)) {
        let mut left = std::mem::take(&mut visited.left);
        left.push(root);
        let mut steps = 0;
        while let Some(number) = left.pop().filter(|_| steps < most) {
            steps += 1;
            if !visited.is_first(number) {
                continue;
            }
            visit(number);
            match self.summary(number) {
                Some(Summary::Index(children)) => left.extend(children.iter().map(|child| child.manifest)),
                Some(Summary::Image { blobs, .. }) => {
                    steps += blobs.len();
                    blobs.iter().filter(|blob| visited.is_first(**blob)).for_each(|blob| visit(*blob));
                }
                Some(Summary::Other | Summary::LeftOut) | None => {}
            }
        }
        left.clear();
        visited.left = left;
    }

    /// Forgets all that belongs to none of these manifests.
    pub(super) fn retain(&mut self, roots: impl IntoIterator<Item = CompactKey>) {
        let mut visited = Visited::default();
        visited.begin(self.objects_end());
        let mut is_used = vec![false; self.objects_end()];
        for root in roots {
            if let Some(root) = self.number(&root) {
                // All of it: the number of an object that a summary names must not be given to another one.
                self.walk_up_to(usize::MAX, root, &mut visited, |number| is_used[number as usize] = true);
            }
        }
        let Self { objects, by_manifest, parts, .. } = self;
        by_manifest.retain(|manifest, summary| {
            let stays = is_used[*manifest as usize];
            if !stays {
                *parts -= summary.bytes();
            }
            stays
        });
        objects.retain(|number| is_used[number as usize]);
        if by_manifest.capacity() > 2 * by_manifest.len() {
            by_manifest.shrink_to_fit();
        }
    }

    /// Of these images, leaves out those that consist of most, until about so many bytes are free once [`Self::retain`]
    /// has dropped what belongs to no other image. Whether there was any to leave out.
    pub(super) fn leave_out_largest(&mut self, roots: impl IntoIterator<Item = CompactKey>, bytes: usize) -> bool {
        let numbers: BTreeSet<Number> = roots.into_iter().filter_map(|root| self.number(&root)).collect();
        let (mut visited, mut weights) = (Visited::default(), Vec::<(usize, Number)>::new());
        for root in numbers {
            if let Some(Summary::Index(_) | Summary::Image { .. }) = self.summary(root) {
                let mut weight = 0;
                visited.begin(self.objects_end());
                self.walk_up_to(MAX_WEIGHED, root, &mut visited, |_| weight += 1);
                weights.push((weight, root));
            }
        }
        weights.sort_unstable_by(|one, other| other.cmp(one));
        let mut freed = 0;
        for (weight, root) in &weights {
            if freed >= bytes {
                break;
            }
            if let Some(summary) = self.by_manifest.get_mut(root) {
                let before = std::mem::replace(summary, Summary::LeftOut).bytes();
                self.parts -= before;
                freed += before + weight * OBJECT_MEMORY;
            }
        }
        !weights.is_empty()
    }

    /// The bytes in memory.
    pub(super) fn memory(&self) -> usize {
        let of_map = self.by_manifest.len() * (size_of::<(Number, Summary)>() + MAP_OVERHEAD);
        self.objects.memory() + of_map + self.parts
    }
}

impl Summary {
    /// The bytes of its list.
    fn bytes(&self) -> usize {
        match self {
            Self::Index(children) => size_of_val(&**children),
            Self::Image { blobs, .. } => size_of_val(&**blobs),
            Self::Other | Self::LeftOut => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::document::Child, *};
    use crate::{cache::Visibility, oci::Algorithm};

    /// Images, indices and artifacts among a few digests; an index may name itself, or what is never read.
    type Model = HashMap<u8, (bool, Vec<u8>)>;

    fn digest(of: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[of])
    }

    fn key(is_manifest: bool, of: u8) -> CompactKey {
        let id = Visibility::Shared.key(&digest(of));
        CompactKey::from(&if is_manifest { IndexKey::Manifest(id) } else { IndexKey::Blob(id) })
    }

    fn summaries(model: &Model) -> Summaries {
        let mut summaries = Summaries::default();
        for (of, (is_index, parts)) in model {
            let document = match is_index {
                true => {
                    Document::Index(parts.iter().map(|part| Child { digest: digest(*part), platform: None }).collect())
                }
                false => Document::Image(parts.iter().map(|part| digest(*part)).collect()),
            };
            summaries.insert(&Visibility::Shared.key(&digest(*of)), document);
        }
        summaries
    }

    /// What an image consists of, by the model: manifests and blobs.
    fn closure(model: &Model, root: u8, found: &mut BTreeSet<(bool, u8)>) {
        if !found.insert((true, root)) {
            return;
        }
        match model.get(&root) {
            Some((true, children)) => children.iter().for_each(|child| closure(model, *child, found)),
            Some((false, blobs)) => found.extend(blobs.iter().map(|blob| (false, *blob))),
            None => {}
        }
    }

    fn walked(summaries: &Summaries, root: u8, visited: &mut Visited) -> Vec<CompactKey> {
        let mut found = Vec::new();
        visited.begin(summaries.objects_end());
        let Some(root) = summaries.number(&key(true, root)) else { return found };
        summaries.walk(root, visited, |number| found.push(summaries.key(number).unwrap().clone()));
        found
    }

    proptest! {
        #[test]
        fn a_walk_visits_what_the_model_has(
            model in prop::collection::hash_map(0u8..12, (any::<bool>(), prop::collection::vec(0u8..20, 0..6)), 0..12),
            kept in prop::collection::btree_set(0u8..12, 0..6),
            later in prop::collection::hash_map(0u8..12, (any::<bool>(), prop::collection::vec(20u8..40, 0..6)), 0..12),
        ) {
            let mut summaries = summaries(&model);
            let mut visited = Visited::default();
            for root in model.keys() {
                let mut expected = BTreeSet::new();
                closure(&model, *root, &mut expected);
                let found = walked(&summaries, *root, &mut visited);
                prop_assert_eq!(found.len(), expected.len());
                prop_assert!(expected.iter().all(|(is_manifest, of)| found.contains(&key(*is_manifest, *of))));
            }
            summaries.retain(kept.iter().map(|root| key(true, *root)));
            let mut expected = BTreeSet::new();
            kept.iter().filter(|root| model.contains_key(root)).for_each(|root| closure(&model, *root, &mut expected));
            prop_assert!(expected.iter().all(|(is_manifest, of)| summaries.number(&key(*is_manifest, *of)).is_some()));
            // Numbers that are given again change nothing of what was kept.
            for (of, (_, blobs)) in later {
                let blobs = blobs.iter().map(|blob| digest(*blob)).collect();
                summaries.insert(&Visibility::Shared.key(&digest(of + 100)), Document::Image(blobs));
            }
            for root in kept.iter().filter(|root| model.contains_key(root)) {
                let mut expected = BTreeSet::new();
                closure(&model, *root, &mut expected);
                let found = walked(&summaries, *root, &mut visited);
                prop_assert_eq!(found.len(), expected.len());
                prop_assert!(expected.iter().all(|(is_manifest, of)| found.contains(&key(*is_manifest, *of))));
            }
            summaries.retain([]);
            prop_assert_eq!((summaries.objects(), summaries.parts, summaries.by_manifest.len()), (0, 0, 0));
        }
    }

    #[test]
    fn platforms_are_bounded() {
        let mut summaries = Summaries::default();
        let children = (0..2 * MAX_PLATFORMS).map(|number| {
            let config = format!(r#"{{"os":"linux","architecture":"a{number}"}}"#);
            Child { digest: digest(0), platform: Platform::of_configuration(config.as_bytes()) }
        });
        summaries.insert(&Visibility::Shared.key(&digest(1)), Document::Index(children.collect()));
        let index = summaries.number(&key(true, 1)).unwrap();
        let Some(Summary::Index(children)) = summaries.summary(index) else { panic!("an index") };
        let shown = |child: usize| summaries.platform(children[child]).map(Platform::as_str);
        assert_eq!((shown(7), shown(MAX_PLATFORMS - 1)), (Some("linux/a7"), Some("linux/a1023")));
        assert_eq!(shown(MAX_PLATFORMS), None);
    }
}
