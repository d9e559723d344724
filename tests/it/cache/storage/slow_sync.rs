//! A disk that is slow to sync delays who writes to it, not who reads, nor who is told that there is nothing.

use std::fs::{self, File};

use forebay_test_support::{
    blob::{add, path},
    fake_registry::FakeRegistry,
    mirror::UPSTREAM,
    program::{Program, held_sync},
    until::{bounded, until},
};

/// More than the program has threads for the disk.
const FILLS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_and_404s_do_not_wait_for_a_hundred_slow_syncs() {
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
    let in_flight = async |number: u64| {
        until(&format!("{number} fills are in flight"), async || {
            program.metrics().await.contains(&format!("\nforebay_fills_in_flight {number}\n"))
        })
        .await;
    };
    let (hit, _) = add(&registry, 100_000, 0);
    assert_eq!(program.get(&path(&hit)).await.0, 200);
    in_flight(0).await;
    registry.forget_requests();
    File::create(&hold).unwrap();
    let blobs: Vec<_> = (1..=FILLS).map(|seed| add(&registry, 100_000, seed).0).collect();
    let pulls = futures_util::future::join_all(blobs.iter().map(|digest| async {
        let (status, _) = program.get(&path(digest)).await;
        assert_eq!(status, 200);
    }));
    bounded(pulls).await;
    in_flight(FILLS).await;
    assert_eq!(bounded(program.get(&path(&hit))).await.0, 200);
    assert_eq!(registry.count(|request| request.is_blob_get(&hit)), 0, "it is a hit");
    assert_eq!(bounded(program.get("/v2/team/app/manifests/missing")).await.0, 404);
    fs::remove_file(&hold).unwrap();
    in_flight(0).await;
}
