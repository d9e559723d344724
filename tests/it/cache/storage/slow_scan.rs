//! While the start-up scan runs, downloads are stored and shared; afterwards each object counts once.

use std::fs::{self, File};

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::FakeRegistry,
    mirror::UPSTREAM,
    program::{Program, held_scan},
    raw::Raw,
    until::{bounded, until},
};

const MIB: usize = 1024 * 1024;
const MAX_SIZE: u64 = 4 * MIB as u64;
const CLIENTS: usize = 20;

fn is_in(metrics: &str, line: &str) -> bool {
    metrics.contains(&format!("\n{line}\n"))
}

/// The sum over all kinds.
fn cache_bytes(metrics: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with("forebay_cache_bytes{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_blob_share_a_download_during_the_scan() {
    let registry = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = 0\nmax_size = {MAX_SIZE}\n[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n",
        registry.url()
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let (library, hold) = (held_scan(directory.path()), directory.path().join("hold"));
    let program = Program::serve(directory, "info").await;
    let old: Vec<_> = (0..3).map(|seed| add(&registry, MIB, seed).0).collect();
    for (number, digest) in old.iter().enumerate() {
        assert_eq!(program.get(&path(digest)).await.0, 200);
        let complete = format!("forebay_fills_total{{result=\"complete\",upstream=\"{UPSTREAM}\"}} {}", number + 1);
        until("it is cached", async || is_in(&program.metrics().await, &complete)).await;
    }
    let directory = program.kill();
    registry.forget_requests();
    File::create(&hold).unwrap();
    let environment = [("LD_PRELOAD", library.to_str().unwrap()), ("HOLD_SCAN", hold.to_str().unwrap())];
    let program = Program::serve_with(directory, "info", &environment).await;

    let (digest, content) = add(&registry, 2 * MIB, 7);
    let (address, target) = (program.registry, path(&digest));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move { Raw::get(address, &target, &[]).await.rest().await })
        })
        .collect();
    for client in clients {
        let end = bounded(client).await.unwrap();
        assert!(end.is_whole() && end.bytes() == content);
    }
    let blob_gets = |digest| registry.count(|request| request.is_blob_get(digest));
    assert_eq!(blob_gets(&digest), 1);
    until("it is stored", async || is_in(&program.metrics().await, "forebay_fills_in_flight 0")).await;
    // What is there, or came meanwhile, is a hit.
    for known in [&digest, &old[2]] {
        assert_eq!(program.get(&path(known)).await.0, 200);
    }
    assert_eq!((blob_gets(&digest), blob_gets(&old[2])), (1, 0));
    assert!(!program.log().contains("was scanned"), "the scan is held");

    // Then the scan finds more than the cache may have: what was used the longest time ago goes.
    fs::remove_file(&hold).unwrap();
    until("the scan is complete", async || is_in(&program.metrics().await, "forebay_cache_objects{kind=\"blob\"} 2"))
        .await;
    let cache = program.directory().join("cache");
    let there = |digest| blob::file(&cache, digest).exists();
    until("the evicted files are gone", async || old.iter().filter(|digest| there(digest)).count() == 1).await;
    assert!(there(&digest) && there(&old[2]));
    // What the metric says is what `du` says.
    let allocated = blob::allocated(&cache);
    assert!(allocated <= MAX_SIZE);
    until("the metric agrees", async || cache_bytes(&program.metrics().await) == allocated as f64).await;
}
