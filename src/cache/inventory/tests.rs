//! The inventory over a real store, against a plain model.

mod crafted;
mod pinned;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{names::MAX_NAMES, reader::Reader, *};
use crate::{cache::Config, metrics::Metrics, oci::Algorithm, rule::Pattern};

/// Which blobs each image has: neighbours share one, and all of them another one.
const IMAGES: u8 = 6;

fn blob(number: u8) -> (Digest, Vec<u8>) {
    // So long that each takes another number of blocks.
    let content = vec![number; 1 + 5000 * usize::from(number)];
    (Digest::of(Algorithm::Sha256, &content), content)
}

fn blobs_of(image: u8) -> BTreeSet<u8> {
    BTreeSet::from([image, image + 1, 20])
}

fn manifest(image: u8) -> (Digest, Vec<u8>) {
    let descriptor = |number: u8| {
        let (digest, content) = blob(number);
        serde_json::json!({ "mediaType": "a/b", "digest": digest.as_str(), "size": content.len() })
    };
    let blobs: Vec<_> = blobs_of(image).into_iter().map(descriptor).collect();
    let text = serde_json::json!({
        "schemaVersion": 2, "config": blobs[0], "layers": &blobs[1..], "annotations": { "number": image.to_string() },
    })
    .to_string();
    (Digest::of(Algorithm::Sha256, text.as_bytes()), text.into_bytes())
}

fn blocks(len: usize) -> u64 {
    len.div_ceil(4096) as u64 * 4096
}

/// A store, and the inventory over it.
struct Fixture {
    _directory: tempfile::TempDir,
    runtime: Runtime,
    store: DiskStore,
    inventory: Inventory,
}

impl Fixture {
    fn new() -> Self {
        Self::within(bounds::MAX_MEMORY)
    }

    /// With so many bytes for names and summaries.
    fn within(max_memory: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { max_size: 1 << 40, ..Config::at(directory.path()) };
        let store = DiskStore::open(&config, Metrics::new().unwrap()).unwrap();
        let runtime = Runtime::new().unwrap();
        runtime.block_on(store.scan());
        let inventory = Inventory::within(max_memory, store.clone());
        Self { _directory: directory, runtime, store, inventory }
    }

    fn put(&self, key: IndexKey, content: &[u8]) {
        self.runtime.block_on(self.store.write(key, content.to_vec())).unwrap();
    }

    fn put_manifest(&self, content: &[u8]) -> ContentKey {
        let id = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, content));
        let file = [b"application/vnd.oci.image.manifest.v1+json\n".as_slice(), content].concat();
        self.put(IndexKey::Manifest(id.clone()), &file);
        self.inventory.note_landed(id.clone());
        id
    }

    fn put_blob(&self, content: &[u8]) {
        self.put(IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, content))), content);
    }

    fn remove(&self, key: IndexKey) {
        self.runtime.block_on(self.store.remove(key));
    }

    fn read(&self) {
        self.inventory.rebuild();
        self.runtime.block_on(read_all(&self.inventory));
        assert!(!self.inventory.is_reading());
    }

    fn page(&self, sort: Sort, limit: usize, after: Option<page::Cursor>) -> Page {
        self.inventory.page_now(&PageQuery { pattern: None, sort, limit, after, sees_clients: false })
    }

    fn all(&self) -> Vec<Image> {
        self.page(Sort::Used, 10_000, None).images
    }
}

async fn read_all(inventory: &Inventory) {
    Reader::new(inventory.clone(), CancellationToken::new()).read_all().await;
}

fn tag(name: &str) -> TagKey {
    ImageName::parse(Visibility::Shared, &format!("hub/team/app:{name}")).unwrap().tag_key().unwrap()
}

fn used<'a>(reference: &'a Reference, digest: &'a Digest, place: &'a (Arc<str>, Repository)) -> ManifestUse<'a> {
    ManifestUse {
        visibility: Visibility::Shared,
        upstream: &place.0,
        repository: &place.1,
        reference,
        digest,
        client: [192, 0, 2, 1].into(),
        is_fetched: true,
    }
}

fn place() -> (Arc<str>, Repository) {
    ("hub".into(), "team/app".parse().unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    /// A tag names an image.
    Tag(u8, u8),
    Untag(u8),
    /// An image is pulled by its digest.
    Pull(u8),
    /// A manifest, or a blob, is here from now on, or not any more.
    Manifest(u8, bool),
    Blob(u8, bool),
    /// An image was deleted.
    Delete(u8),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..8, 0..IMAGES).prop_map(|(tag, image)| Step::Tag(tag, image)),
        (0u8..8).prop_map(Step::Untag),
        (0..IMAGES).prop_map(Step::Pull),
        (0..IMAGES, any::<bool>()).prop_map(|(image, here)| Step::Manifest(image, here)),
        (0..IMAGES, any::<bool>()).prop_map(|(image, here)| Step::Manifest(image, here)),
        (0..=IMAGES, any::<bool>()).prop_map(|(blob, here)| Step::Blob(blob, here)),
        (0..=IMAGES, any::<bool>()).prop_map(|(blob, here)| Step::Blob(blob, here)),
        (0..IMAGES).prop_map(Step::Delete),
        Just(Step::Read),
    ]
}

#[derive(Default)]
struct Model {
    /// By name: the image.
    names: BTreeMap<String, u8>,
    manifests: BTreeSet<u8>,
    /// The manifests that were read once.
    read: BTreeSet<u8>,
    blobs: BTreeSet<u8>,
}

impl Model {
    /// Size and shared part of an image by the plain rules.
    fn measure(&self, name: &str) -> (u64, u64) {
        let image = self.names[name];
        let named = |image: u8| if self.read.contains(&image) { blobs_of(image) } else { BTreeSet::new() };
        let others = || self.names.iter().filter(|(other, _)| *other != name).map(|(_, image)| *image);
        let (mut size, mut shared) = (0, 0);
        for number in named(image).intersection(&self.blobs) {
            let bytes = blocks(blob(*number).1.len());
            size += bytes;
            shared += if others().any(|other| named(other).contains(number)) { bytes } else { 0 };
        }
        if self.manifests.contains(&image) {
            size += 4096;
            shared += if others().any(|other| other == image) { 4096 } else { 0 };
        }
        (size, shared)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn images_are_those_of_the_model(steps in prop::collection::vec(step(), 0..60)) {
        let (fixture, mut model) = (Fixture::new(), Model::default());
        let name_of = |image: u8| format!("hub/team/app@{}", manifest(image).0);
        for step in steps.into_iter().chain([Step::Read]) {
            match step {
                Step::Tag(number, image) => {
                    fixture.inventory.note_tag(&tag(&number.to_string()), &manifest(image).0, SystemTime::now());
                    model.names.insert(format!("hub/team/app:{number}"), image);
                }
                Step::Untag(number) => {
                    fixture.inventory.forget_tag(&tag(&number.to_string()));
                    model.names.remove(&format!("hub/team/app:{number}"));
                }
                Step::Pull(image) => {
                    let (digest, place) = (manifest(image).0, place());
                    let reference = Reference::Digest(digest.clone());
                    let pulled = fixture.inventory.note_get(used(&reference, &digest, &place), &[]);
                    prop_assert_eq!(pulled, Some(reference));
                    model.names.insert(name_of(image), image);
                }
                Step::Manifest(image, true) => {
                    fixture.put_manifest(&manifest(image).1);
                    model.manifests.insert(image);
                }
                Step::Manifest(image, false) => {
                    fixture.remove(IndexKey::Manifest(Visibility::Shared.key(&manifest(image).0)));
                    model.manifests.remove(&image);
                }
                Step::Blob(number, true) => {
                    fixture.put_blob(&blob(number).1);
                    model.blobs.insert(number);
                }
                Step::Blob(number, false) => {
                    fixture.remove(IndexKey::Blob(Visibility::Shared.key(&blob(number).0)));
                    model.blobs.remove(&number);
                }
                Step::Delete(image) => {
                    let (_, repository) = place();
                    fixture.inventory.forget_manifest(Visibility::Shared, "hub", &repository, &manifest(image).0);
                    model.names.retain(|_, named| *named != image);
                }
                Step::Read => {
                    fixture.read();
                    let live: BTreeSet<u8> = model.names.values().copied().collect();
                    model.read.extend(model.manifests.intersection(&live));
                    // Nothing is left of what no name leads to.
                    fixture.inventory.0.has_garbage.store(true, Ordering::Relaxed);
                    fixture.inventory.drop_garbage();
                    model.read.retain(|image| live.contains(image));
                    let blobs: BTreeSet<u8> = model.read.iter().flat_map(|image| blobs_of(*image)).collect();
                    prop_assert_eq!(fixture.inventory.0.summaries.read().objects(), live.len() + blobs.len());
                }
            }
        }
        let found: BTreeMap<_, _> =
            fixture.all().into_iter().map(|image| (image.name.to_string(), (image.size, image.shared))).collect();
        let expected: BTreeMap<_, _> = model.names.keys().map(|name| {
            let (size, shared) = model.measure(name);
            (name.clone(), (Some(size), Some(shared)))
        }).collect();
        prop_assert_eq!(found, expected);
        let usage = fixture.inventory.disk_usage_now(false);
        prop_assert_eq!(usage.total, fixture.store.usage().total());
    }

    #[test]
    fn pages_are_the_parts_of_the_whole(pulls in prop::collection::vec(0u64..4, 1..40), limit in 1usize..7, by_pulls: bool) {
        let fixture = Fixture::new();
        for (number, pulls) in pulls.iter().enumerate() {
            let key = tag(&number.to_string());
            fixture.inventory.0.names.with_new((&key).into(), || (&key).into(), |state| {
                (state.pulls, state.last_use) = (*pulls, u32::try_from(*pulls * 100).unwrap());
                state.manifest = Some(manifest_key(Visibility::Shared, &manifest(0).0));
            });
        }
        let sort = if by_pulls { Sort::Pulls } else { Sort::Used };
        let whole: Vec<_> = fixture.page(sort, 1000, None).images.iter().map(|image| image.name.to_string()).collect();
        prop_assert_eq!(whole.len(), pulls.len());
        let (mut parts, mut after) = (Vec::new(), None);
        loop {
            let page = fixture.page(sort, limit, after);
            prop_assert!(page.images.len() <= limit);
            parts.extend(page.images.iter().map(|image| image.name.to_string()));
            let Some(next) = page.next else { break };
            after = Some(next.to_string().parse().unwrap());
        }
        prop_assert_eq!(parts, whole);
    }
}

fn index_of(children: &[(Digest, Option<&str>)]) -> Vec<u8> {
    let children = children.iter().map(|(digest, architecture)| {
        let mut child = serde_json::json!({ "mediaType": "a/b", "digest": digest.as_str(), "size": 1 });
        if let Some(architecture) = architecture {
            child["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        }
        child
    });
    let children: Vec<_> = children.collect();
    serde_json::json!({ "schemaVersion": 2, "manifests": children }).to_string().into_bytes()
}

#[test]
fn a_platform_is_complete_when_all_of_it_is_here() {
    let fixture = Fixture::new();
    let (amd, arm) = (manifest(0), manifest(2));
    let attestation = Digest::of(Algorithm::Sha256, b"attestation");
    let children = [(amd.0.clone(), Some("amd64")), (arm.0.clone(), Some("arm64")), (attestation, None)];
    let index = fixture.put_manifest(&index_of(&children));
    fixture.inventory.note_tag(&tag("1"), &index.digest, SystemTime::now());
    let state = |step: &str| {
        fixture.read();
        let [image] = fixture.all().try_into().unwrap_or_else(|_| panic!("one image: {step}"));
        let platforms: Vec<_> =
            image.platforms.iter().map(|platform| (platform.is_here, platform.is_complete)).collect();
        (platforms, image.is_complete)
    };
    assert_eq!(state("the index"), (vec![(false, false), (false, false)], false));
    fixture.put_manifest(&amd.1);
    assert_eq!(state("a manifest"), (vec![(true, false), (false, false)], false));
    blobs_of(0).into_iter().for_each(|number| fixture.put_blob(&blob(number).1));
    assert_eq!(state("its blobs"), (vec![(true, true), (false, false)], true));
    fixture.put_manifest(&arm.1);
    assert_eq!(state("another manifest"), (vec![(true, true), (true, false)], false));
    fixture.remove(IndexKey::Manifest(index));
    blobs_of(2).into_iter().for_each(|number| fixture.put_blob(&blob(number).1));
    assert_eq!(state("all but the index"), (vec![(true, true), (true, true)], false));
}

#[test]
fn a_thousand_images_are_known_again_after_a_restart() {
    const COUNT: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::new();
    fixture.inventory.keep(directory.path());
    let place = place();
    for number in 0..COUNT {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"number":"{number}"}}}}"#);
        let id = fixture.put_manifest(text.as_bytes());
        let key = tag(&number.to_string());
        let record = crate::cache::storage::tag_record::TagRecord {
            digest: id.digest.clone(),
            media_type: "a/b".parse().unwrap(),
            size: text.len() as u64,
            confirmed: UNIX_EPOCH + Duration::from_secs(1_000_000 + number as u64),
            urls: Arc::default(),
        };
        fixture.put(IndexKey::Tag(key.clone()), &record.encode());
        // All are pulled by tag, and every tenth by digest, too.
        fixture.inventory.note_tag(&key, &id.digest, record.confirmed);
        let by_tag = Reference::Tag(key.tag.clone());
        fixture.inventory.note_get(used(&by_tag, &id.digest, &place), &[]);
        if number % 10 == 0 {
            let by_digest = Reference::Digest(id.digest.clone());
            let stranger = ManifestUse { client: [192, 0, 2, 2].into(), ..used(&by_digest, &id.digest, &place) };
            fixture.inventory.note_get(stranger, &[]);
        }
    }
    fixture.read();
    let shown = |inventory: &Inventory| {
        let query = PageQuery { pattern: None, sort: Sort::Pulls, limit: 10_000, after: None, sees_clients: false };
        let images = inventory.page_now(&query).images;
        let image = |image: &Image| {
            (image.name.to_string(), image.digest.clone(), image.size, image.pulls, image.last_use, image.is_complete)
        };
        images.iter().map(image).collect::<Vec<_>>()
    };
    let before = shown(&fixture.inventory);
    assert_eq!(before.len(), COUNT + COUNT / 10);
    assert!(before.iter().all(|image| image.1.is_some() && image.2 == Some(4096) && image.3 == 1 && image.5));
    fixture.inventory.save();
    let (names, bytes) = fixture.inventory.memory();
    assert_eq!(names, before.len());
    assert!(bytes / names < 1000, "{} bytes for an image", bytes / names);

    let again = Inventory::new(fixture.store.clone());
    again.keep(directory.path());
    assert!(again.is_reading());
    again.rebuild();
    fixture.runtime.block_on(read_all(&again));
    assert_eq!(shown(&again), before);
    let confirmed = again.page_now(&PageQuery {
        pattern: Some(Pattern::parse("hub/team/app:7", |name| name == "hub").unwrap()),
        sort: Sort::Used,
        limit: 1,
        after: None,
        sees_clients: false,
    });
    assert_eq!(confirmed.images[0].confirmed, Some(UNIX_EPOCH + Duration::from_secs(1_000_007)));
}

#[test]
fn names_of_what_is_gone_are_dropped() {
    let fixture = Fixture::new();
    let (here, gone) = (fixture.put_manifest(&manifest(0).1), manifest(1).0);
    for (name, digest, used) in [("here", &here.digest, 1000), ("gone", &gone, 1000), ("new", &gone, u32::MAX)] {
        fixture.inventory.note_tag(&tag(name), digest, UNIX_EPOCH);
        fixture.inventory.0.names.with((&tag(name)).into(), |state| state.last_use = used).unwrap();
    }
    fixture.read();
    fixture.inventory.tidy();
    let mut left: Vec<_> = fixture.all().iter().map(|image| image.name.reference.to_string()).collect();
    left.sort_unstable();
    assert_eq!(left, ["here", "new"], "what is new may be on its way to the disk");
}

#[test]
fn the_names_used_the_longest_time_ago_make_room() {
    let names = Names::default();
    let count = MAX_NAMES + 20_000;
    for number in 0..count {
        let key = tag(&number.to_string());
        names.with_new((&key).into(), || (&key).into(), |state| state.last_use = number as u32);
        if number % 1000 == 0 && names.are_too_many() {
            names.trim();
        }
    }
    names.trim();
    assert!(names.len() <= MAX_NAMES && names.len() > MAX_NAMES * 8 / 10, "{}", names.len());
    assert_eq!(names.len() as u64 + names.left_out(), count as u64);
    let has = |number: usize| names.with((&tag(&number.to_string())).into(), |_| ()).is_some();
    assert!(!has(0) && has(count - 1));
}

#[test]
fn manifests_that_came_too_fast_are_found_again() {
    let fixture = Fixture::new();
    let id = fixture.put_manifest(&manifest(0).1);
    fixture.inventory.note_tag(&tag("1"), &manifest(1).0, SystemTime::now());
    fixture.read();
    fixture.put_manifest(&manifest(1).1);
    // More than are remembered came before.
    let mut landed = fixture.inventory.0.landed.lock();
    *landed = Landed { manifests: vec![id; MAX_LANDED], are_lost: true };
    drop(landed);
    fixture.read();
    assert_eq!(fixture.all()[0].size, Some(4096));
    assert!(fixture.inventory.0.summaries.read().objects() > 1, "what its manifest names is known");
}

#[test]
fn a_damaged_manifest_is_passed_over() {
    let fixture = Fixture::new();
    let id = Visibility::Shared.key(&manifest(0).0);
    fixture.put(IndexKey::Manifest(id.clone()), b"a/b\n{\"schemaVersion\":2}");
    fixture.inventory.note_tag(&tag("1"), &id.digest, SystemTime::now());
    fixture.read();
    let image = &fixture.all()[0];
    assert_eq!((image.size, image.is_complete), (None, false));
}

#[test]
fn a_removed_name_leaves_no_memory_in_use() {
    let fixture = Fixture::new();
    let name = ImageName::parse(Visibility::Shared, "hub/team/app:one").unwrap();
    let (digest, _) = manifest(1);
    let cycle = || {
        fixture.inventory.note_image(&name, &digest);
        fixture.inventory.remove(&name);
        fixture.inventory.memory()
    };
    let first = cycle();
    assert_eq!((first.0, (0..100).fold(first, |_, _| cycle())), (0, first));
    assert!(!fixture.inventory.0.names.has_repository(Visibility::Shared, "hub", &name.repository));
}

#[test]
fn a_removal_may_be_of_what_is_old() {
    let fixture = Fixture::new();
    let (digest, content) = manifest(1);
    fixture.put_manifest(&content);
    let now = SystemTime::now();
    let at = |days: u64| now - Duration::from_secs(days * 24 * 60 * 60);
    fixture.inventory.note_tag(&tag("old"), &digest, at(31));
    fixture.inventory.note_tag(&tag("confirmed"), &digest, at(1));
    fixture.inventory.note_tag(&tag("used"), &digest, at(31));
    let place = (Arc::from("hub"), "team/app".parse().unwrap());
    fixture.inventory.note_get(used(&"used".parse().unwrap(), &digest, &place), &[]);
    // It was imported or fetched, and neither was used nor is about a tag that was confirmed.
    fixture.inventory.note_image(&ImageName::parse(Visibility::Shared, "hub/team/app:unknown").unwrap(), &digest);
    fixture.read();
    let is_old = |_: &ImageName, used: Option<SystemTime>| used.is_some_and(|used| used < at(30));
    let plan = fixture.inventory.plan_removal(is_old, |_| false);
    let names: Vec<String> = plan.images.iter().map(ToString::to_string).collect();
    assert_eq!((names, plan.objects.len()), (vec!["hub/team/app:old".to_owned()], 0));
}
