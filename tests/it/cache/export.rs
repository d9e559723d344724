//! Exports: an archive has all of its images, or there is none.

use std::{collections::HashSet, fs, path::PathBuf, process::Stdio};

use bytes::Bytes;
use forebay::oci::{
    Digest,
    layout::{INDEX_FILE, LAYOUT_FILE, LayoutFile, parse_index},
};
use forebay_test_support::{
    blob,
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    layout::{TwoPlatforms, files},
    manifest::manifest,
    mirror::Mirror,
    until::soon,
    wire,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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
        let all = [&["cache", "export", "--yes", "-o", path.to_str().unwrap()], arguments].concat();
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
    let listed = [(names[0], &digest), (names[1], &other.manifest)].map(|(name, digest)| format!("{name}  {digest}\n"));
    assert!(text.starts_with(&listed.concat()), "{text}");
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
    assert_eq!(first.len(), 3 + expected.len(), "each blob is in it once");
    // What Docker reads names one platform of each image.
    let list: Value = serde_json::from_slice(&first[2].1).unwrap();
    let tags: Vec<_> = list.as_array().unwrap().iter().map(|image| image["RepoTags"][0].as_str().unwrap()).collect();
    assert_eq!((&*first[2].0, tags), ("manifest.json", vec![names[0], names[1]]));
    for image in list.as_array().unwrap() {
        let paths = image["Layers"].as_array().unwrap().iter().chain([&image["Config"]]);
        paths.for_each(|path| assert!(first.iter().any(|(name, _)| name == path), "{list}"));
    }
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
async fn a_file_is_replaced_only_by_leave() {
    let TwoPlatforms { registry, .. } = TwoPlatforms::new().await;
    let mirror = Mirror::of(&registry).await;
    let target = Target::new();
    let path = target.path();
    fs::write(&path, "the only copy").unwrap();
    let export = ["cache", "export", "-o", path.to_str().unwrap(), "fake.example/team/app:1"];
    // There is no terminal to ask at.
    let (code, text, error) = mirror.command(FOREBAY, &export).await;
    assert!(code == Some(2) && text.is_empty() && error.contains("is there already: say --yes"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"the only copy");
    let (code, _, error) = mirror.command(FOREBAY, &[&export[..], &["--yes"]].concat()).await;
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(target.files()[0].0, LAYOUT_FILE);
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
async fn private_images_are_never_exported() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let text = format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    );
    let mirror = Mirror::parse(&text).start().await;
    for path in [manifest("1")].into_iter().chain(TwoPlatforms::blobs(&image).iter().map(blob::path)) {
        assert_eq!(mirror.get(&path).await.status, 200);
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let target = Target::new();
    for name in ["fake.example/team/app:1", &format!("fake.example/team/app@{}", image.manifest)] {
        let (code, text, error) = target.export(&mirror, &[name]).await;
        assert!(code == Some(2) && text.is_empty() && target.is_empty(), "{text}");
        assert!(error.contains("fake.example has access = \"client\": it grants images to each client"), "{error}");
    }

    // The admin listener gives nothing without a token.
    let request =
        "GET /api/v1/export?name=fake.example/team/app:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(wire::send(mirror.app().admin_addr(), request).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_names_are_exported_at_once() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let tags: Vec<String> = (0..500).map(|number| format!("{number}{}", "a".repeat(100))).collect();
    tags.iter().for_each(|tag| registry.tag("team/app", tag, &image.manifest));
    let mirror = Mirror::of(&registry).await;
    let target = Target::new();
    let names: Vec<String> = tags.iter().map(|tag| format!("fake.example/team/app:{tag}")).collect();
    let mut arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    let (code, _, error) = target.export(&mirror, &arguments).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(parse_index(&target.files()[1].1).unwrap().len(), 500);
    // An image that is named twice is in the archive once.
    let (code, _, error) = target.export(&mirror, &["team/app:1", "fake.example/team/app:1", &names[0]]).await;
    assert!(code == Some(2) && error.contains("docker.io, which is no upstream"), "{error}");
    let (code, _, error) = target.export(&mirror, &[&names[0], &names[1], &names[0]]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(parse_index(&target.files()[1].1).unwrap().len(), 2);
    arguments.push("fake.example/team/app:1");
    let (code, _, error) = target.export(&mirror, &arguments).await;
    assert!(code == Some(2) && error.contains("images: write the name of each image, up to 500"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_written_costs_no_download() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let target = Target::new();
    let path = target.0.path().join("none/bundle.tar");
    let arguments = ["cache", "export", "-o", path.to_str().unwrap(), "fake.example/team/app:1"];
    let (code, _, error) = mirror.command(FOREBAY, &arguments).await;
    assert!(code == Some(1) && error.contains("cannot create"), "{error}");
    assert_eq!(registry.count(|_| true), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_half_way_leaves_no_file() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (signal, layer) in [(Signal::INT, b"a"), (Signal::TERM, b"b")] {
        let (gate, image) = (Gate::new(), registry.add_image("team/app", "1", &[layer]));
        registry.fault(When::blob(&image.layers[0]), Fault::HoldHead(gate.clone()));
        let target = Target::new();
        let mut command = tokio::process::Command::new(FOREBAY);
        let path = target.path();
        let name = format!("fake.example/team/app@{}", image.manifest);
        command.args(["cache", "export", &name, "-o"]).arg(&path).arg("--control");
        let exporting = command.arg(mirror.config().admin.socket.as_ref().unwrap()).stderr(Stdio::piped()).spawn();
        let exporting = exporting.unwrap();
        gate.reached().await;
        kill_process(Pid::from_raw(exporting.id().unwrap().cast_signed()).unwrap(), signal).unwrap();
        let output = soon("the end of the command", exporting.wait_with_output()).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*error), (Some(1), "forebay: interrupted\n"), "{signal:?}");
        assert!(target.is_empty(), "{signal:?}");
        gate.open();
    }
}
