//! A blob that is not cached: fetched, written, hashed, synced and sent at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

mod support;

use divan::{Bencher, counter::BytesCount};
use support::{Bench, blob};

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
            // One input for each call: of several made ahead, the second would wait for ever for what is gone.
            // The response ends a moment before the blob has its name.
            while !bench.forget(&digest) {
                std::thread::yield_now();
            }
        })
        .bench_local_values(|()| bench.get(&path));
}
