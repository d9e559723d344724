//! Digests: parsing a digest, and hashing content.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use forebay::oci::{Algorithm, Digest};

fn main() {
    divan::main();
}

#[divan::bench(args = [Algorithm::Sha256, Algorithm::Sha512])]
fn parse(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let text = Digest::of(algorithm, b"content").to_string();
    bencher.counter(ItemsCount::new(1_usize)).bench(|| black_box(&text).parse::<Digest>().unwrap());
}

#[divan::bench(args = [512, 64 << 10, 4 << 20])]
fn sha256(bencher: Bencher<'_, '_>, len: usize) {
    let content = vec![7; len];
    bencher.counter(BytesCount::new(len)).bench(|| Digest::of(Algorithm::Sha256, black_box(&content)));
}
