//! What an earlier fill left: all of the blob, or damaged.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use bytes::Bytes;
use forebay::oci::Digest;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    mirror::{Mirror, UPSTREAM},
    program::{Program, held_sync},
    raw::Raw,
    until::until,
};

const LEN: usize = 400_000;

fn ranges(registry: &FakeRegistry) -> Vec<String> {
    registry.requests().iter().filter_map(|request| Some(request.header("range")?.to_owned())).collect()
}

/// Ends the mirror, and starts it where a fill of this blob left these bytes.
async fn restart_with_part(mirror: &mut Mirror, registry: &FakeRegistry, digest: &Digest, bytes: &[u8]) {
    mirror.drain().await;
    blob::leave(&mirror.cache_dir(), registry, digest, bytes);
    mirror.start().await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "partial")], 1.0).await;
}

fn damaged(content: &Bytes, len: usize, at: usize) -> Vec<u8> {
    let mut part = content[..len].to_vec();
    part[at] ^= 1;
    part
}

async fn mismatches(mirror: &Mirror) -> f64 {
    mirror.metric("forebay_digest_mismatches_total", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_damaged_is_fetched_again() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    for (seed, at) in [0, 150_000, 299_999].into_iter().enumerate() {
        let (digest, content) = add(&registry, LEN, seed as u64);
        mirror.drain().await;
        let part = blob::partial(&mirror.cache_dir(), &digest);
        blob::leave(&mirror.cache_dir(), &registry, &digest, &content[..300_000]);
        let file = File::options().write(true).open(&part).unwrap();
        file.write_all_at(&[content[at] ^ 1], at as u64).unwrap();
        mirror.start().await;
        mirror.until_metric("forebay_cache_objects", &[("kind", "partial")], 1.0).await;
        // Neither the whole nor a part has the damaged byte.
        let range = format!("bytes={at}-{at}");
        assert!(mirror.get_with(&path(&digest), &[("range", &range)]).await.body == content.slice(at..=at));
        assert!(mirror.get(&path(&digest)).await.body == content);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(mirror.metric("forebay_fills_total", &[("result", "mismatch")]).await, 0.0);
        assert_eq!(ranges(&registry), Vec::<String>::new(), "the chunk is the whole blob");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_that_were_left_do_not_count_against_the_upstream() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    for (seed, at) in [0, 150_000, 299_999].into_iter().enumerate() {
        let (digest, content) = add(&registry, LEN, seed as u64);
        restart_with_part(&mut mirror, &registry, &digest, &damaged(&content, 300_000, at)).await;
        // The first client is cut off, unless the damage is found before it gets a head.
        let end = Raw::end_of(mirror.address(), &path(&digest)).await;
        assert!(!end.is_whole() || end.bytes() == content, "{at}");
        mirror.until_metric("forebay_fills_total", &[("result", "mismatch")], 1.0).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert!(!blob::partial(&mirror.cache_dir(), &digest).exists());
        assert!(mirror.get(&path(&digest)).await.body == content);
        assert_eq!(mismatches(&mirror).await, 0.0);
        // Other blobs of that upstream are resumed by ranges, as ever.
        let (other, content) = add(&registry, LEN, 10 + seed as u64);
        registry.forget_requests();
        registry.fault_times(1, When::blob(&other), Fault::Truncate { at: 100_000 });
        assert!(mirror.get(&path(&other)).await.body == content);
        assert_eq!(ranges(&registry), ["bytes=100000-"]);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_after_a_leftover_count_only_the_second_time() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blob(&digest), Fault::IgnoreRange);
    registry.fault(When::blob(&digest), Fault::Corrupt { at: 350_000 });
    restart_with_part(&mut mirror, &registry, &digest, &content[..300_000]).await;
    // The first hash has bytes that an earlier download left, so the fault may be theirs; the second one has none.
    for counted in [0.0, 1.0] {
        // The client has its head before the fault is found: without one it would begin the next download, too.
        let gate = Gate::new();
        registry.fault(When::blob(&digest), Fault::HoldBody { at: 390_000, gate: gate.clone() });
        let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
        gate.open();
        assert!(!client.rest().await.is_whole());
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(mismatches(&mirror).await, counted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_part_of_a_small_blob_is_seen_by_no_client() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 60_000, 1);
    restart_with_part(&mut mirror, &registry, &digest, &damaged(&content, 50_000, 7)).await;
    let answer = mirror.get(&path(&digest)).await;
    assert!(answer.status == 200 && answer.body == content);
    assert_eq!((mismatches(&mirror).await, ranges(&registry)), (0.0, vec!["bytes=50000-".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_part_does_not_end_the_prefetch_of_an_image() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::build(&registry).config(|config| config.cache.prefetch = 1).start().await;
    let layers = [blob::content(LEN, 1), blob::content(LEN, 2)];
    let image = registry.add_image(blob::REPOSITORY, "1", &[&layers[0], &layers[1]]);
    restart_with_part(&mut mirror, &registry, &image.layers[0], &damaged(&layers[0], 300_000, 7)).await;
    mirror.get(&format!("/v2/{}/manifests/1", blob::REPOSITORY)).await;
    mirror.get(&path(&image.config)).await;
    until("the other layer is fetched", async || blob::file(&mirror.cache_dir(), &image.layers[1]).exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_part_is_a_hit_while_the_upstream_is_down() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    registry.take_down(Server::Api).await;
    for (seed, len) in [0, 1, 5000, 70_000, LEN].into_iter().enumerate() {
        let (digest, content) = add(&registry, len, seed as u64);
        restart_with_part(&mut mirror, &registry, &digest, &content).await;
        let part = [("range", "bytes=0-0")];
        let first = mirror.get_with(&path(&digest), if seed % 2 == 0 { &[] } else { &part }).await;
        assert!(first.status == if seed % 2 == 0 { 200 } else { 206 }, "{len}");
        assert_eq!(first.header("cache-status"), Some("forebay; hit"));
        assert!(mirror.get(&path(&digest)).await.body == content, "{len}");
        mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
        mirror.until_metric("forebay_cache_objects", &[("kind", "partial")], 0.0).await;
        assert!(blob::files(&mirror.cache_dir().join("tmp")).is_empty());
        blob::assert_verified(&mirror.cache_dir());
    }
    assert_eq!(mirror.metric("forebay_upstream_requests_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_a_whole_part_needs_no_upstream() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let outages = [None, Some(Fault::status(503)), Some(Fault::too_many("7")), Some(Fault::Disconnect)];
    for (seed, outage) in outages.into_iter().enumerate() {
        let (digest, content) = add(&registry, LEN, seed as u64);
        match &outage {
            None => registry.take_down(Server::Api).await,
            Some(fault) => registry.fault(When::any(), fault.clone()),
        }
        // Where some is missing, only the upstream knows the size.
        restart_with_part(&mut mirror, &registry, &digest, &content[..LEN - 1]).await;
        assert!(mirror.head(&path(&digest)).await.status >= 429, "{outage:?}");
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        restart_with_part(&mut mirror, &registry, &digest, &content).await;
        let head = mirror.head(&path(&digest)).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("400000")), "{outage:?}");
        assert_eq!(head.header("cache-status"), Some("forebay; hit"), "{outage:?}");
        assert!(mirror.get(&path(&digest)).await.body == content, "{outage:?}");
        // It is the same for a client that has it already.
        let (digest, content) = add(&registry, LEN, 10 + seed as u64);
        restart_with_part(&mut mirror, &registry, &digest, &content).await;
        let tag = format!("\"{digest}\"");
        assert_eq!(mirror.get_with(&path(&digest), &[("if-none-match", &tag)]).await.status, 304, "{outage:?}");
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        if outage.is_none() {
            registry.bring_up(Server::Api).await;
        }
        registry.heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_whole_part_goes_also_in_an_outage() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.take_down(Server::Api).await;
    restart_with_part(&mut mirror, &registry, &digest, &damaged(&content, LEN, LEN - 1)).await;
    let both = async || {
        let statuses = (mirror.head(&path(&digest)).await.status, mirror.get(&path(&digest)).await.status);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        statuses
    };
    assert_eq!(both().await, (502, 502));
    assert!(!blob::partial(&mirror.cache_dir(), &digest).exists());
    registry.bring_up(Server::Api).await;
    assert_eq!(both().await, (200, 200));
    assert!(mirror.get(&path(&digest)).await.body == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_last_byte_and_rename_loses_nothing() {
    let registry = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = 0\n[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n",
        registry.url()
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let (library, hold) = (held_sync(directory.path()), directory.path().join("hold"));
    let environment = [("LD_PRELOAD", library.to_str().unwrap()), ("HOLD_SYNC", hold.to_str().unwrap())];
    let program = Program::serve_with(directory, "info", &environment).await;
    fs::write(&hold, "").unwrap();
    let (in_order, first) = add(&registry, LEN, 1);
    let (with_gaps, second) = add(&registry, 4 * 1024 * 1024, 2);
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&with_gaps), Fault::HoldBody { at: 70_000, gate: gate.clone() });
    let end = Raw::get(program.registry, &path(&with_gaps), &[("range", "bytes=-1000")]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == &second[second.len() - 1000..]);
    gate.open();
    for (digest, content) in [(&in_order, &first), (&with_gaps, &second)] {
        let end = Raw::get(program.registry, &path(digest), &[]).await.rest().await;
        // What is verified is given to clients before it is synced.
        assert!(end.is_whole() && end.bytes() == content);
    }
    let directory = program.kill();
    fs::remove_file(&hold).unwrap();
    registry.take_down(Server::Api).await;
    let program = Program::serve(directory, "info").await;
    for (digest, content) in [(&in_order, &first), (&with_gaps, &second)] {
        let answer = Raw::get(program.registry, &path(digest), &[]).await;
        assert_eq!((answer.status, answer.header("cache-status")), (200, Some("forebay; hit")));
        assert!(answer.rest().await.bytes() == content);
    }
}
