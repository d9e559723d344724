//! docker-registry as a mirror itself: behind forebay, and in front of it.

use std::fs;

use forebay_test_support::real::{
    forebay::Forebay,
    image::{Format, Index},
    podman::Podman,
    registry::Registry,
};

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_through_a_row_of_mirrors_of_two_kinds() {
    let mut origin = Registry::open().await;
    let multi = Index::new(Format::Oci, 90, &[300_000, 1_000]);
    origin.pusher().index("team/multi", "1", &multi).await;
    let mut behind = Registry::mirror_of(&origin.url()).await;
    // docker-registry 2.8 now and then answers 500 to a GET while it stores what a HEAD brought: it has the blobs before.
    for blob in multi.images.iter().flat_map(|image| image.layers.iter().chain([&image.config])) {
        behind.store("team/multi", blob);
    }
    let upstream = format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\ndefault = true\n", behind.url());
    let forebay = Forebay::start(&format!("[cache]\ntag_ttl = 0\n{upstream}"), &[]).await;

    let by_digest = format!("@{}", multi.index.blob.digest);
    for (name, reference) in [("by-tag", ":1"), ("by-digest", &by_digest), ("in-an-outage", ":1")] {
        if name == "in-an-outage" {
            origin.kill();
            behind.kill();
        }
        // Each time one that has nothing yet.
        let front = Registry::mirror_of(&forebay.url("")).await;
        let user = Podman::new("");
        let folder = user.place(name);
        let (source, target) = (format!("docker://127.0.0.1:{}/team/multi{reference}", front.port), folder.display());
        user.skopeo(&["copy", "--all", "--src-tls-verify=false", &source, &format!("dir:{target}")]).await.ok();
        let manifest = fs::read(folder.join("manifest.json")).expect("an index");
        assert_eq!(manifest, multi.index.blob.bytes, "{name}");
        for blob in multi.images.iter().flat_map(|image| image.layers.iter().chain([&image.config])) {
            assert_eq!(fs::read(folder.join(blob.hex())).expect("the blob was copied"), blob.bytes, "{name}");
            assert_eq!(behind.gets_of(blob), 1, "{name}: GETs of {} at the mirror behind", blob.digest);
        }
    }
    forebay.assert_stored_blobs_are_right();
}
