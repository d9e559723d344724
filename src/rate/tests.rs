use std::{sync::atomic::AtomicUsize, time::Duration};

use futures_util::{FutureExt as _, future::join_all};
use tokio::time::{Instant, advance, timeout};

use super::*;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn rate(bytes: u64) -> Rate {
    let rate = Rate::default();
    rate.set(BytesPerSecond::new(bytes));
    rate
}

async fn take(rate: &Rate, bytes: u64) {
    rate.take(bytes, || ()).await;
}

/// How many bytes each of these transfers moves in `time`. As (bytes at a time, bytes in all).
async fn moved(rate: &Rate, transfers: &[(u64, u64)], time: Duration) -> Vec<u64> {
    let moved: Vec<AtomicU64> = transfers.iter().map(|_| AtomicU64::new(0)).collect();
    let each = transfers.iter().zip(&moved).map(|(&(piece, all), moved)| async move {
        while moved.load(Ordering::Relaxed) < all {
            take(rate, piece).await;
            moved.fetch_add(piece, Ordering::Relaxed);
        }
    });
    let _ = timeout(time, join_all(each)).await;
    moved.iter().map(|moved| moved.load(Ordering::Relaxed)).collect()
}

#[tokio::test(start_paused = true)]
async fn all_transfers_together_keep_to_the_rate() {
    for (bytes, count, seconds) in [(MIB, 1, 10), (MIB, 11, 10), (64 * KIB, 3, 60), (100 * MIB, 7, 5)] {
        let rate = rate(bytes);
        let share = rate.share();
        let moved: u64 = moved(&rate, &vec![(share, u64::MAX); count], Duration::from_secs(seconds)).await.iter().sum();
        let most = rate.get().unwrap().burst() + bytes * seconds;
        assert!((bytes * seconds..=most).contains(&moved), "{count} transfers at {bytes}: {moved}");
    }
}

#[tokio::test(start_paused = true)]
async fn transfers_of_one_rate_take_turns() {
    let rate = rate(MIB);
    let moved = moved(&rate, &[(rate.share(), u64::MAX); 10], Duration::from_secs(20)).await;
    let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
    // The first one has the burst, and then each has its turn.
    let burst = rate.get().unwrap().burst();
    assert!(most - least <= burst + rate.share(), "{moved:?}");
}

#[tokio::test(start_paused = true)]
async fn a_small_blob_waits_for_one_turn_of_ten_large_ones() {
    let rate = rate(MIB);
    let (share, begun) = (rate.share(), Instant::now());
    let mut transfers = vec![(share, u64::MAX); 10];
    transfers.push((share, 2 * share));
    let large = moved(&rate, &transfers, Duration::from_secs(2));
    assert_eq!(large.await[10], 2 * share);
    assert!(begun.elapsed() <= Duration::from_secs(2));
    // One that comes later waits for a turn of each, and no more.
    let transfers = [(share, u64::MAX); 10];
    let many = moved(&rate, &transfers, Duration::from_secs(3600));
    let small = async {
        sleep(Duration::from_secs(5)).await;
        let begun = Instant::now();
        take(&rate, KIB).await;
        begun.elapsed()
    };
    let waited = tokio::select! { waited = small => waited, _ = many => panic!("they end later") };
    assert!(waited <= BytesPerSecond::new(MIB).unwrap().time_of(11 * share), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_is_not_set_holds_nothing_back() {
    let rate = Rate::default();
    assert!(!rate.is_set() && rate.share() == u64::MAX);
    rate.note(1 << 40);
    for _ in 0..1000 {
        assert!(rate.take(1 << 40, || panic!("it holds nothing back")).now_or_never().is_some());
    }
    assert!(rate.is_full(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_told_while_it_lasts_and_only_then() {
    struct Told<'a>(&'a AtomicUsize);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let (rate, holds) = (rate(MIB), AtomicUsize::new(0));
    let hold = || {
        holds.fetch_add(1, Ordering::Relaxed);
        Told(&holds)
    };
    rate.take(256 * KIB, || panic!("the bucket is full")).await;
    let mut waiting = Box::pin(rate.take(64 * KIB, hold));
    assert!((&mut waiting).now_or_never().is_none());
    assert!(holds.load(Ordering::Relaxed) == 1 && !rate.is_full(Instant::now()));
    waiting.await;
    assert_eq!(holds.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_stops_waiting_takes_nothing() {
    let rate = rate(MIB);
    take(&rate, 256 * KIB).await;
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(timeout(Duration::from_micros(10), take(&rate, 64 * KIB)).await.is_err());
    }
    take(&rate, 64 * KIB).await;
    assert!(begun.elapsed() <= Duration::from_millis(65), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn transfers_that_wait_learn_of_another_rate_at_once() {
    for (to, most) in [(None, 0), (BytesPerSecond::new(64 * MIB), 100)] {
        let rate = rate(64 * KIB);
        take(&rate, 256 * KIB).await;
        let begun = Instant::now();
        let change = async {
            sleep(Duration::from_millis(100)).await;
            rate.set(to);
        };
        tokio::join!(join_all((0..20).map(|_| take(&rate, 64 * KIB))), change);
        let waited = begun.elapsed() - Duration::from_millis(100);
        assert!(waited <= Duration::from_millis(most), "{to:?}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn documents_wait_for_nothing_and_starve_no_transfer() {
    let rate = rate(MIB);
    let share = rate.share();
    let documents = async {
        loop {
            // Twice the rate.
            rate.note(200 * KIB);
            sleep(Duration::from_millis(100)).await;
        }
    };
    let transfers = [(share, u64::MAX); 3];
    let blobs = moved(&rate, &transfers, Duration::from_secs(60));
    let blobs = tokio::select! { blobs = blobs => blobs, () = documents => Vec::new() };
    // Each share waits for the debt that documents may make, and no longer.
    assert!(blobs.iter().all(|blob| *blob >= 20 * share), "{blobs:?}");
    advance(Duration::from_secs(1)).await;
    assert!(rate.is_full(Instant::now()));
}
