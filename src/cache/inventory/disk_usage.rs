//! What takes the room of the cache, by what it belongs to.
//!
//! What must hold: each byte counts in one part, and the parts together are what counts against `max_size`.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{ImageName, Inventory, names::Named, objects::Number, survey::Survey};
use crate::{
    cache::{ObjectKind, Visibility, storage::lru_index::Usage},
    oci::Repository,
};

/// How many repositories are listed, the largest.
const MAX_REPOSITORIES: usize = 50;
/// Of how many repositories it is counted what their images have in common: those whose images have most by themselves.
const MAX_CANDIDATES: usize = 1000;

/// Bytes on disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub total: u64,
    /// By upstream, the largest first: what belongs to its images and to those of no other upstream.
    pub upstreams: Vec<(Arc<str>, u64)>,
    /// What images of several upstreams have in common, of those that are told.
    pub several: u64,
    /// Images of upstreams that authorize each client, where they are not told.
    pub of_clients: u64,
    /// Manifests and blobs that belong to no known image.
    pub no_image: u64,
    pub tags: u64,
    pub partial: u64,
    pub overhead: u64,
    pub in_flight: u64,
    /// The largest repositories, with all that belongs to their images: what two of them share counts in both.
    pub repositories: Vec<(Arc<str>, Repository, u64)>,
    pub is_reading: bool,
}

/// What an object belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    None,
    /// The place of the upstream in the list of all.
    One(usize),
    /// The same of one of them: all of them authorize each client, or none does.
    Several(usize),
}

impl Inventory {
    pub(super) fn disk_usage_now(&self, sees_clients: bool) -> DiskUsage {
        let all = self.0.names.list(|_, state| state.manifest.is_some());
        let usage = {
            let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
            let mut survey = Survey::new(&summaries, &on_disk);
            divide(&mut survey, all, summaries.objects_end(), sees_clients, || self.0.store.usage())
        };
        DiskUsage { is_reading: self.is_reading(), ..usage }
    }
}

/// `usage`: all that counts against `max_size`, asked last, since downloads go on meanwhile.
fn divide(
    survey: &mut Survey<'_>,
    mut all: Vec<Named>,
    objects: usize,
    sees_clients: bool,
    usage: impl FnOnce() -> Usage,
) -> DiskUsage {
    all.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
    let mut owners = vec![Owner::None; objects];
    let (mut upstreams, mut repositories) = (Vec::<Place<'_>>::new(), Vec::<(Place<'_>, BTreeSet<Number>)>::new());
    for of_repository in all.chunk_by(|one, other| place(one) == place(other)) {
        let Some(first) = of_repository.first() else { continue };
        if upstreams.last().is_none_or(|last| upstream_of(*last) != upstream_of(place(first))) {
            upstreams.push(place(first));
            survey.begin();
        }
        let at = upstreams.len() - 1;
        let roots: BTreeSet<Number> = of_repository.iter().filter_map(|named| survey.root(&named.state)).collect();
        for root in &roots {
            // What this upstream owns already is not visited again.
            survey.visit_root(*root, |number| {
                let Some(owner) = owners.get_mut(number as usize) else { return };
                *owner = match *owner {
                    Owner::None => Owner::One(at),
                    Owner::One(other) | Owner::Several(other) => Owner::Several(other),
                };
            });
        }
        if sees_clients || !place(first).is_of_clients {
            repositories.push((place(first), roots));
        }
    }
    let (mut by_place, mut several, mut of_clients) = (vec![0; upstreams.len()], 0, 0);
    for (number, owner) in (0..).zip(owners) {
        let bytes = if owner == Owner::None { 0 } else { survey.bytes_of(number).unwrap_or_default() };
        match owner {
            Owner::One(at) => by_place[at] += bytes,
            Owner::Several(at) if sees_clients || !upstreams[at].is_of_clients => several += bytes,
            Owner::Several(_) => of_clients += bytes,
            Owner::None => {}
        }
    }
    let mut by_upstream = HashMap::<&Arc<str>, u64>::new();
    for (place, bytes) in upstreams.iter().zip(by_place) {
        match sees_clients || !place.is_of_clients {
            true => *by_upstream.entry(place.upstream).or_default() += bytes,
            false => of_clients += bytes,
        }
    }
    let repositories = largest(survey, repositories);
    let mut upstreams: Vec<_> = by_upstream.into_iter().map(|(upstream, bytes)| (upstream.clone(), bytes)).collect();
    upstreams.sort_unstable_by(|one, other| (Reverse(one.1), &one.0).cmp(&(Reverse(other.1), &other.0)));
    let usage = usage();
    let bytes = |kind: ObjectKind| usage.totals[kind as usize].bytes;
    let of_images = upstreams.iter().map(|(_, bytes)| bytes).sum::<u64>() + several + of_clients;
    let no_image = (bytes(ObjectKind::Blob) + bytes(ObjectKind::Manifest)).saturating_sub(of_images);
    let (tags, partial) = (bytes(ObjectKind::Tag), bytes(ObjectKind::Partial));
    DiskUsage {
        total: of_images + no_image + tags + partial + usage.overhead + usage.in_flight,
        upstreams,
        several,
        of_clients,
        no_image,
        tags,
        partial,
        overhead: usage.overhead,
        in_flight: usage.in_flight,
        repositories: repositories
            .into_iter()
            .map(|(place, bytes)| (place.upstream.clone(), place.repository.clone(), bytes))
            .collect(),
        is_reading: false,
    }
}

/// The largest of these repositories, each with what belongs to its images.
fn largest<'a>(survey: &mut Survey<'_>, repositories: Vec<(Place<'a>, BTreeSet<Number>)>) -> Vec<(Place<'a>, u64)> {
    let mut by_root = HashMap::new();
    let mut bytes_of = |roots: &BTreeSet<Number>| -> u64 {
        let of_one = |root: &Number| *by_root.entry(*root).or_insert_with(|| survey.bytes_of_roots([*root]));
        roots.iter().map(of_one).sum()
    };
    // No repository has more than its images have by themselves.
    let mut candidates: Vec<_> = repositories.into_iter().map(|(at, roots)| (bytes_of(&roots), at, roots)).collect();
    candidates.sort_unstable_by_key(|(most, ..)| Reverse(*most));
    candidates.truncate(MAX_CANDIDATES);
    let exact = |(most, at, roots): (u64, Place<'a>, BTreeSet<Number>)| match roots.len() {
        0 | 1 => (at, most),
        _ => (at, survey.bytes_of_roots(roots)),
    };
    let mut largest: Vec<_> = candidates.into_iter().map(exact).collect();
    largest.sort_by_key(|(_, bytes)| Reverse(*bytes));
    largest.truncate(MAX_REPOSITORIES);
    largest
}

/// Where an image is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    /// Content of the two parts of the cache is never the same.
    is_of_clients: bool,
    upstream: &'a Arc<str>,
    repository: &'a Repository,
}

fn upstream_of(place: Place<'_>) -> (bool, &Arc<str>) {
    (place.is_of_clients, place.upstream)
}

fn place(named: &Named) -> Place<'_> {
    let ImageName { visibility, upstream, repository, .. } = &named.name;
    Place { is_of_clients: *visibility == Visibility::PerClient, upstream, repository }
}
