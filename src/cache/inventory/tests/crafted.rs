//! What clients and upstreams may make up, and how little that may cost; what is kept through a crash.

use super::*;
use crate::cache::storage::tag_record::TagRecord;

/// An image of so many blobs, none of which is here.
fn large_manifest(blobs: usize) -> Vec<u8> {
    let descriptor = |number: usize| {
        let digest = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
        serde_json::json!({ "mediaType": "a/b", "digest": digest.as_str(), "size": 1 })
    };
    let layers: Vec<_> = (1..blobs).map(descriptor).collect();
    serde_json::json!({ "schemaVersion": 2, "config": descriptor(0), "layers": layers }).to_string().into_bytes()
}

#[test]
fn few_names_over_the_bound_of_memory_come_to_an_end() {
    let fixture = Fixture::within(1);
    for image in 0..3 {
        let id = fixture.put_manifest(&manifest(image).1);
        fixture.inventory.note_tag(&tag(&image.to_string()), &id.digest, SystemTime::now());
    }
    fixture.read();
    let all = fixture.all();
    assert_eq!((all.len(), fixture.inventory.0.names.left_out()), (3, 0), "there are not too many names");
    assert!(all.iter().all(|image| image.size.is_none() && !image.is_complete), "{all:?}");
}

#[test]
fn a_large_image_costs_no_other_one_anything() {
    const MAX_MEMORY: usize = 150_000;
    let (fixture, place) = (Fixture::within(MAX_MEMORY), place());
    let large = large_manifest(4000);
    let mut ids: Vec<_> = (0..IMAGES).map(|image| fixture.put_manifest(&manifest(image).1)).collect();
    // More than there is room for, some of it by an index.
    let id = fixture.put_manifest(&large);
    ids.push(fixture.put_manifest(&index_of(&[(id.digest.clone(), Some("amd64"))])));
    ids.push(id);
    for (number, id) in ids.iter().enumerate() {
        let key = tag(&number.to_string());
        fixture.inventory.note_tag(&key, &id.digest, SystemTime::now());
        fixture.inventory.note_get(used(&Reference::Tag(key.tag.clone()), &id.digest, &place), &[]);
    }
    fixture.read();
    let (names, bytes) = fixture.inventory.memory();
    assert!(names == ids.len() && bytes <= MAX_MEMORY, "{names} names, {bytes} bytes");
    for image in fixture.all() {
        let number: usize = image.name.reference.to_string().parse().unwrap();
        assert_eq!(image.size.is_some(), number < usize::from(IMAGES), "{image:?}");
        assert_eq!(image.pulls, 1);
    }
}

#[test]
fn reading_stops_within_a_batch_at_the_end() {
    let fixture = Fixture::new();
    let id = fixture.put_manifest(&manifest(0).1);
    fixture.inventory.note_tag(&tag("1"), &id.digest, SystemTime::now());
    let end = CancellationToken::new();
    end.cancel();
    fixture.runtime.block_on(Reader::new(fixture.inventory.clone(), end).read_all());
    assert_eq!(fixture.inventory.0.summaries.read().objects(), 0);
}

#[test]
fn a_few_names_are_trimmed_one_by_one() {
    let names = Names::default();
    for number in 0..3 {
        let key = tag(&number.to_string());
        names.with_new((&key).into(), || (&key).into(), |state| state.last_use = number);
    }
    let before = names.memory();
    names.trim();
    assert!(names.len() == 2 && names.with((&tag("0")).into(), |_| ()).is_none());
    assert!(names.memory() < before, "a text counts");
    for left in [1, 0, 0] {
        names.trim();
        assert_eq!(names.len(), left);
    }
}

#[test]
fn digests_that_were_pulled_once_make_room_first() {
    let names = Names::default();
    let digest = |number: u64| {
        let digest = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
        ImageName::parse(Visibility::Shared, &format!("hub/team/app@{digest}")).unwrap()
    };
    let tags = (0..8).map(|number| (ImageName::from(&tag(&number.to_string())), 1));
    for (at, (name, pulls)) in tags.chain((0..8).map(|number| (digest(number), 1 + number % 2))).enumerate() {
        names.with_new(name.borrow(), || name.clone(), |state| (state.pulls, state.last_use) = (pulls, at as u32));
    }
    (0..4).for_each(|_| names.trim());
    let left = names.list(|_, _| true);
    let has = |wanted: &dyn Fn(&names::Named) -> bool| left.iter().filter(|named| wanted(named)).count();
    assert_eq!(has(&|named| matches!(named.name.reference, Reference::Tag(_))), 8);
    assert_eq!((left.len(), has(&|named| named.state.pulls == 2)), (12, 4));
}

#[test]
fn long_names_are_bounded_by_their_texts() {
    let names = Names::default();
    let long = "a".repeat(100);
    let mut added = 0;
    for number in 0..MAX_NAMES {
        let text = format!("hub/{long}/{long}{number}:{long}");
        let name = ImageName::parse(Visibility::Shared, &text).unwrap();
        added += usize::from(names.with_new(name.borrow(), || name.clone(), |_| ()).is_some());
        if names.are_too_many() {
            names.trim();
        }
    }
    assert!(added == MAX_NAMES && names.len() < MAX_NAMES && names.left_out() > 0, "{added} {}", names.len());
    assert!(names.memory() < 80 << 20, "{}", names.memory());
}

#[test]
fn a_save_that_did_not_end_is_made_up_for_at_the_end() {
    let (fixture, directory) = (Fixture::new(), tempfile::tempdir().unwrap());
    fixture.inventory.keep(directory.path());
    let digest = fixture.put_manifest(&manifest(0).1).digest;
    fixture.inventory.note_tag(&tag("1"), &digest, SystemTime::now());
    fixture.inventory.note_head(used(&"1".parse().unwrap(), &digest, &place()));
    // One that runs has taken the note that something changed.
    assert!(fixture.inventory.0.names.take_change());
    let end = CancellationToken::new();
    end.cancel();
    fixture.runtime.block_on(fixture.inventory.clone().run(end));
    assert_eq!(file::read(directory.path()).unwrap().images.len(), 1);
}

/// A store that is not scanned yet, and a note that is to be saved.
fn unscanned(directory: &Path) -> Inventory {
    let config = Config { max_size: 1 << 40, ..Config::at(directory) };
    let inventory = Inventory::new(DiskStore::open(&config, Metrics::new().unwrap()).unwrap());
    inventory.keep(&directory.join("state"));
    let digest = manifest(0).0;
    inventory.note_tag(&tag("1"), &digest, SystemTime::now());
    inventory.note_head(used(&"1".parse().unwrap(), &digest, &place()));
    inventory
}

#[tokio::test(start_paused = true)]
async fn uses_are_saved_while_the_start_scans() {
    let directory = tempfile::tempdir().unwrap();
    let inventory = unscanned(directory.path());
    let (end, saved) = (CancellationToken::new(), directory.path().join("state/images"));
    let running = tokio::spawn(inventory.clone().run(end.clone()));
    while !saved.exists() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(inventory.is_reading() && inventory.0.names.len() == 1, "nothing is dropped by then");
    end.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn uses_are_saved_however_much_there_is_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let inventory = unscanned(directory.path());
    let mut reader = Reader::new(inventory.clone(), CancellationToken::new());
    tokio::time::advance(Duration::from_secs(61)).await;
    // As between two batches, with more to read.
    inventory.0.work.notify_one();
    reader.keep_up().await;
    assert!(directory.path().join("state/images").exists());
}

#[test]
fn a_cached_digest_names_no_made_up_repository() {
    let fixture = Fixture::new();
    let digest = fixture.put_manifest(&manifest(0).1).digest;
    let by_digest = Reference::Digest(digest.clone());
    for number in 0..100 {
        let made_up: (Arc<str>, Repository) = ("hub".into(), format!("made/up{number}").parse().unwrap());
        let hit = ManifestUse { is_fetched: false, ..used(&by_digest, &digest, &made_up) };
        assert_eq!(fixture.inventory.note_get(hit, &[]), Some(by_digest.clone()), "it is a pull all the same");
    }
    assert_eq!(fixture.all().len(), 0);
    // The upstream has answered for this one, and for its tag.
    let place = place();
    fixture.inventory.note_tag(&tag("1"), &manifest(1).0, SystemTime::now());
    for _ in 0..2 {
        let hit = ManifestUse { is_fetched: false, ..used(&by_digest, &digest, &place) };
        fixture.inventory.note_get(hit, &[]);
    }
    let pulls: Vec<_> = fixture.all().iter().map(|image| (image.name.to_string(), image.pulls)).collect();
    assert_eq!(pulls.len(), 2);
    assert!(pulls.contains(&(format!("hub/team/app@{digest}"), 2)), "{pulls:?}");
}

#[test]
fn tags_of_another_registry_are_not_shown() {
    let fixture = Fixture::new();
    let registry = |url: &str| Registry::new(&"hub".into(), &[url.parse().unwrap()]);
    let (old, new) = (registry("https://old.example"), registry("https://new.example"));
    let id = fixture.put_manifest(&manifest(0).1);
    let record = |registry: &Registry| TagRecord {
        digest: id.digest.clone(),
        media_type: "a/b".parse().unwrap(),
        size: 1,
        confirmed: UNIX_EPOCH + Duration::from_secs(1_000_000),
        urls: registry.url_hashes().clone(),
    };
    fixture.put(IndexKey::Tag(tag("1")), &record(&old).encode());
    fixture.inventory.set_registries(vec![old.clone()]);
    fixture.read();
    assert_eq!(fixture.all().len(), 1);
    // A reload with other URLs.
    fixture.inventory.set_registries(vec![new.clone()]);
    fixture.read();
    assert_eq!(fixture.all().len(), 0);
    assert!(fixture.inventory.disk_usage_now(true).upstreams.is_empty());
    // The upstream answers for the tag; and a start with the same URLs.
    fixture.put(IndexKey::Tag(tag("1")), &record(&new).encode());
    let again = Inventory::new(fixture.store.clone());
    again.set_registries(vec![new]);
    again.rebuild();
    fixture.runtime.block_on(read_all(&again));
    assert_eq!(again.disk_usage_now(true).upstreams.len(), 1);
}

/// Names in two upstreams that authorize each client, for the same image.
fn images_of_clients(fixture: &Fixture) -> u64 {
    let (digest, content) = manifest(0);
    let id = Visibility::PerClient.key(&digest);
    fixture.put(IndexKey::Manifest(id.clone()), &[b"a/b\n".as_slice(), &content].concat());
    let blobs = blobs_of(0).into_iter().map(blob);
    let bytes = blobs.map(|(digest, content)| {
        fixture.put(IndexKey::Blob(Visibility::PerClient.key(&digest)), &content);
        blocks(content.len())
    });
    let bytes = 4096 + bytes.sum::<u64>();
    for upstream in ["one", "two"] {
        let name = ImageName::parse(Visibility::PerClient, &format!("{upstream}/team/app:1")).unwrap();
        fixture.inventory.note_tag(&name.tag_key().unwrap(), &digest, SystemTime::now());
    }
    fixture.read();
    bytes
}

#[test]
fn what_upstreams_with_grants_share_is_told_with_them() {
    let fixture = Fixture::new();
    let bytes = images_of_clients(&fixture);
    let told = |sees_clients| {
        let usage = fixture.inventory.disk_usage_now(sees_clients);
        assert_eq!(usage.total, fixture.store.usage().total());
        (usage.several, usage.of_clients, usage.repositories.len())
    };
    assert_eq!((told(true), told(false)), ((bytes, 0, 2), (0, bytes, 0)));
}

#[test]
fn names_of_one_image_are_walked_once() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.put_manifest(&manifest(0).1), fixture.put_manifest(&manifest(1).1));
    for number in 0..100 {
        let id = if number < 99 { &one } else { &other };
        fixture.inventory.note_tag(&tag(&number.to_string()), &id.digest, SystemTime::now());
    }
    fixture.read();
    let all = fixture.inventory.0.names.list(|_, _| true);
    let (summaries, on_disk) = (fixture.inventory.0.summaries.read(), fixture.inventory.on_disk());
    let groups = survey::Survey::new(&summaries, &on_disk).by_root(&all);
    let mut sizes: Vec<_> = groups.values().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 99]);
    drop(groups);
    drop(summaries);
    // Each still counts as an image of its own.
    let details = fixture.inventory.details_now(&ImageName::from(&tag("99"))).unwrap();
    let shares: Vec<_> = details.manifests[0].layers.iter().map(|part| (part.shares, part.shared_with.len())).collect();
    assert_eq!((details.manifests[0].configuration.as_ref().unwrap().shares, shares), (99, vec![(0, 0), (99, 5)]));
}

#[test]
fn a_crafted_index_shows_no_more_than_there_is_room_for() {
    const CHILDREN: usize = 3;
    let fixture = Fixture::new();
    let text = String::from_utf8(large_manifest(3000)).unwrap();
    let children: Vec<_> = (0..CHILDREN)
        .map(|number| {
            let other = text.replacen('{', &format!(r#"{{"annotations":{{"number":"{number}"}},"#), 1);
            (fixture.put_manifest(other.as_bytes()).digest, None)
        })
        .collect();
    let index = fixture.put_manifest(&index_of(&children));
    fixture.inventory.note_tag(&tag("1"), &index.digest, SystemTime::now());
    fixture.read();
    let details = fixture.inventory.details_now(&ImageName::from(&tag("1"))).unwrap();
    let parts = |details: &Details| details.manifests.iter().map(|one| 2 + one.layers.len()).sum::<usize>();
    assert_eq!((details.manifests.len(), parts(&details)), (2, 4096));
    // One manifest, and layers of another one.
    assert_eq!(details.left_out, 1 + 2 * 3001 - 4096);

    let platforms: Vec<_> = (0..100).map(|number| format!("a{number}")).collect();
    let children: Vec<_> = platforms.iter().map(|it| (manifest(0).0, Some(it.as_str()))).collect();
    let index = fixture.put_manifest(&index_of(&children));
    fixture.inventory.note_tag(&tag("1"), &index.digest, SystemTime::now());
    fixture.read();
    let image = &fixture.all()[0];
    assert_eq!((image.platforms.len(), image.more_platforms), (64, 36));
}
