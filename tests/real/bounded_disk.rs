//! A cache of 300 MB under a rolling pull of a gigabyte: the bound holds at every moment, and no pull fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_test_support::real::{
    disk, download::download, forebay::Forebay, image::Blob, registry::Registry, turn::Turn,
};

const MAX: u64 = 300_000_000;
const BLOBS: usize = 36;
const CLIENTS: usize = 4;

/// 20 to 40 MB, a gigabyte together.
fn size(number: usize) -> usize {
    20_000_000 + (number * 8 % 21) * 1_000_000
}

#[tokio::test(flavor = "multi_thread")]
async fn max_size_is_never_exceeded_and_no_pull_fails() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let mut blobs = Vec::new();
    for number in 0..BLOBS {
        let blob = Blob::random(800 + number as u64, size(number));
        registry.store("library/rolling", &blob);
        // Only the digest is needed from here on; a gigabyte need not stay in memory.
        blobs.push((Blob { bytes: bytes::Bytes::new(), ..blob }, size(number)));
    }
    let total: usize = blobs.iter().map(|(_, size)| size).sum();
    assert!(total >= 1_000_000_000, "a gigabyte rolls through: {total}");
    let config = format!(
        "[cache]\nmax_size = \"300 MB\"\nmin_free = \"1 MiB\"\n\
         [[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\n",
        registry.url()
    );
    let forebay = Forebay::start(&config, &[]).await;

    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (done, cache) = (Arc::clone(&done), forebay.cache());
        move || {
            let (mut most, mut looks) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                if let Some(bytes) = disk::usage(&cache) {
                    most = most.max(bytes);
                    looks += 1;
                }
            }
            (most, looks)
        }
    });
    let urls: Arc<Vec<(String, String)>> = Arc::new(
        blobs.iter().map(|(blob, _)| (forebay.blob_url("library/rolling", blob), blob.digest.clone())).collect(),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let urls = Arc::clone(&urls);
            tokio::spawn(async move {
                // Each begins elsewhere, so that different blobs are in flight at once.
                for step in 0..BLOBS {
                    let (url, digest) = &urls[(client * BLOBS / CLIENTS + step) % BLOBS];
                    let end = download(url).await;
                    assert!(end.is_whole(digest), "client {client}, step {step}: {end:?}");
                }
            })
        })
        .collect();
    let ends = futures_util::future::join_all(clients).await;
    done.store(true, Ordering::Relaxed);
    let (most, looks) = watcher.join().expect("the watcher does not panic");

    for end in ends {
        end.expect("every pull was right");
    }
    assert!(looks > 100, "the watcher looked often: {looks}");
    assert!(most <= MAX, "{most} bytes were on disk");
    assert!(most > MAX / 2, "the cache was used: {most} bytes");
    assert!(forebay.metric("forebay_evicted_bytes_total", &[]).await > 0.0);
    forebay.assert_stored_blobs_are_right();
}
