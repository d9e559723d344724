//! skopeo copies by tag, by digest and with all architectures, and sees manifests byte for byte.

use std::fs;
use std::path::Path;

use forebay_test_support::real::{
    forebay::Forebay,
    image::{Blob, Format, Image, Index},
    podman::Podman,
    registry::Registry,
};

async fn mirror(registry: &Registry) -> Forebay {
    let config = format!(
        "[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\nlibrary = true\n",
        registry.url()
    );
    Forebay::start(&config, &[]).await
}

/// `dir:` names blobs by the hex of their digest.
fn assert_copied(folder: &Path, blobs: impl IntoIterator<Item = Blob>) {
    for blob in blobs {
        let copy = fs::read(folder.join(blob.hex())).expect("the blob was copied");
        assert_eq!(copy, blob.bytes, "{}", blob.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_by_tag_and_by_digest() {
    let registry = Registry::open().await;
    let image = Image::new(Format::Docker, 40, &[300_000, 1_000]);
    registry.pusher().image("library/layers", "1", &image).await;
    let forebay = mirror(&registry).await;
    let user = Podman::new("");
    let digest = &image.manifest.blob.digest;

    for (name, reference) in [("by-tag", ":1".to_owned()), ("by-digest", format!("@{digest}"))] {
        let source = format!("docker://127.0.0.1:{}/library/layers{reference}", forebay.port);
        let folder = user.place(name);
        let target = format!("dir:{}", folder.display());
        user.skopeo(&["copy", "--src-tls-verify=false", &source, &target]).await.ok();
        assert_eq!(fs::read(folder.join("manifest.json")).expect("a manifest"), image.manifest.blob.bytes);
        assert_copied(&folder, image.layers.iter().chain([&image.config]).cloned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_all_architectures_and_sees_the_exact_bytes() {
    for (seed, format) in [(42, Format::Oci), (44, Format::Docker)] {
        let registry = Registry::open().await;
        let multi = Index::new(format, seed, &[100_000, 1_000]);
        registry.pusher().index("library/multi", "1", &multi).await;
        let forebay = mirror(&registry).await;
        let user = Podman::new("");
        let source = format!("docker://127.0.0.1:{}/library/multi:1", forebay.port);

        let raw = user.skopeo(&["inspect", "--raw", "--tls-verify=false", &source]).await.ok();
        assert_eq!(raw, multi.index.blob.bytes, "the index, byte for byte");

        let folder = user.place("all");
        let target = format!("dir:{}", folder.display());
        user.skopeo(&["copy", "--all", "--src-tls-verify=false", &source, &target]).await.ok();
        assert_eq!(fs::read(folder.join("manifest.json")).expect("an index"), multi.index.blob.bytes);
        for image in &multi.images {
            assert_copied(&folder, image.layers.iter().chain([&image.config]).cloned());
        }
    }
}
