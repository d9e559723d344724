//! `kill -9` in the middle of downloads over several connections: a kill loses no more than a chunk of each.

use std::{fs, time::Duration};

use bytes::Bytes;
use forebay::oci::Digest;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, When},
    mirror::UPSTREAM,
    program::Program,
    raw::Raw,
    until::until,
};

const MIB: usize = 1024 * 1024;
const LEN: usize = 24 * MIB;
const CONNECTIONS: usize = 4;
const KILLS: usize = 6;

/// At most 4 MB/s for each connection, so that more of them are worth it.
const SLOW: Fault = Fault::Throttle { piece: 32 * 1024, pause: Duration::from_millis(8) };

fn received(metrics: &str) -> usize {
    let line = metrics.lines().find(|line| line.starts_with("forebay_upstream_received_bytes_total{"));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as usize)
}

/// How many chunks lie whole in the file, and how many of them the map does not have.
fn whole_and_lost(directory: &std::path::Path, digest: &Digest, content: &Bytes) -> (usize, usize) {
    let part = blob::partial(&directory.join("cache"), digest);
    let Ok(file) = fs::read(&part) else { return (0, 0) };
    let noted = blob::chunks(&part);
    let whole: Vec<_> =
        (0..LEN / MIB).filter(|n| file.get(n * MIB..(n + 1) * MIB) == content.get(n * MIB..(n + 1) * MIB)).collect();
    let lost = whole.iter().filter(|n| noted.get(**n) != Some(&(MIB as u64)));
    (whole.len(), lost.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kill_loses_at_most_a_chunk_of_each_connection() {
    let registry = FakeRegistry::start().await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blobs(), SLOW);
    let mut directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = 0\n[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\nconnections = {CONNECTIONS}\n",
        registry.url()
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let (mut all, mut parallel) = (0, 0);
    for kill in 0..KILLS {
        let program = Program::serve(directory, "info").await;
        registry.forget_requests();
        let _client = Raw::get(program.registry, &path(&digest), &[]).await;
        let enough = (kill + 1) * MIB;
        until("some of it came", async || received(&program.metrics().await) >= enough).await;
        all += received(&program.metrics().await);
        parallel += registry.count(|request| request.is_blob_get(&digest)) - 1;
        directory = program.kill();
        let (whole, lost) = whole_and_lost(directory.path(), &digest, &content);
        assert!(lost <= CONNECTIONS, "kill {kill} loses {lost} of {whole} chunks");
        if whole >= LEN / MIB {
            break;
        }
    }
    assert!(parallel > 0, "no download had more than one connection");
    registry.heal();
    let program = Program::serve(directory, "info").await;
    let end = Raw::get(program.registry, &path(&digest), &[]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    all += received(&program.metrics().await);
    // In memory, each connection may have had two batches of 1 MiB that were not written.
    let most = LEN + KILLS * CONNECTIONS * 3 * MIB;
    assert!(all <= most, "the upstream sent {all} bytes, for {LEN} and {KILLS} kills");
    assert_eq!(blob::files(&program.directory().join("cache/tmp")).len(), 0);
}
