//! A blob that is cached, with its pages in memory, over a new connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, counter::BytesCount};
use forebay_test_support::bench::{Bench, blob};

fn main() {
    divan::main();
}

#[divan::bench(args = [4 << 10, 1 << 20, 64 << 20])]
fn full(bencher: Bencher<'_, '_>, len: usize) {
    let (content, digest) = blob(len, 1);
    let bench = Bench::new(vec![content]);
    let path = format!("/v2/team/app/blobs/{digest}");
    assert_eq!(bench.get(&path), len as u64);
    bencher.counter(BytesCount::new(len)).bench_local(|| bench.get(&path));
}
