//! A manifest from memory: over a connection that stays open, as clients keep it, and over a new connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, counter::ItemsCount};
use forebay::oci::{Algorithm, Digest};
use forebay_test_support::bench::{Bench, MANIFEST};

/// The `Accept` of containerd.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

fn main() {
    divan::main();
}

/// The number of missing tags that a client requests, to measure their effect on requests for existing tags.
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
    // The first request with this `Accept` is a miss, whose response is longer.
    client.measure(request.as_bytes());
    let len = client.measure(request.as_bytes());
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| client.exchange(request.as_bytes(), len));
}

#[divan::bench(sample_count = 10_000, sample_size = 1)]
fn by_tag(bencher: Bencher<'_, '_>) {
    hit(bencher, "1", 0);
}

// The first hits find the memory in the state that so many other requests left.
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
