//! A manifest out of memory, over a connection of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

mod support;

use divan::Bencher;
use support::{Bench, MANIFEST};

fn main() {
    divan::main();
}

#[divan::bench]
fn by_tag(bencher: Bencher<'_, '_>) {
    let bench = Bench::new(Vec::new());
    let path = "/v2/team/app/manifests/1";
    assert_eq!(bench.get(path), MANIFEST.len() as u64);
    bencher.bench_local(|| bench.get(path));
}
