//! The index of the cache with many blobs in it: for how long locks are held, and how much memory an entry takes.
//!
//! ```sh
//! cargo bench --bench lru -- 10000000
//! ```
//!
//! An operation holds a lock for a part of its time, so the times of operations bound those of locks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot run may fail loudly"
)]

use std::time::Instant;

use forebay::{
    cache::{
        Visibility,
        storage::lru_index::{CompactKey, IndexKey, LruIndex},
    },
    oci::{Algorithm, Digest},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BLOCK: u64 = 4096;
const SAMPLES: u64 = 200_000;

fn main() {
    let objects = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let index = LruIndex::new(u64::MAX / 4, 0);
    let before = resident();
    let times = (0..objects).map(|number| timed(key(number), |key| index.insert(key, BLOCK)));
    println!("{objects} objects");
    report("insert, from the first on", times);
    println!("{:.1} bytes an entry by capacities", index.memory() as f64 / objects as f64);
    println!("{:.1} bytes an entry by resident memory", (resident() - before) as f64 / objects as f64);
    let used = (0..SAMPLES).map(|number| compact(number * 7919 % objects));
    let times = used.map(|key| {
        timed(key, |key| {
            let pinned = index.pin(&key).unwrap();
            index.unpin(&key, pinned.serial);
        })
    });
    report("use (pin and unpin)", times);
    let full = LruIndex::new(index.total(), 0);
    drop(index);
    full.insert_scanned((0..objects).map(|number| (compact(number), BLOCK, i64::try_from(number).unwrap())));
    let began = Instant::now();
    full.finish_scan();
    println!("{:<40}{:>12.1?}, over all shards", "sort after the scan", began.elapsed());
    let times = (objects..objects + SAMPLES).map(|number| {
        timed(compact(number), |key| {
            let (reserved, evicted) = full.reserve(BLOCK, u64::MAX / 4);
            reserved.unwrap();
            full.unlinked(&evicted);
            let serial = full.fulfil(&key, BLOCK, true, (BLOCK, 0));
            full.unpin(&key, serial);
        })
    });
    report("reserve, evict one, add one", times);
}

fn key(number: u64) -> IndexKey {
    IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_le_bytes())))
}

fn compact(number: u64) -> CompactKey {
    CompactKey::from(&key(number))
}

/// Nanoseconds that the work takes.
fn timed<K>(key: K, work: impl FnOnce(K)) -> u32 {
    let began = Instant::now();
    work(key);
    u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX)
}

fn report(work: &str, times: impl Iterator<Item = u32>) {
    let mut times: Vec<u32> = times.collect();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{work:<40}p50 {:>8} ns, p99.9 {:>9} ns, most {:>11} ns", at(0.5), at(0.999), at(1.0));
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
