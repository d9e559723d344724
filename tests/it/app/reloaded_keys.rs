//! Each key that a reload takes changes what a running mirror does.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    time::Duration,
};

use forebay::config::Config;
use rustix::process::Signal;
use tokio::net::TcpStream;

use forebay_test_support::{
    blob::{self, add, content, path},
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    manifest::manifest,
    mirror::Mirror,
    program::Program,
    raw::Raw,
    until::until,
};

const HOUR: Duration = Duration::from_secs(3600);
const MIB: usize = 1024 * 1024;

/// Reloads the mirror with the configuration of its start, changed in this way.
fn reload(mirror: &Mirror, change: impl FnOnce(&mut Config)) {
    let mut config = mirror.config().clone();
    change(&mut config);
    mirror.app().reload(config).unwrap();
}

/// A blob of this size that the mirror has pulled.
async fn pull(registry: &FakeRegistry, mirror: &Mirror, len: usize, seed: u64) -> String {
    let (digest, content) = add(registry, len, seed);
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    path(&digest)
}

async fn is_hit(mirror: &Mirror, path: &str) -> bool {
    mirror.head(path).await.header("cache-status") == Some("forebay; hit")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tag_ttl_decides_when_a_tag_is_asked_for_again() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = HOUR).start().await;
    assert_eq!(mirror.get(&manifest(1)).await.body, first.manifest_bytes);
    let second = registry.add_image("team/app", "1", &[b"second"]);
    assert_eq!(mirror.get(&manifest(1)).await.body, first.manifest_bytes);
    reload(&mirror, |config| config.cache.tag_ttl = Duration::ZERO);
    assert_eq!(mirror.get(&manifest(1)).await.body, second.manifest_bytes);
    reload(&mirror, |_| {});
    registry.add_image("team/app", "1", &[b"third"]);
    assert_eq!(mirror.get(&manifest(1)).await.body, second.manifest_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_if_error_decides_what_an_outage_leaves() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    assert_eq!(mirror.get(&manifest(1)).await.status, 200);
    registry.take_down(Server::Api).await;
    assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), Some("forebay; hit; detail=stale"));
    reload(&mirror, |config| config.cache.stale_if_error = Duration::ZERO);
    assert!(mirror.get(&manifest(1)).await.status >= 500);
    reload(&mirror, |_| {});
    assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), Some("forebay; hit; detail=stale"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn negative_ttl_decides_how_long_a_404_is_remembered() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.negative_ttl = HOUR).start().await;
    assert_eq!(mirror.get(&manifest(1)).await.status, 404);
    registry.add_image("team/app", "1", &[b"layer"]);
    assert_eq!(mirror.get(&manifest(1)).await.status, 404);
    reload(&mirror, |config| config.cache.negative_ttl = Duration::ZERO);
    assert_eq!(mirror.get(&manifest(1)).await.status, 200);
    for tag in [2, 3] {
        assert_eq!(mirror.get(&manifest(tag)).await.status, 404);
        registry.add_image("team/app", &tag.to_string(), &[b"layer"]);
        assert_eq!(mirror.get(&manifest(tag)).await.status, 200, "it is not remembered at all");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_max_size_evicts_at_once_and_then_binds() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(16 * MIB as u64).start().await;
    for seed in 0..6 {
        pull(&registry, &mirror, MIB, seed).await;
    }
    assert!(blob::allocated(&mirror.cache_dir()) > 6 * MIB as u64);
    let lower = 4 * MIB as u64;
    reload(&mirror, |config| config.cache.max_size = lower);
    until("the cache fits", async || blob::allocated(&mirror.cache_dir()) <= lower).await;
    assert_eq!(mirror.metric("forebay_cache_max_bytes", &[]).await, lower as f64);
    for seed in 10..14 {
        let last = pull(&registry, &mirror, MIB, seed).await;
        assert!(blob::allocated(&mirror.cache_dir()) <= lower && is_hit(&mirror, &last).await);
    }
    reload(&mirror, |_| {});
    for seed in 20..26 {
        pull(&registry, &mirror, MIB, seed).await;
    }
    assert!(blob::allocated(&mirror.cache_dir()) > 6 * MIB as u64, "a higher one keeps more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_max_size_below_what_is_in_use_breaks_no_client() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(16 * MIB as u64).start().await;
    // One client reads a cached blob, and one a blob that is downloaded meanwhile.
    let (cached, in_flight) = (add(&registry, 4 * MIB, 1), add(&registry, MIB, 2));
    assert_eq!(mirror.get(&path(&cached.0)).await.body, cached.1);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let mut reader = Raw::get(mirror.address(), &path(&cached.0), &[]).await;
    reader.read(1000).await;
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&in_flight.0), Fault::HoldBody { at: MIB / 2, gate: gate.clone() });
    let mut waiting = Raw::get(mirror.address(), &path(&in_flight.0), &[]).await;
    waiting.read(1000).await;
    gate.reached().await;

    let lower = MIB as u64 / 2;
    reload(&mirror, |config| config.cache.max_size = lower);
    gate.open();
    for (client, content) in [(reader, &cached.1), (waiting, &in_flight.1)] {
        let end = client.rest().await;
        assert!(end.is_whole() && end.bytes() == content.as_ref() as &[u8]);
    }
    // The next blob has room once the others are gone.
    let (digest, content) = add(&registry, 100_000, 3);
    until("the cache fits", async || {
        assert_eq!(mirror.get(&path(&digest)).await.body, content);
        blob::allocated(&mirror.cache_dir()) <= lower
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn min_free_decides_whether_a_blob_is_kept() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    reload(&mirror, |config| config.cache.min_free = u64::MAX / 2);
    let blob = pull(&registry, &mirror, MIB, 1).await;
    assert!(!is_hit(&mirror, &blob).await);
    reload(&mirror, |_| {});
    let blob = pull(&registry, &mirror, MIB, 2).await;
    assert!(is_hit(&mirror, &blob).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetch_begins_once_it_is_switched_on() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.prefetch = 0).start().await;
    let layers: Vec<_> = (0..4).map(|seed| content(100_000, seed)).collect();
    let first = registry.add_image("team/app", "1", &[&layers[0], &layers[1]]);
    let second = registry.add_image("team/app", "2", &[&layers[2], &layers[3]]);
    let start_pull = async |tag: u8, config| {
        assert_eq!(mirror.get(&manifest(tag)).await.status, 200);
        assert_eq!(mirror.get(&path(config)).await.status, 200);
    };
    start_pull(1, &first.config).await;
    reload(&mirror, |config| config.cache.prefetch = 2);
    start_pull(2, &second.config).await;
    // Two configurations, and the layers of the second image.
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 4.0).await;
    for layer in &second.layers {
        assert_eq!(registry.count(|request| request.is_blob_get(layer)), 1);
    }
    for layer in &first.layers {
        assert_eq!(registry.count(|request| request.is_blob_get(layer)), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_connections_binds_new_clients_at_once() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let status = async || Raw::get(mirror.address(), "/v2/", &[]).await.status;
    assert_eq!(status().await, 200);
    let _first = TcpStream::connect(mirror.address()).await.unwrap();
    until("the first client is here alone", async || mirror.metric("forebay_connections", &[]).await == 1.0).await;
    reload(&mirror, |config| config.server.max_connections = 1);
    assert_eq!(status().await, 503);
    reload(&mirror, |config| config.server.max_connections = 100);
    assert_eq!(status().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_every_begins_the_scrub() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.verify_every = Duration::ZERO).start().await;
    let (digest, _) = add(&registry, 100_000, 1);
    assert_eq!(mirror.get(&path(&digest)).await.status, 200);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let file = blob::file(&mirror.cache_dir(), &digest);
    until("the blob is in its place", async || file.exists()).await;
    File::options().write(true).open(&file).unwrap().write_all_at(b"rotten", 50_000).unwrap();
    reload(&mirror, |config| config.cache.verify_every = Duration::from_millis(100));
    mirror.until_metric("forebay_cache_corrupt_objects_total", &[("kind", "blob")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_fails_takes_no_value_at_all() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = HOUR).start().await;
    assert_eq!(mirror.get(&manifest(1)).await.status, 200);
    registry.add_image("team/app", "1", &[b"second"]);
    let mut config = mirror.config().clone();
    config.cache.tag_ttl = Duration::ZERO;
    config.cache.max_size = 1;
    config.server.max_connections = 1;
    config.access.htpasswd = Some("/nowhere/htpasswd".into());
    assert!(mirror.app().reload(config).is_err());
    assert_eq!(mirror.get(&manifest(1)).await.body, first.manifest_bytes);
    assert_eq!(mirror.metric("forebay_cache_max_bytes", &[]).await, mirror.config().cache.max_size as f64);
    let _first = TcpStream::connect(mirror.address()).await.unwrap();
    assert_eq!(Raw::get(mirror.address(), "/v2/", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_a_reload_cannot_take_has_a_line_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("forebay.toml"), "").unwrap();
    let program = Program::serve(directory, "info").await;
    let text = "[server]\ndrain_timeout = \"1m\"\n[cache]\nmanifest_memory = \"1 MiB\"\ntag_ttl = \"5m\"\n";
    fs::write(program.directory().join("forebay.toml"), text).unwrap();
    program.signal(Signal::HUP);
    until("the reload", async || program.log().contains("configuration reloaded")).await;
    let log = program.end().await;
    let told: Vec<_> = log.lines().filter(|line| line.contains("a reload cannot change this key")).collect();
    let has = |words: [&str; 3]| told.iter().filter(|line| words.iter().all(|word| line.contains(word))).count();
    assert_eq!(has(["\"server.drain_timeout\"", "\"30s\"", "\"1m\""]), 1, "{log}");
    assert_eq!(has(["\"cache.manifest_memory\"", "\"67108864\"", "\"1048576\""]), 1, "{log}");
    assert_eq!(told.len(), 2, "{log}");
}
