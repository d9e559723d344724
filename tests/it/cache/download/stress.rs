//! Faults at every step of a fill, at random but the same at each run: what must hold whatever happens.
//!
//! No client gets a complete response with wrong bytes; a clean GET is right in the end; nothing unverified is
//! kept; no reservation and no fill is left over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay::oci::Digest;
use futures_util::{StreamExt as _, stream};
use http::Method;

use forebay_test_support::{
    blob::{self, Random, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::{PATIENCE, until},
};

const RUNS: u64 = 240;
const AT_ONCE: usize = 8;
const MAX_SIZE: u64 = 16 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_corrupt_no_response_and_leak_nothing() {
    let registry = FakeRegistry::start().await;
    let mirror = Arc::new(Mirror::build(&registry).max_size(MAX_SIZE).start().await);
    let runs = stream::iter(0..RUNS).for_each_concurrent(AT_ONCE, async |seed| {
        let one = run(&registry, &mirror, seed);
        assert!(tokio::time::timeout(PATIENCE, one).await.is_ok(), "seed {seed} takes too long");
    });
    runs.await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let cache = mirror.cache_dir();
    blob::assert_verified(&cache);
    assert!(blob::allocated(&cache) <= MAX_SIZE);
    for (kind, directory) in [("blob", "blobs"), ("partial", "tmp")] {
        let files = blob::files(&cache.join(directory));
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len().next_multiple_of(4096)).sum();
        assert_eq!(mirror.metric("forebay_cache_bytes", &[("kind", kind)]).await, bytes as f64, "{files:?}");
        assert_eq!(mirror.metric("forebay_cache_objects", &[("kind", kind)]).await, files.len() as f64);
    }
    // All the room there is can still be had: nothing promised was forgotten, nothing is pinned.
    // Beside new directories, a download needs two blocks for the map of its chunks.
    let spare = 4096 * (4 + 2);
    let room = MAX_SIZE - 4096 * blob::directories(&cache) as u64 - spare;
    let (large, content) = add(&registry, usize::try_from(room).unwrap(), RUNS);
    let answer = mirror.get(&path(&large)).await;
    assert_eq!(answer.header("cache-status"), Some("forebay; fwd=miss; stored"));
    assert!(answer.body == content);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    // A small blob that was used last may have stayed in the spare room.
    let files = blob::files(&cache.join("blobs"));
    let others = files.iter().filter(|file| !file.ends_with(large.hex()));
    let bytes: u64 = others.map(|file| file.metadata().unwrap().len().next_multiple_of(4096)).sum();
    assert!(bytes <= spare, "{files:?}");
    assert!(blob::allocated(&cache) <= MAX_SIZE);
}

/// One blob, some faults, some clients; in the end all is well.
async fn run(registry: &FakeRegistry, mirror: &Arc<Mirror>, seed: u64) {
    let mut random = Random::new(seed);
    let len = match random.below(4) {
        0 => random.below(70_000),
        1 | 2 => 60_000 + random.below(300_000),
        _ => 1_200_000 + random.below(1_500_000),
    };
    let (digest, content) = add(registry, len, 1_000_000 + seed);
    let gate = Gate::new();
    let mut faults = Vec::new();
    for _ in 0..=random.below(3) {
        let fault = fault(&mut random, len, &gate);
        let times = 1 + random.below(3);
        let when = When::blob(&digest);
        let when = if random.once_in(3) { when.ranged() } else { when };
        faults.push(format!("{times} x {fault:?}"));
        registry.fault_times(times, when, fault);
    }
    let clients: Vec<_> = (0..=random.below(5))
        .map(|number| {
            let (mirror, digest, content) = (mirror.clone(), digest.clone(), content.clone());
            let random = Random::new(seed * 100 + number as u64);
            tokio::spawn(async move { client(&mirror, &digest, &content, random).await })
        })
        .collect();
    // A held request goes on once the others had their turn; there may be none.
    let opener = tokio::spawn({
        let (gate, pause) = (gate.clone(), Duration::from_millis(random.below(30) as u64));
        async move {
            tokio::time::sleep(pause).await;
            gate.open();
        }
    });
    for client in clients {
        if let Err(problem) = client.await.unwrap() {
            panic!("seed {seed}, {len} bytes, {faults:?}: {problem}");
        }
    }
    opener.await.unwrap();
    // Faults that no request met may still be ahead; each is met a bounded number of times.
    until(&format!("seed {seed} is right in the end; {faults:?}"), async || {
        match mirror.try_get(&path(&digest)).await {
            Ok(answer) if answer.status == 200 => {
                assert!(answer.body == content, "seed {seed}: a complete response that is wrong; {faults:?}");
                true
            }
            _ => false,
        }
    })
    .await;
}

fn fault(random: &mut Random, len: usize, gate: &Gate) -> Fault {
    let at = random.below(len + 1);
    match random.below(15) {
        0..=2 => Fault::Truncate { at },
        3 => Fault::Corrupt { at },
        4 => Fault::HoldBody { at, gate: gate.clone() },
        5 => Fault::HoldHead(gate.clone()),
        6 => Fault::Disconnect,
        7 => Fault::NoContentLength,
        8 => Fault::ContentLength((len + random.below(40)).saturating_sub(20) as u64),
        9 => Fault::IgnoreRange,
        10 => Fault::RefuseRange,
        11 => Fault::ShiftRange(random.below(9)),
        12 => Fault::status([401, 403, 404, 429, 500, 503][random.below(6)]),
        13 => Fault::html(),
        _ => Fault::Truncate { at: 0 },
    }
}

/// Asks in some way, and perhaps leaves; what is complete must be right.
async fn client(mirror: &Mirror, digest: &Digest, content: &Bytes, mut random: Random) -> Result<(), String> {
    let len = content.len();
    let target = path(digest);
    match random.below(6) {
        0 => {
            let head = mirror.request(Method::HEAD, &target, &[]).await;
            // A length that the upstream makes up is passed on: it is all that is known.
            return if head.body.is_empty() { Ok(()) } else { Err("a HEAD with a body".to_owned()) };
        }
        1 => {
            if let Some(stream) = Raw::send(mirror.address(), &target, &[]).await {
                tokio::task::yield_now().await;
                drop(stream);
            }
            return Ok(());
        }
        _ => {}
    }
    // Parts of a blob in flight are passed on as they come, so only those of the whole are compared.
    let whole = !random.once_in(3);
    let range = format!("bytes={}-", if random.once_in(2) { 0 } else { random.below(len + 1) });
    let headers: &[(&str, &str)] = if whole { &[] } else { &[("range", &range)] };
    // A response that breaks at once resets the connection, and the kernel may throw its head away with that.
    let Some(raw) = Raw::try_get(mirror.address(), &target, headers).await else { return Ok(()) };
    if !matches!(raw.status, 200 | 206) {
        let status = raw.status;
        let end = raw.rest().await;
        let error = end.is_whole() && serde_json::from_slice::<serde_json::Value>(end.bytes()).is_ok();
        return if error { Ok(()) } else { Err(format!("a {status} that is not an error body")) };
    }
    if random.once_in(3) {
        let mut raw = raw;
        raw.read_some(random.below(len + 1)).await;
        return Ok(());
    }
    let status = raw.status;
    let is_all = status == 200 || raw.header("content-range").is_some_and(|value| value.starts_with("bytes 0-"));
    let end = raw.rest().await;
    if end.is_whole() && is_all && end.bytes() != content {
        return Err(format!("a complete {status} of {} bytes that is wrong", end.bytes().len()));
    }
    Ok(())
}
