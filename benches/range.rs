//! How long forebay takes to parse a `Range` header.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, black_box, counter::ItemsCount};
use forebay::oci::ByteRange;

fn main() {
    divan::main();
}

#[divan::bench(args = ["bytes=0-1048575", "bytes=734003200-", "bytes=-500"])]
fn parse_and_resolve(bencher: Bencher<'_, '_>, text: &str) {
    bencher.counter(ItemsCount::new(1_usize)).bench(|| {
        let range = ByteRange::parse(black_box(text)).unwrap();
        range.resolve(black_box(1 << 30))
    });
}
