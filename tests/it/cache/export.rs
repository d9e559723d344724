//! Exports: an archive has all of its images, or there is none.

use std::{collections::HashSet, fs, path::PathBuf};

use bytes::Bytes;
use forebay::oci::{
    Digest,
    layout::{INDEX_FILE, LAYOUT_FILE, LayoutFile, parse_index},
};
use forebay_test_support::{
    blob,
    fake_registry::{FakeRegistry, Fault, Server, When},
    layout::{TwoPlatforms, files},
    manifest::manifest,
    mirror::Mirror,
    wire,
};

const FOREBAY: &str = env!("CARGO_BIN_EXE_forebay");

/// The archive of a directory in which nothing else is.
struct Target(tempfile::TempDir);

impl Target {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("bundle.tar")
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.0.path()).unwrap().count() == 0
    }

    /// Exports into it; what the command prints.
    async fn export(&self, mirror: &Mirror, arguments: &[&str]) -> (Option<i32>, String, String) {
        let path = self.path();
        let all = [&["cache", "export", "-o", path.to_str().unwrap()], arguments].concat();
        let (code, stdout, stderr) = mirror.command(FOREBAY, &all).await;
        (code, String::from_utf8(stdout).unwrap(), stderr)
    }

    fn files(&self) -> Vec<(String, Bytes)> {
        files(&fs::read(self.path()).unwrap())
    }
}

/// The digests of the blobs in an archive, each of which is right.
fn digests(files: &[(String, Bytes)]) -> HashSet<Digest> {
    let of = |(name, content): &(String, Bytes)| match LayoutFile::of(name) {
        Some(LayoutFile::Blob(digest)) => {
            assert!(blob::is(content, &digest), "{name}");
            Some(digest)
        }
        _ => None,
    };
    files.iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_has_all_that_its_images_name() {
    let TwoPlatforms { registry, digest, amd64, arm64 } = TwoPlatforms::new().await;
    let other = registry.add_image("team/other", "2", &[b"a layer of both", &[7; 700_000]]);
    let mut mirror = Mirror::of(&registry).await;
    let target = Target::new();
    let names = ["fake.example/team/app:1", "fake.example/team/other:2"];
    let (code, text, error) = target.export(&mirror, &names).await;
    assert_eq!((code, &*error), (Some(0), ""), "{text}");
    assert!(text.contains("bundle.tar: ") && text.ends_with(" KiB\n"), "{text}");
    let first = target.files();
    assert_eq!((&*first[0].0, &*first[1].0), (LAYOUT_FILE, INDEX_FILE));
    let images = parse_index(&first[1].1).unwrap();
    let found: Vec<_> = images.iter().map(|image| (image.name.as_deref().unwrap(), &image.manifest.digest)).collect();
    assert_eq!(found, [(names[0], &digest), (names[1], &other.manifest)]);
    let mut expected = HashSet::from([digest.clone()]);
    for image in [&amd64, &arm64, &other] {
        expected.insert(image.manifest.clone());
        expected.extend(TwoPlatforms::blobs(image));
    }
    assert_eq!(digests(&first), expected);
    assert_eq!(first.len(), 2 + expected.len(), "each blob is in it once");
    for digest in TwoPlatforms::blobs(&other) {
        assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1, "{digest}");
    }

    // All of it is here, so nothing is asked.
    registry.take_down(Server::Api).await;
    mirror.restart().await;
    let (code, _, error) = target.export(&mirror, &names).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(target.files(), first);
    let path = mirror.command(FOREBAY, &[&["cache", "export", "-o", "-"][..], &names].concat()).await;
    assert!(path.0 == Some(0) && files(&path.1) == first, "{}", path.2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_leaves_manifests_out_and_the_index_as_it_is() {
    let TwoPlatforms { registry, digest, amd64, arm64 } = TwoPlatforms::new().await;
    let mirror = Mirror::of(&registry).await;
    let target = Target::new();
    let (code, _, error) = target.export(&mirror, &["fake.example/team/app:1", "--platform", "linux/arm64"]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    let mut expected = HashSet::from([digest, arm64.manifest.clone()]);
    expected.extend(TwoPlatforms::blobs(&arm64));
    assert_eq!(digests(&target.files()), expected);
    let asked = |digest: &Digest| registry.count(|request| request.path.contains(digest.as_str()));
    assert_eq!((asked(&amd64.manifest), asked(&amd64.config)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_told_image_by_image_and_no_file_left() {
    let TwoPlatforms { registry, amd64, .. } = TwoPlatforms::new().await;
    let mirror = Mirror::of(&registry).await;
    let target = Target::new();
    let refused = async |arguments: &[&str]| {
        let (code, text, error) = target.export(&mirror, arguments).await;
        assert!(text.is_empty() && target.is_empty(), "{arguments:?}: {text}");
        (code, error)
    };
    let (code, error) = refused(&["fake.example/team/app:none", "fake.example/team/app:1", "fake.example/x:1"]).await;
    assert_eq!(code, Some(1));
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("forebay: fake.example/team/app:none: the tag none: "), "{error}");
    assert!(lines[1].starts_with("forebay: fake.example/x:1: the tag 1: "), "{error}");

    let (code, error) = refused(&["fake.example/team/app:1", "--platform", "linux/s390x"]).await;
    let expected = "fake.example/team/app:1: there is none for linux/s390x; there are linux/amd64, linux/arm64";
    assert_eq!((code, error), (Some(1), format!("forebay: {expected}\n")));
    registry.fault(When::blob(&amd64.layers[1]), Fault::status(500));
    let mirror = Mirror::of(&registry).await;
    let (code, _, error) = target.export(&mirror, &["fake.example/team/app:1"]).await;
    assert!(code == Some(1) && error.contains(&format!("the blob {}: ", amd64.layers[1])), "{error}");
    assert!(target.is_empty());

    for (arguments, problem) in [
        (&["quay.io/a/b:1"][..], "quay.io, which is no upstream: add an [[upstream]] of that name"),
        (&["a b"], "is no name of an image"),
        (&["fake.example/team/app:1", "--platform", "arm64"], "write platforms such as linux/amd64"),
    ] {
        let (code, error) = refused(arguments).await;
        assert!(code == Some(2) && error.contains(problem), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_blob_breaks_the_archive_off() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[&[1; 900_000]]);
    let mirror = Mirror::of(&registry).await;
    let target = Target::new();
    assert_eq!(target.export(&mirror, &["fake.example/team/app:1"]).await.0, Some(0));
    let whole = target.files();
    fs::remove_file(target.path()).unwrap();
    let stored = blob::file(&mirror.cache_dir(), &image.layers[0]);
    let mut bytes = fs::read(&stored).unwrap();
    bytes[800_000] ^= 1;
    fs::write(&stored, bytes).unwrap();
    let (code, text, error) = target.export(&mirror, &["fake.example/team/app:1"]).await;
    assert!(code == Some(1) && text.is_empty() && target.is_empty(), "{text}");
    assert!(error.starts_with("forebay: forebay broke the archive off; its log says why"), "{error}");
    // What was damaged is gone, and comes anew.
    assert_eq!(target.export(&mirror, &["fake.example/team/app:1"]).await.0, Some(0));
    assert_eq!(target.files(), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_images_are_exported_if_all_is_here() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let text = format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    );
    let mirror = Mirror::parse(&text).start().await;
    let target = Target::new();
    let (code, _, error) = target.export(&mirror, &["fake.example/team/app:1"]).await;
    assert!(code == Some(1) && error.contains("the tag 1 is not here"), "{error}");
    mirror.get(&manifest("1")).await;
    let (code, _, error) = target.export(&mirror, &["fake.example/team/app:1"]).await;
    assert!(code == Some(1) && error.contains(&format!("the blob {} is not here", image.layers[0])), "{error}");
    assert_eq!(error.lines().count(), 2, "{error}");
    for digest in TwoPlatforms::blobs(&image) {
        mirror.get(&blob::path(&digest)).await;
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let before = registry.count(|_| true);
    let (code, _, error) = target.export(&mirror, &["fake.example/team/app:1"]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(digests(&target.files()).len(), 3);
    assert_eq!(registry.count(|_| true), before);

    // The admin listener gives nothing without a token.
    let request =
        "GET /api/v1/export?name=fake.example/team/app:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(wire::send(mirror.app().admin_addr(), request).await.status, 403);
}
