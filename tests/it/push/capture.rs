//! What is pushed is in the cache at once, and what was not pushed to its end is not.

use std::{fs, future::Future, os::unix::fs::MetadataExt as _};

use bytes::Bytes;
use forebay::oci::{Algorithm, Digest};
use http::Method;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{UPLOADS, begin, build, digest, location, mirror_of, push_blob, with_digest};
use forebay_test_support::{
    blob::{self, REPOSITORY, content},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Answer, Mirror},
    raw::Raw,
    until::{bounded, until},
};

const LEN: usize = 300_000;

async fn patch(mirror: &Mirror, place: &str, range: Option<&str>, content: Bytes) -> Answer {
    let range: Vec<_> = range.map(|range| ("content-range", range)).into_iter().collect();
    mirror.send(Method::PATCH, place, &range, content).await
}

async fn put(mirror: &Mirror, place: &str, digest: &Digest, content: Bytes) -> Answer {
    mirror.send(Method::PUT, &with_digest(place, digest), &[], content).await
}

/// Waits until the blob is in the cache; it is then given without the upstream being asked for it.
async fn assert_kept(mirror: &Mirror, registry: &FakeRegistry, digest: &Digest, content: &Bytes) {
    until("the blob is kept", async || blob::file(&mirror.cache_dir(), digest).exists()).await;
    let got = mirror.get(&blob::path(digest)).await;
    assert_eq!((got.status, got.header("cache-status")), (200, Some("forebay; hit")));
    assert!(got.body == content, "its bytes are others");
    assert_eq!(registry.count(|request| request.is_blob_get(digest)), 0);
    until("nothing else is left", async || blob::files(&mirror.cache_dir().join("tmp")).is_empty()).await;
}

async fn until_it_is_being_kept(mirror: &Mirror) {
    until("it is being kept", async || !blob::files(&mirror.cache_dir().join("tmp")).is_empty()).await;
}

/// Whatever was on its way has ended, and nothing of it is there, now and after the end.
async fn assert_nothing_is_left(mirror: &mut Mirror) {
    let left = |directory: &str| blob::files(&mirror.cache_dir().join(directory));
    until("nothing is on its way", async || left("tmp").is_empty()).await;
    mirror.drain().await;
    let left = |directory: &str| blob::files(&mirror.cache_dir().join(directory));
    assert_eq!((left("tmp"), left("blobs")), (vec![], vec![]));
}

async fn nothing_is_left_after<F: Future<Output = Mirror>>(registry: &FakeRegistry, push: impl FnOnce(Mirror) -> F) {
    let mut mirror = push(mirror_of(registry).await).await;
    assert_nothing_is_left(&mut mirror).await;
    registry.heal();
}

/// A deployment pulls what was pushed a moment ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_pull_after_a_push_finds_it() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    for seed in 0..20 {
        let content = content(1000, seed);
        let digest = Digest::of(Algorithm::Sha256, &content);
        let target = format!("{UPLOADS}?digest={digest}");
        assert_eq!(mirror.send(Method::POST, &target, &[], content.clone()).await.status, 201);
        let got = mirror.get(&blob::path(&digest)).await;
        assert_eq!((got.header("cache-status"), &got.body), (Some("forebay; hit"), &content));
        assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_in_whatever_way_is_pulled_without_asking() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    for (seed, algorithm) in Algorithm::ALL.into_iter().enumerate() {
        let ways = ["POST", "POST in vain", "PUT", "PATCH", "PATCHes", "ranges"].map(|way| (way, LEN));
        for (way, len) in ways.into_iter().chain([("PUT", 1)]) {
            let content = content(len, (seed * 1000 + way.len() * 10 + len % 7) as u64);
            let digest = Digest::of(algorithm, &content);
            let part = |first: usize, end: usize| content.slice(first.min(len)..end.min(len));
            let put = match way {
                "POST" => {
                    let target = format!("{UPLOADS}?digest={digest}");
                    mirror.send(Method::POST, &target, &[], content.clone()).await
                }
                // Without a digest, the registry takes no content of it.
                "POST in vain" => {
                    let begun = mirror.send(Method::POST, UPLOADS, &[], content.clone()).await;
                    put(&mirror, &location(&begun), &digest, content.clone()).await
                }
                "PUT" => put(&mirror, &begin(&mirror).await, &digest, content.clone()).await,
                "PATCH" => {
                    let patched = patch(&mirror, &begin(&mirror).await, None, content.clone()).await;
                    put(&mirror, &location(&patched), &digest, Bytes::new()).await
                }
                "PATCHes" => {
                    let first = patch(&mirror, &begin(&mirror).await, None, part(0, 100_000)).await;
                    let second = patch(&mirror, &location(&first), None, part(100_000, 200_001)).await;
                    put(&mirror, &location(&second), &digest, part(200_001, len)).await
                }
                _ => {
                    let first = patch(&mirror, &begin(&mirror).await, Some("0-99999"), part(0, 100_000)).await;
                    let asked = mirror.get(&location(&first)).await;
                    let second = patch(&mirror, &location(&asked), Some("100000-299999"), part(100_000, len)).await;
                    put(&mirror, &location(&second), &digest, Bytes::new()).await
                }
            };
            assert_eq!(put.status, 201, "{way}: {put:?}");
            assert!(registry.blob(REPOSITORY, &digest).unwrap() == content);
            assert_kept(&mirror, &registry, &digest, &content).await;
        }
    }
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_does_not_take_is_not_kept() {
    let registry = FakeRegistry::start().await;
    let (blob, other) = (content(LEN, 1), digest(b"other"));
    let whole = digest(&blob);
    // The digest is that of other bytes, and the upstream finds out.
    let (name, bytes) = (other.clone(), blob.clone());
    nothing_is_left_after(&registry, async |mirror| {
        let patched = patch(&mirror, &begin(&mirror).await, None, bytes.clone()).await;
        until_it_is_being_kept(&mirror).await;
        assert_eq!(put(&mirror, &location(&patched), &name, Bytes::new()).await.status, 400);
        assert_eq!(put(&mirror, &begin(&mirror).await, &name, bytes.clone()).await.status, 400);
        let posted = mirror.send(Method::POST, &format!("{UPLOADS}?digest={name}"), &[], bytes).await;
        assert_eq!(posted.status, 400);
        mirror
    })
    .await;
    // The upstream does not find out, or has lost it.
    for (status, name) in [(201, &other), (202, &whole), (204, &whole), (500, &whole)] {
        nothing_is_left_after(&registry, async |mirror| {
            let patched = patch(&mirror, &begin(&mirror).await, None, blob.clone()).await;
            until_it_is_being_kept(&mirror).await;
            let answer = Fault::Answer { status, headers: vec![("location", "/x".to_owned())], body: String::new() };
            registry.fault(When::uploads().method(Method::PUT), answer);
            assert_eq!(put(&mirror, &location(&patched), name, Bytes::new()).await.status, status);
            mirror
        })
        .await;
    }
    // Cancelled.
    nothing_is_left_after(&registry, async |mirror| {
        let patched = patch(&mirror, &begin(&mirror).await, None, blob.clone()).await;
        until_it_is_being_kept(&mirror).await;
        let cancelled = mirror.request(Method::DELETE, &location(&patched), &[]).await;
        assert_eq!(cancelled.status, 204);
        mirror
    })
    .await;
    // Not gone on with, at the end of the process.
    nothing_is_left_after(&registry, async |mut mirror| {
        assert_eq!(patch(&mirror, &begin(&mirror).await, None, blob.clone()).await.status, 202);
        until_it_is_being_kept(&mirror).await;
        mirror.restart().await;
        mirror
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_mid_push_leaves_no_file() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry).await;
    let bytes = content(LEN, 2);
    let first = patch(&mirror, &begin(&mirror).await, None, bytes.slice(..100_000)).await;
    let tmp = mirror.cache_dir().join("tmp");
    until_it_is_being_kept(&mirror).await;
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    let place = location(&first);
    let head = format!("PATCH {place} HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes[100_000..200_000]).await.unwrap();
    drop(stream);
    registry.wait_for_broken(1).await;
    until("nothing is on its way", async || blob::files(&tmp).is_empty()).await;
    // It comes back, and has it whole; here it is not.
    let second = patch(&mirror, &place, None, bytes.slice(100_000..)).await;
    assert_eq!(second.status, 202);
    assert_eq!(put(&mirror, &location(&second), &digest(&bytes), Bytes::new()).await.status, 201);
    assert_nothing_is_left(&mut mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_out_of_order_ends_the_capture_not_the_push() {
    let registry = FakeRegistry::start().await;
    let bytes = content(LEN, 3);
    let whole = digest(&bytes);
    for retried in [false, true] {
        let mut mirror = mirror_of(&registry).await;
        let begun = begin(&mirror).await;
        let first = patch(&mirror, &begun, Some("0-99999"), bytes.slice(..100_000)).await;
        until_it_is_being_kept(&mirror).await;
        let range = if retried { "0-99999" } else { "200000-299999" };
        let refused = patch(&mirror, &location(&first), Some(range), bytes.slice(..100_000)).await;
        assert_eq!((refused.status, refused.header("range")), (416, Some("0-99999")));
        until("its capture has ended", async || blob::files(&mirror.cache_dir().join("tmp")).is_empty()).await;
        let rest = patch(&mirror, &location(&refused), Some("100000-299999"), bytes.slice(100_000..)).await;
        assert_eq!(put(&mirror, &location(&rest), &whole, Bytes::new()).await.status, 201);
        assert_nothing_is_left(&mut mirror).await;
    }
    // A part that the upstream could not take, and whose place is therefore the earlier one.
    let mut mirror = mirror_of(&registry).await;
    let first = patch(&mirror, &begin(&mirror).await, None, bytes.slice(..100_000)).await;
    until_it_is_being_kept(&mirror).await;
    registry.fault_times(1, When::uploads().method(Method::PATCH), Fault::status(503));
    let place = location(&first);
    // The answer comes before the content is read, and may be lost with the connection that is closed on it.
    let refused = patch(&mirror, &place, None, bytes.slice(100_000..)).await.status;
    assert!(matches!(refused, 502 | 503), "{refused}");
    let rest = patch(&mirror, &place, None, bytes.slice(100_000..)).await;
    assert_eq!(put(&mirror, &location(&rest), &whole, Bytes::new()).await.status, 201);
    assert_nothing_is_left(&mut mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_across_a_restart_is_pushed_and_not_cached() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry).await;
    let bytes = content(LEN, 4);
    let begun = begin(&mirror).await;
    mirror.drain().await;
    // As after a kill.
    let left = mirror.cache_dir().join("tmp").join("upload-00000000000000ff.new");
    fs::write(&left, "half").unwrap();
    mirror.start().await;
    until("what was left is swept", async || !left.exists()).await;
    // Nothing had been sent.
    let first = patch(&mirror, &begun, None, bytes.slice(..100_000)).await;
    let whole = put(&mirror, &location(&first), &digest(&bytes), bytes.slice(100_000..)).await;
    assert_eq!(whole.status, 201);

    let bytes = content(LEN, 5);
    let first = patch(&mirror, &begin(&mirror).await, None, bytes.slice(..100_000)).await;
    mirror.restart().await;
    let second = patch(&mirror, &location(&first), None, bytes.slice(100_000..)).await;
    assert_eq!(put(&mirror, &location(&second), &digest(&bytes), Bytes::new()).await.status, 201);
    assert_nothing_is_left(&mut mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_without_room_or_disk_stops_no_push() {
    let registry = FakeRegistry::start().await;
    let bytes = content(LEN, 6);
    let whole = digest(&bytes);
    for (case, max_size, min_free) in [("small", 100_000, 0), ("full disk", 1 << 30, u64::MAX), ("no tmp", 1 << 30, 0)]
    {
        let mut mirror = build(&registry)
            .config(|config| (config.cache.max_size, config.cache.min_free) = (max_size, min_free))
            .start()
            .await;
        let tmp = mirror.cache_dir().join("tmp");
        if case == "no tmp" {
            fs::remove_dir_all(&tmp).unwrap();
            fs::write(&tmp, "not a directory").unwrap();
        }
        for _ in 0..2 {
            let patched = patch(&mirror, &begin(&mirror).await, None, bytes.clone()).await;
            assert_eq!(put(&mirror, &location(&patched), &whole, Bytes::new()).await.status, 201, "{case}");
            assert!(registry.blob(REPOSITORY, &whole).unwrap() == bytes);
        }
        if case == "no tmp" {
            fs::remove_file(&tmp).unwrap();
            fs::create_dir(&tmp).unwrap();
        }
        assert_nothing_is_left(&mut mirror).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_blobs_evict_within_max_size() {
    let registry = FakeRegistry::start().await;
    let max_size = 1_500_000;
    let mirror = build(&registry).max_size(max_size).start().await;
    for seed in 10..20 {
        let bytes = content(LEN, seed);
        let whole = push_blob(&mirror, REPOSITORY, &bytes).await;
        assert_kept(&mirror, &registry, &whole, &bytes).await;
        assert!(blob::allocated(&mirror.cache_dir()) <= max_size);
    }
    assert!(mirror.metric("forebay_evicted_bytes_total", &[]).await >= 5.0 * LEN as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_here_or_on_its_way_is_left_alone() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    // Here.
    let (here, bytes) = blob::add(&registry, LEN, 7);
    mirror.get(&blob::path(&here)).await;
    let file = blob::file(&mirror.cache_dir(), &here);
    until("it is here", async || file.exists()).await;
    let inode = fs::metadata(&file).unwrap().ino();
    for patches in [false, true] {
        let begun = begin(&mirror).await;
        let place = if patches { location(&patch(&mirror, &begun, None, bytes.clone()).await) } else { begun };
        let rest = if patches { Bytes::new() } else { bytes.clone() };
        assert_eq!(put(&mirror, &place, &here, rest).await.status, 201);
        until("nothing is on its way", async || blob::files(&mirror.cache_dir().join("tmp")).is_empty()).await;
    }
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);

    // On its way.
    let (coming, bytes) = blob::add(&registry, LEN, 8);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    let mut reader = Raw::get(mirror.address(), &blob::path(&coming), &[]).await;
    reader.read(1000).await;
    let patched = patch(&mirror, &begin(&mirror).await, None, bytes.clone()).await;
    assert_eq!(put(&mirror, &location(&patched), &coming, Bytes::new()).await.status, 201);
    let fills = vec![blob::partial(&mirror.cache_dir(), &coming)];
    until("the upload is given up", async || blob::files(&mirror.cache_dir().join("tmp")) == fills).await;
    assert!(!blob::file(&mirror.cache_dir(), &coming).exists());
    gate.open();
    let end = bounded(reader.rest()).await;
    assert!(end.is_whole());
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 2.0).await;
    let got = mirror.get(&blob::path(&coming)).await;
    assert!(got.header("cache-status") == Some("forebay; hit") && got.body == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_too_large_for_the_cache_evicts_nothing() {
    let registry = FakeRegistry::start().await;
    let mut mirror = build(&registry).max_size(4_000_000).start().await;
    let (here, _) = blob::add(&registry, 3_000_000, 9);
    mirror.get(&blob::path(&here)).await;
    until("it is here", async || blob::file(&mirror.cache_dir(), &here).exists()).await;
    let bytes = content(2_000_001, 10);
    let patched = patch(&mirror, &begin(&mirror).await, None, bytes.clone()).await;
    assert_eq!(put(&mirror, &location(&patched), &digest(&bytes), Bytes::new()).await.status, 201);
    mirror.drain().await;
    let kept = blob::files(&mirror.cache_dir().join("blobs"));
    assert_eq!(kept, [blob::file(&mirror.cache_dir(), &here)]);
}

/// A client that comes before the blob is in its place finds it there, or costs one request to the upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_during_a_push_get_the_whole_blob() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry).await;
    for seed in 100..130 {
        let bytes = content(LEN, seed);
        let whole = push_blob(&mirror, REPOSITORY, &bytes).await;
        let path = blob::path(&whole);
        let pulls = (0..4).map(|_| mirror.get(&path));
        for got in futures_util::future::join_all(pulls).await {
            assert!(got.status == 200 && got.body == bytes, "{:?}", got.headers);
        }
        assert!(registry.count(|request| request.is_blob_get(&whole)) <= 1);
    }
    until("nothing is on its way", async || blob::files(&mirror.cache_dir().join("tmp")).is_empty()).await;
    mirror.drain().await;
    assert_eq!(blob::files(&mirror.cache_dir().join("blobs")).len(), 30);
    blob::assert_verified(&mirror.cache_dir());
}
