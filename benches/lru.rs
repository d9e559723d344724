//! The index of the cache with many blobs in it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, counter::ItemsCount};
use forebay::{
    cache::{
        Visibility,
        storage::lru_index::{CompactKey, IndexKey, LruIndex},
    },
    oci::{Algorithm, Digest},
};

fn main() {
    divan::main();
}

fn key(number: usize) -> IndexKey {
    IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_le_bytes())))
}

fn index(len: usize) -> LruIndex {
    let mut index = LruIndex::new(len as u64 * 4096);
    index.insert_scanned((0..len).map(|number| (CompactKey::from(&key(number)), 4096, 0)));
    index
}

#[divan::bench(args = [1_000, 100_000])]
fn pin_and_unpin(bencher: Bencher<'_, '_>, len: usize) {
    let mut index = index(len);
    let key = key(len / 2);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        index.pin(&key).unwrap();
        index.unpin(&key);
    });
}

#[divan::bench(args = [1_000, 100_000])]
fn reserve_evict_insert(bencher: Bencher<'_, '_>, len: usize) {
    let mut index = index(len);
    let mut next = len;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let victims = index.reserve(4096, u64::MAX / 4).unwrap();
        index.release(4096, 0);
        next += 1;
        index.insert(key(next), 4096);
        victims
    });
}
