//! A blob that is not cached: downloaded, written, hashed, synced and sent at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, counter::BytesCount};
use forebay_test_support::bench::{Bench, blob};

fn main() {
    divan::main();
}

#[divan::bench(args = [4 << 10, 1 << 20, 64 << 20], sample_count = 20, sample_size = 1)]
fn miss(bencher: Bencher<'_, '_>, len: usize) {
    let (content, digest) = blob(len, 1);
    let bench = Bench::new(vec![content]);
    let path = format!("/v2/team/app/blobs/{digest}");
    assert_eq!(bench.get(&path), len as u64);
    bencher
        .counter(BytesCount::new(len))
        .with_inputs(|| {
            // The response ends before forebay has synced the blob and ended the fill. Until then there is no cached
            // blob to forget, and a request may still get the bytes of that fill.
            std::thread::sleep(std::time::Duration::from_millis(50));
            while !bench.forget(&digest) {
                bench.get(&path);
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        })
        .bench_local_values(|()| bench.get(&path));
}
