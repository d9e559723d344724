//! Manifests and tags in a real object store: with the blobs, a forebay has all of an image again after its disk is gone.

use std::{fs, path::Path, time::Duration};

use forebay_test_support::{
    cluster::KEY,
    mirror::{Builder, Mirror},
    real::{
        download::{client, download},
        forebay::Forebay,
        image::{Blob, Document, Format, Image, Index},
        registry::Registry,
        seaweedfs::{self, SeaweedFs},
    },
    until::until,
};

const REPOSITORY: &str = "team/app";
const TAGS: &str = "tags/docker.io/team/app/";

fn upstream(registry: &Registry) -> String {
    format!("[[upstream]]\nname = \"docker.io\"\ndefault = true\nurls = [\"{}\"]\n", registry.url())
}

/// A forebay with a key for the records of tags.
async fn node(registry: &Registry, store: &SeaweedFs) -> Forebay {
    let section = SeaweedFs::section(store.port);
    let config =
        format!("[cache]\ntag_ttl = \"1h\"\n[cluster]\nkey_file = \"cluster.key\"\n{section}{}", upstream(registry));
    let [id, secret] = seaweedfs::keys();
    Forebay::start(&config, &[id, secret, ("cluster.key", KEY)]).await
}

/// What a client gets for a manifest: status, type and bytes.
async fn get(node: &Forebay, reference: &str, media_type: &str) -> (u16, String, Vec<u8>) {
    let url = node.url(&format!("/v2/{REPOSITORY}/manifests/{reference}"));
    let answer = client().get(url).header("accept", media_type).send().await.expect("forebay answers");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    (status, content_type, answer.bytes().await.expect("a whole body").to_vec())
}

async fn assert_manifest(node: &Forebay, reference: &str, document: &Document) {
    let (status, media_type, bytes) = get(node, reference, document.media_type).await;
    assert_eq!((status, &*media_type), (200, document.media_type), "{reference}\n{}", node.log());
    assert!(bytes == document.blob.bytes, "{reference}");
}

/// Pulls as a client does: the tag, the image of this machine, and its blobs.
async fn pull(node: &Forebay, tag: &str, index: &Index) {
    let image = &index.images[0];
    assert_manifest(node, tag, &index.index).await;
    assert_manifest(node, &image.manifest.blob.digest, &image.manifest).await;
    for blob in image.layers.iter().chain([&image.config]) {
        let pulled = download(&node.blob_url(REPOSITORY, blob)).await;
        assert!(pulled.is_whole(&blob.digest), "{pulled:?}\n{}", node.log());
    }
}

fn name(kind: &str, blob: &Blob) -> String {
    format!("{kind}/sha256/{}/{}", &blob.hex()[..2], blob.hex())
}

/// Waits until all of the image is in the store, and its tag.
async fn until_stored(store: &SeaweedFs, index: &Index) {
    let image = &index.images[0];
    let mut names = vec![name("manifests", &index.index.blob), name("manifests", &image.manifest.blob)];
    names.extend(image.layers.iter().chain([&image.config]).map(|blob| name("blobs", blob)));
    until("all of the image is in the store", async || {
        let objects = store.objects().await;
        let has = |name: &String| objects.iter().any(|object| object.name == *name);
        names.iter().all(has) && objects.iter().any(|object| object.name.starts_with(TAGS))
    })
    .await;
}

/// Removes all files of a running forebay's cache, as a disk does that is replaced.
fn remove_files(directory: &Path) {
    for entry in fs::read_dir(directory).expect("the cache can be listed") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => remove_files(&path),
            false => fs::remove_file(path).expect("a file can be removed"),
        }
    }
}

async fn from_registry(node: &Forebay) -> f64 {
    node.metric("forebay_upstream_received_bytes_total", &["upstream=\"docker.io\""]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_an_image_comes_back_from_the_store() {
    let (mut registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let index = Index::new(Format::Oci, 700, &[200_000, 1_000]);
    registry.pusher().index(REPOSITORY, "1", &index).await;
    let mut node = node(&registry, &store).await;
    pull(&node, "1", &index).await;
    until_stored(&store, &index).await;
    let received = from_registry(&node).await;
    // While it serves.
    for kind in ["blobs", "manifests", "tags"] {
        remove_files(&node.cache().join(kind));
    }
    pull(&node, "1", &index).await;
    assert_eq!(from_registry(&node).await, received, "nothing came from the registry");
    // All that it had in memory is gone as well, and so is the registry.
    let requests = registry.accesses().len();
    registry.kill();
    for _ in 0..2 {
        node.kill();
        fs::remove_dir_all(node.cache()).expect("the cache can be removed");
        node.revive().await;
        pull(&node, "1", &index).await;
        assert_eq!(from_registry(&node).await, 0.0);
    }
    assert_eq!(registry.accesses().len(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_record_in_the_bucket_is_ignored() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let [right, evil] = [710, 720].map(|seed| Image::new(Format::Oci, seed, &[1_000]));
    registry.pusher().image(REPOSITORY, "1", &right).await;
    registry.pusher().image("team/evil", "1", &evil).await;
    let mut node = node(&registry, &store).await;
    assert_manifest(&node, "1", &right.manifest).await;
    let answer = client().get(node.url("/v2/team/evil/manifests/1")).header("accept", evil.manifest.media_type).send();
    assert_eq!(answer.await.expect("forebay answers").status(), 200);
    let tags = async || -> Vec<String> {
        let objects = store.objects().await.into_iter();
        objects.map(|object| object.name).filter(|name| name.starts_with("tags/")).collect()
    };
    until("both records are there", async || tags().await.len() == 2).await;
    let names = tags().await;
    let find = |part: &str| names.iter().find(|name| name.contains(part)).expect("a record").clone();
    let (own, other) = (find("team/app"), find("team/evil"));
    let text = String::from_utf8(store.object(&own).await.unwrap()).unwrap();
    let of_other = String::from_utf8(store.object(&other).await.unwrap()).unwrap();
    let confirmed = text.lines().find(|line| line.starts_with("confirmed = ")).expect("a time").to_owned();
    let digest = &right.manifest.blob.digest;
    for (what, forged) in [
        ("digest", text.replace(digest, &evil.manifest.blob.digest)),
        ("time", text.replace(&confirmed, "confirmed = 1700000000")),
        ("another repository's", of_other),
    ] {
        assert_ne!(forged, text, "{what}");
        node.kill();
        fs::remove_dir_all(node.cache()).expect("the cache can be removed");
        store.put(&own, forged.as_bytes()).await;
        node.revive().await;
        assert_manifest(&node, "1", &right.manifest).await;
        assert!(node.metric("forebay_store_records_refused_total", &["reason=\"code\""]).await >= 1.0, "{what}");
        assert!(node.log().contains("does not count"), "{what}");
        until("the right record takes its place", async || {
            store.object(&own).await.is_some_and(|found| String::from_utf8_lossy(&found).contains(digest.as_str()))
        })
        .await;
    }
}

/// A forebay of this process, whose times a test may set.
fn build(registry: &Registry, store: &SeaweedFs) -> Builder {
    let builder = Mirror::parse(&format!("{}{}", SeaweedFs::section(store.port), upstream(registry)));
    for (file, content) in seaweedfs::keys() {
        fs::write(builder.directory().join(file), content).expect("a key can be written");
    }
    builder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_beyond_its_size_loses_what_is_not_used() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let blobs: Vec<Blob> = (730..740).map(|seed| Blob::random(seed, 100_000)).collect();
    let times = |config: &mut forebay::config::Config| {
        let times = &mut config.store.as_mut().expect("a store").times;
        (times.first, times.interval) = (Duration::ZERO, Duration::from_millis(200));
        times.page_pause = Duration::ZERO;
    };
    let mut mirror = build(&registry, &store).config(times).start().await;
    for blob in &blobs {
        registry.store(REPOSITORY, blob);
        let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
        assert_eq!(mirror.get(&path).await.body, blob.bytes);
    }
    let stored = async || {
        let objects = store.objects().await;
        objects.iter().filter(|object| object.name.starts_with("blobs/")).count()
    };
    until("all are there", async || stored().await == 10).await;
    // All of it is too young.
    let limited = |config: &mut forebay::config::Config| {
        config.store.as_mut().expect("a store").max_size = Some(600_000);
    };
    mirror.restart_with(limited).await;
    until("it was listed", async || mirror.metric("forebay_store_size_bytes", &[]).await == 1_000_000.0).await;
    assert_eq!((stored().await, mirror.metric("forebay_store_evicted_bytes_total", &[]).await), (10, 0.0));
    // Nothing is too young any more.
    let without_grace = |config: &mut forebay::config::Config| {
        let times = &mut config.store.as_mut().expect("a store").times;
        (times.least_age, times.interval) = (Duration::ZERO, Duration::from_secs(3600));
    };
    mirror.restart_with(without_grace).await;
    // Down to 95 % of its size, and no more than what is needed.
    let evicted = 500_000.0;
    mirror.until_metric("forebay_store_evicted_bytes_total", &[], evicted).await;
    assert_eq!(stored().await, 5);
    // What was removed comes from the registry again.
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir()).expect("the cache can be removed");
    mirror.start().await;
    for blob in &blobs {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
        assert_eq!(mirror.get(&path).await.body, blob.bytes);
    }
    assert_eq!(mirror.metric("forebay_upstream_received_bytes_total", &[]).await, evicted);
}
