//! A byte is flipped in the registry's storage: no client gets a complete body, and nothing is cached.

use std::fs;
use std::path::Path;

use futures_util::future::join_all;
use serde_json::json;

use forebay_test_support::{
    real::{
        docker::Docker,
        download::{Download, download},
        forebay::Forebay,
        image::{Blob, Format, Image},
        registry::Registry,
        turn::Turn,
    },
    until::until,
};

fn flip_a_byte(file: &Path) {
    let mut bytes = fs::read(file).expect("the registry has stored it");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).expect("the storage can be written");
}

async fn mirror(registry: &Registry) -> Forebay {
    let config = format!(
        "[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\nlibrary = true\n",
        registry.url()
    );
    Forebay::start(&config, &[]).await
}

/// Whatever is visible in the cache is not this blob, under no name.
fn assert_not_kept(forebay: &Forebay, blob: &Blob) {
    for (path, name) in forebay.stored_blobs() {
        assert_ne!(name, blob.digest, "{} was kept", path.display());
    }
    forebay.assert_stored_blobs_are_right();
}

async fn until_counted(forebay: &Forebay) {
    until("the metric counts the mismatch", async || {
        let count = forebay.metric("forebay_digest_mismatches_total", &["upstream=\"docker.io\""]).await;
        (count >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_upstream_lets_no_clients_request_complete() {
    let registry = Registry::open().await;
    // One far larger than any buffer, and one that fits into the first of them.
    for (seed, size) in [(70, 20_000_000), (71, 900)] {
        let blob = Blob::random(seed, size);
        registry.pusher().blob("library/broken", &blob).await;
        flip_a_byte(&registry.file_of(&blob));
        let forebay = mirror(&registry).await;
        let url = forebay.blob_url("library/broken", &blob);

        let downloads = join_all((0..8).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { download(&url).await })
        }))
        .await;

        for end in downloads {
            let end = end.expect("a client does not panic");
            let complete = matches!(&end, Download::Whole(_));
            assert!(!complete, "{size} bytes: {end:?}");
            if let Download::Refused(status) = end {
                assert!(status.is_server_error(), "{size} bytes: {status}");
            }
        }
        until_counted(&forebay).await;
        assert!(forebay.stored_blobs().is_empty(), "nothing is in the cache");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_upstream_fails_the_pull_of_dockerd() {
    let _turn = Turn::of_the_engines().await;
    let registry = Registry::open().await;
    let image = Image::new(Format::Docker, 72, &[5_000, 2_000_000]);
    registry.pusher().image("library/broken", "1", &image).await;
    flip_a_byte(&registry.file_of(&image.layers[1]));
    let forebay = mirror(&registry).await;
    let docker = Docker::start(json!({ "registry-mirrors": [forebay.url("")] }), &[], &[]).await;

    docker.try_pull("broken:1").await.failed();

    assert!(docker.is_empty().await, "the daemon has no image");
    assert_not_kept(&forebay, &image.layers[1]);
    until_counted(&forebay).await;
}
