//! Which pinned images need a person.

use std::cell::Cell;

use super::*;

/// How many pinned images are not complete.
fn incomplete(fixture: &Fixture) -> usize {
    fixture.read();
    fixture.inventory.mark_pinned(|_| true);
    fixture.inventory.look_at_pinned();
    fixture.inventory.incomplete_pins().images
}

#[test]
fn a_pinned_image_needs_a_person_when_it_loses_a_platform() {
    let fixture = Fixture::new();
    let (amd, arm) = (manifest(0), manifest(2));
    let index = index_of(&[(amd.0, Some("amd64")), (arm.0.clone(), Some("arm64"))]);
    let index = fixture.put_manifest(&index).digest;
    // Its last use is long ago.
    fixture.inventory.note_tag(&tag("1"), &index, UNIX_EPOCH + Duration::from_secs(1_000_000));
    let blobs = |image: u8| blobs_of(image).into_iter().for_each(|number| fixture.put_blob(&blob(number).1));
    let key = |digest: &Digest| Visibility::Shared.key(digest);
    assert_eq!(incomplete(&fixture), 1, "nothing but the index");
    fixture.put_manifest(&amd.1);
    blobs(0);
    assert_eq!(incomplete(&fixture), 0, "amd64 is complete");
    fixture.put_manifest(&arm.1);
    assert_eq!(incomplete(&fixture), 0, "arm64 comes, or a client looked at its manifest");
    fixture.remove(IndexKey::Blob(key(&blob(0).0)));
    assert_eq!(incomplete(&fixture), 1, "amd64 has lost a layer");
    fixture.put_blob(&blob(0).1);
    blobs(2);
    assert_eq!(incomplete(&fixture), 0, "both are complete");
    fixture.remove(IndexKey::Manifest(key(&arm.0)));
    assert_eq!(incomplete(&fixture), 1, "arm64 has lost its manifest");
    fixture.put_manifest(&arm.1);
    fixture.remove(IndexKey::Manifest(key(&index)));
    assert_eq!(incomplete(&fixture), 1, "the index is gone");
}

#[test]
fn a_look_at_pinned_images_keeps_no_reader_waiting() {
    let fixture = Fixture::new();
    let digest = fixture.put_manifest(&manifest(0).1).digest;
    fixture.inventory.note_tag(&tag("1"), &digest, UNIX_EPOCH);
    fixture.read();
    fixture.inventory.mark_pinned(|_| true);
    let asked = Cell::new(0);
    fixture.inventory.look_at_pinned_of(&|key| {
        asked.set(asked.get() + 1);
        assert!(fixture.inventory.0.pinned.try_lock().is_some(), "a reader waits");
        fixture.store.bytes_on_disk(key)
    });
    assert!(asked.get() > 0);
    assert_eq!(fixture.inventory.incomplete_pins().images, 1);
}
