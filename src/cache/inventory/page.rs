//! A page of the images that are here, sorted.

use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
    fmt,
    str::FromStr,
    time::SystemTime,
};

use super::{
    ImageName, Inventory,
    names::{NameState, Named, Unread},
    survey::{PlatformState, Survey},
    time_of,
};
use crate::{
    cache::{
        Visibility,
        storage::lru_index::{CompactKey, IndexKey},
    },
    oci::{Digest, Platform, Reference},
    rule::{Pattern, Subject},
};

/// The longest configuration of an image that is read for its platform, in bytes.
const MAX_CONFIGURATION: u64 = 256 * 1024;

/// How many platforms are shown of an image on a page.
const MAX_PLATFORMS: usize = 64;

/// By what images are sorted: the largest value first, equal ones by name; or all by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    #[default]
    Used,
    Size,
    Pulls,
    /// An image has its place in this order whatever is done with it.
    Name,
}

/// Which images an operator wants to see.
#[derive(Clone, Debug)]
pub(crate) struct PageQuery {
    /// `None`: all.
    pub pattern: Option<Pattern>,
    pub sort: Sort,
    pub limit: usize,
    /// Where the page before this one ended.
    pub after: Option<Cursor>,
    /// Whether images of upstreams that authorize each client are shown, too.
    pub sees_clients: bool,
}

/// The last image of a page: its value, and its name. A page goes on behind it, whatever changed meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    value: u64,
    name: ImageName,
}

/// Some of the images.
#[derive(Debug)]
pub(crate) struct Page {
    pub images: Vec<Image>,
    /// `None`: these are the last ones.
    pub next: Option<Cursor>,
    pub is_reading: bool,
    /// How many names there were no room for since the start.
    pub left_out: u64,
}

/// An image, and how much of it is here.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub name: ImageName,
    /// `None`: it is not read yet.
    pub digest: Option<Digest>,
    /// In bytes on disk; `None`: it is not read yet.
    pub size: Option<u64>,
    /// The part of the size that is configurations and layers.
    pub blob_bytes: Option<u64>,
    /// The part of the size that belongs to other names, too.
    pub shared: Option<u64>,
    pub platforms: Vec<PlatformState>,
    /// How many more platforms it has.
    pub more_platforms: usize,
    pub pulls: u64,
    pub last_use: Option<SystemTime>,
    pub confirmed: Option<SystemTime>,
    pub is_complete: bool,
    pub is_pinned: bool,
}

impl FromStr for Sort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "used" => Ok(Self::Used),
            "size" => Ok(Self::Size),
            "pulls" => Ok(Self::Pulls),
            "name" => Ok(Self::Name),
            _ => Err("write used, size, pulls or name"),
        }
    }
}

impl fmt::Display for Cursor {
    /// `1764489600,shared,docker.io/library/node:22`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.name.visibility {
            Visibility::Shared => "shared",
            Visibility::PerClient => "clients",
        };
        write!(f, "{},{part},{}", self.value, self.name)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (value, rest) = text.split_once(',')?;
            let (part, name) = rest.split_once(',')?;
            let visibility = match part {
                "shared" => Visibility::Shared,
                "clients" => Visibility::PerClient,
                _ => return None,
            };
            Some(Self { value: value.parse().ok()?, name: ImageName::parse(visibility, name).ok()? })
        };
        read().ok_or("write what the page before this one has as next")
    }
}

impl Inventory {
    pub(super) fn page_now(&self, query: &PageQuery) -> Page {
        let all = self.0.names.list(|_, state| is_shown(state));
        let page = {
            let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
            let mut survey = Survey::new(&summaries, &on_disk);
            let mut sizes = HashMap::new();
            choose(query, &all, |state| match survey.root(state) {
                Some(root) => *sizes.entry(root).or_insert_with(|| survey.measure(state).size),
                None => 0,
            })
        };
        let chosen: Vec<&Named> = page.iter().filter_map(|(_, at)| all.get(*at)).take(query.limit).collect();
        self.read_platforms(&chosen);
        let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
        let mut survey = Survey::new(&summaries, &on_disk).counting(&all);
        let images = chosen.iter().map(|named| image(&mut survey, named)).collect();
        let last = page.get(query.limit.saturating_sub(1)).filter(|_| page.len() > query.limit);
        let next = last.and_then(|(value, at)| Some(Cursor { value: *value, name: all.get(*at)?.name.clone() }));
        Page { images, next, is_reading: self.is_reading(), left_out: self.0.names.left_out() }
    }

    /// One image.
    pub(super) fn image_now(&self, name: &ImageName) -> Option<Image> {
        let all = self.0.names.list(|_, state| is_shown(state));
        let named = all.iter().find(|named| named.name == *name)?;
        self.read_platforms(&[named]);
        let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
        Some(image(&mut Survey::new(&summaries, &on_disk).counting(&all), named))
    }

    /// Reads the platforms of images that no index led to.
    fn read_platforms(&self, chosen: &[&Named]) {
        let unread: Vec<_> = {
            let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
            let mut survey = Survey::new(&summaries, &on_disk);
            let unread = chosen.iter().filter_map(|named| {
                let (number, configuration) = survey.unread_configuration(&named.state)?;
                Some((named.state.manifest.clone()?, number, configuration))
            });
            unread.collect()
        };
        for (manifest, number, configuration) in unread {
            let read = self.0.store.peek(&configuration.key(), MAX_CONFIGURATION);
            let platform = read.ok().flatten().and_then(|bytes| Platform::of_configuration(&bytes));
            let mut summaries = self.0.summaries.write();
            // The number may be another one's by now.
            if summaries.number(&manifest) == Some(number) {
                summaries.set_platform(number, platform);
            }
        }
    }
}

/// Whether a name leads to anything, as far as is known.
pub(super) fn is_shown(state: &NameState) -> bool {
    state.manifest.is_some() || state.unread != Unread::Nothing
}

/// The images of a page and the one behind it, each by its value and its place in the list.
fn choose(query: &PageQuery, all: &[Named], mut size: impl FnMut(&NameState) -> u64) -> Vec<(u64, usize)> {
    let mut values: Vec<(u64, usize)> = Vec::new();
    for (at, Named { name, state }) in all.iter().enumerate() {
        if !matches(query, name) {
            continue;
        }
        let value = match query.sort {
            Sort::Used => state.last_use.into(),
            Sort::Pulls => state.pulls,
            Sort::Size => size(state),
            Sort::Name => 0,
        };
        let is_behind = |after: &Cursor| order((value, name), (after.value, &after.name)) == Ordering::Greater;
        if query.after.as_ref().is_none_or(is_behind) {
            values.push((value, at));
        }
    }
    values.sort_unstable_by(|one, other| order((one.0, &all[one.1].name), (other.0, &all[other.1].name)));
    values.truncate(query.limit.saturating_add(1));
    values
}

fn matches(query: &PageQuery, name: &ImageName) -> bool {
    let is_allowed = query.sees_clients || name.visibility == Visibility::Shared;
    let subject = || Subject::reference(&name.upstream, &name.repository, &name.reference);
    is_allowed && query.pattern.as_ref().is_none_or(|pattern| pattern.matches(&subject()))
}

fn order(one: (u64, &ImageName), other: (u64, &ImageName)) -> Ordering {
    fn key<'a>((value, name): (u64, &'a ImageName)) -> impl Ord + use<'a> {
        let (is_digest, reference) = match &name.reference {
            Reference::Tag(tag) => (false, tag.as_str()),
            Reference::Digest(digest) => (true, digest.as_str()),
        };
        let is_of_clients = name.visibility == Visibility::PerClient;
        (Reverse(value), &*name.upstream, name.repository.as_str(), is_digest, reference, is_of_clients)
    }
    key(one).cmp(&key(other))
}

fn image(survey: &mut Survey<'_>, Named { name, state }: &Named) -> Image {
    let mut platforms = survey.platforms(state);
    let measure = survey.is_read(state).then(|| survey.measure(state));
    let is_complete = survey.is_image_complete(state, &platforms);
    let more_platforms = platforms.len().saturating_sub(MAX_PLATFORMS);
    platforms.truncate(MAX_PLATFORMS);
    Image {
        name: name.clone(),
        digest: state.manifest.as_ref().and_then(digest_of),
        size: measure.map(|measure| measure.size),
        blob_bytes: measure.map(|measure| measure.blobs),
        shared: measure.map(|measure| measure.shared),
        platforms,
        more_platforms,
        pulls: state.pulls,
        last_use: time_of(state.last_use),
        confirmed: time_of(state.confirmed),
        is_complete,
        is_pinned: state.is_pinned,
    }
}

fn digest_of(manifest: &CompactKey) -> Option<Digest> {
    match manifest.key() {
        IndexKey::Manifest(id) | IndexKey::Blob(id) | IndexKey::Partial(id) => Some(id.digest),
        IndexKey::Tag(_) => None,
    }
}
