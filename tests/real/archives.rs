//! Archives of images: skopeo, containerd, docker and podman read ours, and forebay takes theirs.

use std::{fs, path::Path};

use forebay_test_support::real::{
    containerd::Containerd,
    docker::Docker,
    forebay::Forebay,
    image::{Blob, Format, Image, Index},
    podman::Podman,
    program::Finished,
    registry::Registry,
    turn::Turn,
};
use serde_json::{Value, json};

async fn mirror(registry: &Registry) -> Forebay {
    let config = format!(
        "[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\nlibrary = true\n",
        registry.url()
    );
    Forebay::start(&config, &[]).await
}

/// `forebay cache …` of this instance.
async fn cache(forebay: &Forebay, arguments: &[&str]) -> Finished {
    forebay.operate(&[&["cache"], arguments].concat()).await
}

/// `dir:` names blobs by the hex of their digest.
fn assert_copied(folder: &Path, blobs: impl IntoIterator<Item = Blob>) {
    for blob in blobs {
        assert_eq!(fs::read(folder.join(blob.hex())).expect("the blob was copied"), blob.bytes, "{}", blob.digest);
    }
}

fn blobs(image: &Image) -> impl Iterator<Item = Blob> {
    image.layers.iter().chain([&image.config]).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_an_exported_archive() {
    for (seed, format) in [(60, Format::Oci), (62, Format::Docker)] {
        let registry = Registry::open().await;
        let multi = Index::new(format, seed, &[100_000, 1_000]);
        registry.pusher().index("library/multi", "1", &multi).await;
        let forebay = mirror(&registry).await;
        let user = Podman::new("");
        let bundle = user.place("bundle.tar").display().to_string();
        cache(&forebay, &["export", "-o", &bundle, "multi:1"]).await.ok();

        // By a name, skopeo finds only what has a media type of OCI.
        let name = if matches!(format, Format::Oci) { ":docker.io/library/multi:1" } else { "" };
        let source = format!("oci-archive:{bundle}{name}");
        let raw = user.skopeo(&["inspect", "--raw", &source]).await.ok();
        assert_eq!(raw, multi.index.blob.bytes, "the index, byte for byte");
        let folder = user.place("all");
        user.skopeo(&["copy", "--all", &source, &format!("dir:{}", folder.display())]).await.ok();
        assert_eq!(fs::read(folder.join("manifest.json")).expect("an index"), multi.index.blob.bytes);
        for image in &multi.images {
            assert_copied(&folder, blobs(image));
        }

        // Of one platform, with the index as it is: skopeo takes what is there, and not all of it.
        cache(&forebay, &["export", "-o", &bundle, "multi:1", "--yes", "--platform", &platform()]).await.ok();
        let raw = user.skopeo(&["inspect", "--raw", &source]).await.ok();
        assert_eq!(raw, multi.index.blob.bytes);
        let folder = user.place("one");
        user.skopeo(&["copy", &source, &format!("dir:{}", folder.display())]).await.ok();
        assert_copied(&folder, blobs(&multi.images[0]));
        user.skopeo(&["copy", "--all", &source, &format!("dir:{}", user.place("none").display())]).await.failed();
    }
}

/// That of this machine, as containers call it.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

#[tokio::test(flavor = "multi_thread")]
async fn forebay_takes_the_archives_and_layouts_of_skopeo() {
    let mut registry = Registry::open().await;
    let (multi, single) = (Index::new(Format::Oci, 64, &[90_000]), Image::new(Format::Oci, 66, &[80_000, 500]));
    registry.pusher().index("library/multi", "1", &multi).await;
    registry.pusher().image("library/single", "1", &single).await;
    let user = Podman::new("");
    let (archive, layout) = (user.place("archive.tar"), user.place("layout"));
    for (name, all, target) in [
        ("multi", "--all", format!("oci-archive:{}:1", archive.display())),
        ("single", "--multi-arch=system", format!("oci:{}:1", layout.display())),
    ] {
        let source = format!("docker://127.0.0.1:{}/library/{name}:1", registry.port);
        user.skopeo(&["copy", all, "--src-tls-verify=false", &source, &target]).await.ok();
    }
    registry.kill();
    let mut forebay = mirror(&registry).await;
    let (archive, layout) = (archive.display().to_string(), layout.display().to_string());
    let said = cache(&forebay, &["import", "--yes", &archive]).await.failed();
    assert!(said.contains("but the tag \"1\": give it one with --as"), "{said}");
    cache(&forebay, &["import", "--yes", &archive, "--as", "multi:1"]).await.ok();
    cache(&forebay, &["import", "--yes", &layout, "--as", "single:1"]).await.ok();

    for turn in 0..2 {
        let source = |name: &str| format!("docker://127.0.0.1:{}/library/{name}:1", forebay.port);
        let folder = user.place(&format!("multi-{turn}"));
        let target = format!("dir:{}", folder.display());
        user.skopeo(&["copy", "--all", "--src-tls-verify=false", &source("multi"), &target]).await.ok();
        assert_eq!(fs::read(folder.join("manifest.json")).expect("an index"), multi.index.blob.bytes);
        let folder = user.place(&format!("single-{turn}"));
        let target = format!("dir:{}", folder.display());
        user.skopeo(&["copy", "--src-tls-verify=false", &source("single"), &target]).await.ok();
        assert_eq!(fs::read(folder.join("manifest.json")).expect("a manifest"), single.manifest.blob.bytes);
        assert_copied(&folder, blobs(&single));
        forebay.kill();
        forebay.revive().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_reads_ours_and_forebay_takes_its_own() {
    let _turn = Turn::of_the_engines().await;
    let mut registry = Registry::open().await;
    let image = Image::new(Format::Oci, 68, &[70_000, 300]);
    registry.pusher().image("library/single", "1", &image).await;
    let forebay = mirror(&registry).await;
    let folder = tempfile::TempDir::with_prefix("forebay-archives-").expect("a folder can be made");
    let (ours, theirs) = (folder.path().join("ours.tar"), folder.path().join("theirs.tar"));
    let (ours, theirs) = (ours.display().to_string(), theirs.display().to_string());
    cache(&forebay, &["export", "-o", &ours, "single:1"]).await.ok();

    let containerd = Containerd::start().await;
    containerd.run(&["images", "import", "--no-unpack", &ours]).await.ok();
    let names = String::from_utf8(containerd.run(&["images", "ls", "-q"]).await.ok()).expect("names are text");
    assert_eq!(names.trim(), "docker.io/library/single:1");
    for blob in blobs(&image) {
        assert_eq!(containerd.content(&blob).await, blob.bytes);
    }
    containerd.run(&["images", "export", &theirs, "docker.io/library/single:1"]).await.ok();
    registry.kill();
    let second = mirror(&registry).await;
    cache(&second, &["import", "--yes", &theirs]).await.ok();
    let containerd = Containerd::start().await;
    containerd.configure("_default", &format!("[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n", second.url("")));
    containerd.try_pull("docker.io/library/single:1").await.ok();
    for blob in blobs(&image) {
        assert_eq!(containerd.content(&blob).await, blob.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_and_podman_load_an_exported_archive() {
    let _turn = Turn::of_the_engines().await;
    let registry = Registry::open().await;
    let (multi, single) = (Index::new(Format::Oci, 70, &[50_000]), Image::new(Format::Docker, 72, &[40_000, 700]));
    registry.pusher().index("library/multi", "1", &multi).await;
    registry.pusher().image("library/single", "1", &single).await;
    let forebay = mirror(&registry).await;
    let user = Podman::new("");
    let bundle = user.place("bundle.tar").display().to_string();
    cache(&forebay, &["export", "-o", &bundle, "multi:1", "single:1"]).await.ok();

    let docker = Docker::start(json!({}), &[], &[]).await;
    docker.run(&["load", "--input", &bundle]).await.ok();
    user.podman(&["load", "--input", &bundle]).await.ok();
    for (name, image) in [("docker.io/library/multi:1", &multi.images[0]), ("docker.io/library/single:1", &single)] {
        let inspect = ["image", "inspect", "--format", "{{json .RootFS.Layers}}", name];
        for said in [docker.run(&inspect).await, user.podman(&inspect).await] {
            let layers: Vec<String> = serde_json::from_slice(&said.ok()).expect("layers are JSON");
            assert_eq!(layers, image.diff_ids, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forebay_takes_what_docker_and_podman_save() {
    let _turn = Turn::of_the_engines().await;
    let registry = Registry::open().await;
    let image = Image::new(Format::Oci, 74, &[60_000, 300]);
    registry.pusher().image("library/single", "1", &image).await;
    let forebay = mirror(&registry).await;
    let user = Podman::new("");
    let [bundle, saved, converted] =
        ["bundle.tar", "saved.tar", "converted.tar"].map(|name| user.place(name).display().to_string());
    cache(&forebay, &["export", "-o", &bundle, "single:1"]).await.ok();
    let second = mirror(&registry).await;

    // What Docker before 25 and podman write without a word is no layout.
    let docker = Docker::start(json!({}), &[], &[]).await;
    docker.run(&["load", "--input", &bundle]).await.ok();
    docker.run(&["save", "--output", &saved, "single:1"]).await.ok();
    let said = cache(&second, &["import", "--yes", &saved]).await.failed();
    assert!(said.contains("is no file of an image layout") && said.contains("skopeo copy"), "{said}");
    let (source, target) = (format!("docker-archive:{saved}"), format!("oci-archive:{converted}"));
    user.skopeo(&["copy", &source, &target]).await.ok();
    cache(&second, &["import", "--yes", &converted, "--as", "of-docker:1"]).await.ok();

    user.podman(&["load", "--input", &bundle]).await.ok();
    let saved = user.place("podman.tar").display().to_string();
    let name = "docker.io/library/single:1";
    user.podman(&["save", "--format", "oci-archive", "--output", &saved, name]).await.ok();
    cache(&second, &["import", "--yes", &saved, "--as", "of-podman:1"]).await.ok();

    for name in ["of-docker", "of-podman"] {
        let source = format!("docker://127.0.0.1:{}/library/{name}:1", second.port);
        let config = user.skopeo(&["inspect", "--config", "--tls-verify=false", &source]).await.ok();
        let config: Value = serde_json::from_slice(&config).expect("a configuration is JSON");
        assert_eq!(config["rootfs"]["diff_ids"], json!(image.diff_ids), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_the_disk_has_no_room_for_leaves_nothing() {
    let registry = Registry::open().await;
    let image = Image::new(Format::Oci, 76, &[40_000_000]);
    registry.pusher().image("library/large", "1", &image).await;
    let user = Podman::new("");
    let bundle = user.place("bundle.tar").display().to_string();
    cache(&mirror(&registry).await, &["export", "-o", &bundle, "large:1"]).await.ok();

    let config = format!(
        "[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\nlibrary = true\n\
         [cache]\nmin_free = \"1 MiB\"\n",
        registry.url()
    );
    let forebay = Forebay::start_on("mkdir cache && mount -t tmpfs -o size=32m none cache", &config).await;
    let said = cache(&forebay, &["import", "--yes", &bundle]).await.failed();
    assert!(said.contains("and the cache has room for"), "{said}");
    // Of a pipe, forebay does not know how much comes.
    let (socket, program) = (forebay.control_socket(), forebay_test_support::program::binary());
    let script = format!("cat {bundle} | {} cache import --yes --control {} -", program.display(), socket.display());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]);
    let said = forebay_test_support::real::program::run(command).await.failed();
    assert!(said.contains("the cache has"), "{said}");
    assert!(forebay.stored_blobs().is_empty());
    assert_eq!(forebay.metric("forebay_cache_objects", &["kind=\"blob\""]).await, 0.0);
}
