//! Clients that come, leave, stop and read, and an upstream that breaks off: at random, but the same at each run.

use std::sync::Arc;

use forebay::oci::Digest;
use futures_util::{StreamExt as _, stream};

use super::*;
use forebay_test_support::{blob::Random, until::PATIENCE};

const RUNS: u64 = 120;
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_a_complete_response_is_right() {
    let registry = FakeRegistry::start().await;
    let mirror = Arc::new(without_room(&registry).start().await);
    let runs = stream::iter(0..RUNS).for_each_concurrent(AT_ONCE, async |seed| {
        let one = run(&registry, &mirror, seed);
        assert!(tokio::time::timeout(PATIENCE, one).await.is_ok(), "seed {seed} takes too long");
    });
    runs.await;
}

/// One blob, some faults, some clients; in the end a client gets it.
async fn run(registry: &FakeRegistry, mirror: &Arc<Mirror>, seed: u64) {
    let mut random = Random::new(seed);
    let len = MIB + 1 + if random.once_in(4) { random.below(16 * MIB) } else { random.below(MIB) };
    let (digest, content) = add(registry, len, 1_000_000 + seed);
    let mut faults = Vec::new();
    for _ in 0..random.below(4) {
        let fault = fault(&mut random, len);
        let when = if random.once_in(2) { When::blob(&digest).ranged() } else { When::blob(&digest) };
        let times = 1 + random.below(2);
        faults.push(format!("{times} x {fault:?}"));
        registry.fault_times(times, when, fault);
    }
    let clients: Vec<_> = (0..2 + random.below(8))
        .map(|number| {
            let (mirror, digest, content) = (mirror.clone(), digest.clone(), content.clone());
            let random = Random::new(seed * 100 + number as u64);
            tokio::spawn(async move { client(&mirror, &digest, &content, random).await })
        })
        .collect();
    for client in clients {
        assert!(client.await.unwrap(), "seed {seed}: a complete response that is wrong; {faults:?}");
    }
    until(&format!("seed {seed} is right in the end; {faults:?}"), async || {
        mirror.try_get(&path(&digest)).await.is_ok_and(|answer| answer.status == 200 && answer.body == content)
    })
    .await;
}

fn fault(random: &mut Random, len: usize) -> Fault {
    let at = random.below(len + 1);
    match random.below(8) {
        0..=2 => Fault::Truncate { at },
        3 => Fault::Corrupt { at },
        4 => Fault::NoContentLength,
        5 => Fault::IgnoreRange,
        6 => Fault::Disconnect,
        _ => Fault::status([404, 429, 500, 503][random.below(4)]),
    }
}

/// Reads all, or leaves, or stops for some turns of the others; whether a complete response was right.
async fn client(mirror: &Mirror, digest: &Digest, content: &Bytes, mut random: Random) -> bool {
    for _ in 0..random.below(200) {
        tokio::task::yield_now().await;
    }
    let Some(mut raw) = Raw::try_get(mirror.address(), &path(digest), &[]).await else { return true };
    if raw.status != 200 {
        return raw.rest().await.is_whole();
    }
    if random.once_in(2) {
        raw.read_some(random.below(content.len())).await;
        if random.once_in(2) {
            return true;
        }
        for _ in 0..random.below(2000) {
            tokio::task::yield_now().await;
        }
    }
    let end = raw.rest().await;
    !end.is_whole() || end.bytes() == content
}
