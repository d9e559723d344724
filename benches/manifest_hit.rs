//! A manifest out of memory: over a connection that stays open, as clients have it, and over one of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, counter::ItemsCount};
use forebay::oci::{Algorithm, Digest};
use forebay_test_support::bench::{Bench, MANIFEST};

/// What containerd accepts.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

fn main() {
    divan::main();
}

/// What a client that asks for tags that are not there can do to those who ask for tags that are.
const MISSING: usize = 50_000;

fn hit(bencher: Bencher<'_, '_>, reference: &str, missing: usize) {
    let bench = Bench::new(Vec::new());
    let path = format!("/v2/team/app/manifests/{reference}");
    assert_eq!(bench.get(&path), MANIFEST.len() as u64);
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {ACCEPT}\r\n\r\n");
    let mut client = bench.connect();
    for number in 0..missing {
        client.miss(request(&format!("/v2/team/app/manifests/missing-{number}")).as_bytes());
    }
    let request = request(&path);
    // The first of this `Accept` is a miss, whose answer is longer.
    client.measure(request.as_bytes());
    let len = client.measure(request.as_bytes());
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| client.exchange(request.as_bytes(), len));
}

#[divan::bench(sample_count = 10_000, sample_size = 1)]
fn by_tag(bencher: Bencher<'_, '_>) {
    hit(bencher, "1", 0);
}

// The first hits find memory as so many others have left it.
#[divan::bench(sample_count = 10_000, sample_size = 1)]
fn by_tag_after_50_000_missing_tags(bencher: Bencher<'_, '_>) {
    hit(bencher, "1", MISSING);
}

#[divan::bench]
fn by_digest(bencher: Bencher<'_, '_>) {
    hit(bencher, Digest::of(Algorithm::Sha256, MANIFEST).as_str(), 0);
}

#[divan::bench]
fn by_tag_on_a_new_connection(bencher: Bencher<'_, '_>) {
    let bench = Bench::new(Vec::new());
    let path = "/v2/team/app/manifests/1";
    assert_eq!(bench.get(path), MANIFEST.len() as u64);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| bench.get(path));
}
