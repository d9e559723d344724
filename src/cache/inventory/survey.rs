//! What of images is here, by what their manifests name and by what the disk has (pure but for the question to the disk).

use std::collections::HashMap;

use super::{
    names::{NameState, Named, Unread},
    objects::Number,
    summaries::{ChildSummary, ImagePlatform, Summaries, Summary, Visited},
};
use crate::{
    cache::{ObjectKind, storage::lru_index::CompactKey},
    oci::Platform,
};

/// An object that the survey has not asked the disk about yet.
const UNASKED: u64 = u64::MAX;
/// One that is not there.
const ABSENT: u64 = u64::MAX - 1;

/// One look at all images, during which each object is asked for once.
pub(super) struct Survey<'a> {
    summaries: &'a Summaries,
    on_disk: &'a dyn Fn(&CompactKey) -> Option<u64>,
    visited: Visited,
    /// By the number of the object: its bytes on disk.
    bytes: Vec<u64>,
    /// By the number of the object: how many names it belongs to. Empty unless they were counted.
    names: Vec<u32>,
}

/// What is here of an image, in bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measure {
    pub size: u64,
    /// The part that is blobs: configurations and layers.
    pub blobs: u64,
    /// The part that belongs to another name, too.
    pub shared: u64,
}

/// A platform of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlatformState {
    /// `None`: it is not said, or not known yet.
    pub platform: Option<Platform>,
    /// Whether its manifest is here.
    pub is_here: bool,
    /// Whether its manifest, its configuration and all of its layers are here.
    pub is_complete: bool,
}

impl<'a> Survey<'a> {
    /// `on_disk`: the bytes that an object takes, if it is there.
    pub(super) fn new(summaries: &'a Summaries, on_disk: &'a dyn Fn(&CompactKey) -> Option<u64>) -> Self {
        let end = summaries.objects_end();
        Self { summaries, on_disk, visited: Visited::default(), bytes: vec![UNASKED; end], names: Vec::new() }
    }

    /// Counts to how many of these names each object belongs.
    pub(super) fn counting(mut self, all: &[Named]) -> Self {
        let mut names = vec![0; self.summaries.objects_end()];
        for (root, of_root) in self.by_root(all) {
            let count = u32::try_from(of_root.len()).unwrap_or(u32::MAX);
            self.begin();
            self.visit_root(root, |number| names[number as usize] += count);
        }
        self.names = names;
        self
    }

    /// The names by the manifest that they lead to: those of one manifest consist of the same, however many they are.
    pub(super) fn by_root<'n>(&self, all: impl IntoIterator<Item = &'n Named>) -> HashMap<Number, Vec<&'n Named>> {
        let mut groups = HashMap::<_, Vec<_>>::new();
        for named in all {
            if let Some(root) = self.root(&named.state) {
                groups.entry(root).or_default().push(named);
            }
        }
        groups
    }

    /// Whether all that is here of an image is known.
    pub(super) fn is_read(&self, state: &NameState) -> bool {
        let is_known = |manifest| {
            self.root(state).is_some_and(|root| match self.summaries.summary(root) {
                Some(Summary::LeftOut) => false,
                Some(Summary::Index(children)) => !children.iter().any(|child| self.is_left_out(child.manifest)),
                Some(Summary::Image { .. } | Summary::Other) => true,
                None => (self.on_disk)(manifest).is_none(),
            })
        };
        state.unread == Unread::Nothing && state.manifest.as_ref().is_some_and(is_known)
    }

    fn is_left_out(&self, manifest: Number) -> bool {
        matches!(self.summaries.summary(manifest), Some(Summary::LeftOut))
    }

    /// What is here of an image.
    pub(super) fn measure(&mut self, state: &NameState) -> Measure {
        let mut measure = Measure::default();
        let mut found = Vec::new();
        self.visit(state, |number| found.push(number));
        for number in found {
            let bytes = self.bytes_of(number).unwrap_or_default();
            measure.size += bytes;
            measure.blobs +=
                if self.summaries.key(number).is_some_and(|key| key.kind() == ObjectKind::Blob) { bytes } else { 0 };
            measure.shared += if self.names_of(number) > 1 { bytes } else { 0 };
        }
        measure
    }

    /// Visits each object of an image once.
    fn visit(&mut self, state: &NameState, visit: impl FnMut(Number)) {
        self.begin();
        if let Some(root) = self.root(state) {
            self.visit_root(root, visit);
        }
    }

    /// Forgets which objects were visited.
    pub(super) fn begin(&mut self) {
        self.visited.begin(self.summaries.objects_end());
    }

    /// Visits what a manifest leads to and was not visited since [`Survey::begin`].
    pub(super) fn visit_root(&mut self, root: Number, visit: impl FnMut(Number)) {
        self.summaries.walk(root, &mut self.visited, visit);
    }

    /// The manifest of a name.
    pub(super) fn root(&self, state: &NameState) -> Option<Number> {
        self.summaries.number(state.manifest.as_ref()?)
    }

    /// The bytes on disk of all that these manifests lead to.
    pub(super) fn bytes_of_roots(&mut self, roots: impl IntoIterator<Item = Number>) -> u64 {
        let mut found = Vec::new();
        self.begin();
        roots.into_iter().for_each(|root| self.visit_root(root, |number| found.push(number)));
        found.into_iter().map(|number| self.bytes_of(number).unwrap_or_default()).sum()
    }

    /// How many bytes an object takes on disk, if it is there.
    pub(super) fn bytes_of(&mut self, number: Number) -> Option<u64> {
        let bytes = self.bytes.get_mut(number as usize)?;
        if *bytes == UNASKED {
            *bytes = self.summaries.key(number).and_then(self.on_disk).map_or(ABSENT, |bytes| bytes.min(ABSENT - 1));
        }
        Some(*bytes).filter(|bytes| *bytes != ABSENT)
    }

    /// How many names an object belongs to.
    pub(super) fn names_of(&self, number: Number) -> u32 {
        self.names.get(number as usize).copied().unwrap_or_default()
    }

    /// The platforms of an image: those of its index, or its own.
    pub(super) fn platforms(&mut self, state: &NameState) -> Vec<PlatformState> {
        let Some(root) = self.root(state) else { return Vec::new() };
        match self.summaries.summary(root) {
            Some(Summary::Index(children)) => {
                let has_platforms = children.iter().any(|child| self.summaries.platform(*child).is_some());
                // What has no platform beside others that have one is no image: an attestation.
                let shown = |child: &&ChildSummary| !has_platforms || self.summaries.platform(**child).is_some();
                children.iter().filter(shown).map(|child| self.state_of(*child)).collect()
            }
            Some(Summary::Image { platform, .. }) => {
                let platform = match platform {
                    ImagePlatform::At(place) => self.summaries.platform_at(*place).cloned(),
                    ImagePlatform::Unread | ImagePlatform::Unsaid => None,
                };
                let (is_here, is_complete) = (self.is_here(root), self.is_complete(root));
                vec![PlatformState { platform, is_here, is_complete }]
            }
            Some(Summary::Other | Summary::LeftOut) | None => Vec::new(),
        }
    }

    fn state_of(&mut self, child: ChildSummary) -> PlatformState {
        let platform = self.summaries.platform(child).cloned();
        PlatformState { platform, is_here: self.is_here(child.manifest), is_complete: self.is_complete(child.manifest) }
    }

    fn is_here(&mut self, number: Number) -> bool {
        self.bytes_of(number).is_some()
    }

    fn is_complete(&mut self, manifest: Number) -> bool {
        let summaries = self.summaries;
        let has_parts = match summaries.summary(manifest) {
            Some(Summary::Image { blobs, .. }) => blobs.iter().all(|blob| self.is_here(*blob)),
            // An index within an index.
            Some(Summary::Index(children)) => children.iter().all(|child| self.is_here(child.manifest)),
            Some(Summary::Other) => true,
            Some(Summary::LeftOut) | None => false,
        };
        has_parts && self.is_here(manifest)
    }

    /// Whether all of an image is here, of each platform whose manifest is here.
    pub(super) fn is_image_complete(&mut self, state: &NameState, platforms: &[PlatformState]) -> bool {
        let Some(root) = self.root(state) else { return false };
        let are_complete = platforms.iter().all(|platform| !platform.is_here || platform.is_complete);
        let has_one = match self.summaries.summary(root) {
            Some(Summary::Other) => true,
            Some(Summary::Index(children)) => children.is_empty() || platforms.iter().any(|platform| platform.is_here),
            Some(Summary::Image { .. }) => true,
            Some(Summary::LeftOut) | None => false,
        };
        are_complete && has_one && self.is_here(root)
    }

    /// How many platforms of an image are here, each with all of it. What has no platforms counts as one.
    pub(super) fn complete_platforms(&mut self, state: &NameState) -> usize {
        let platforms = self.platforms(state);
        if platforms.is_empty() {
            return usize::from(self.is_image_complete(state, &platforms));
        }
        let has_root = self.root(state).is_some_and(|root| self.is_here(root));
        if has_root { platforms.iter().filter(|platform| platform.is_complete).count() } else { 0 }
    }

    /// The configuration of an image that no index led to, if it is here and says a platform that is not read yet.
    pub(super) fn unread_configuration(&mut self, state: &NameState) -> Option<(Number, CompactKey)> {
        let root = self.root(state)?;
        let Some(Summary::Image { blobs, platform: ImagePlatform::Unread }) = self.summaries.summary(root) else {
            return None;
        };
        let configuration = *blobs.first()?;
        let key = self.summaries.key(configuration)?.clone();
        self.is_here(configuration).then_some((root, key))
    }
}
