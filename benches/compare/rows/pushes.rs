//! A push, and the pull that follows at once: how long both take. Each round begins with an empty cache.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{REPOSITORY, Setup, apart, in_turn};
use crate::{
    client::{Target, clear, push::push},
    cpu::Stopwatch,
    proxy::{Line, Proxy},
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};
use forebay_test_support::real::{image::Blob, registry::Registry};

/// How many uploads, and then downloads, `docker` has at a time.
const UPLOADS: usize = 5;
const DOWNLOADS: usize = 3;

struct Round {
    push: Duration,
    pull: Duration,
    cpu: Duration,
    /// Bytes that came from the registry.
    received: u64,
}

/// `count` blobs of this length, to and from a registry at 1 Gbit/s in both directions, compared with the same client
/// directly on that line.
pub async fn then_pulled(setup: &Setup, count: usize, length: usize) -> Row {
    let blobs: Arc<Vec<Blob>> = Arc::new((0..count).map(|seed| Blob::random(seed as u64, length)).collect());
    let line = Line { shared_rate: Some(125e6), both_ways: true, ..Line::default() };
    let begun = async || {
        let registry = Registry::open().await;
        let proxy = Proxy::before(registry.port, line).await;
        (registry, proxy)
    };
    let (peer, own) = in_turn(
        setup.rounds,
        async || {
            let (_registry, proxy) = begun().await;
            round(proxy.address, std::process::id(), &proxy, &blobs).await
        },
        async || {
            let (_registry, proxy) = begun().await;
            let options = Options { push: true, ..Options::default() };
            let forebay = Forebay::start(&setup.program, &proxy.url(), options).await;
            round(forebay.address, forebay.process(), &proxy, &blobs).await
        },
    )
    .await;
    let both = |of: fn(&Round) -> f64| (peer.iter().map(of).collect(), own.iter().map(of).collect());
    let figure = |measure, unit, (peer, forebay)| Figure { measure, unit, goal: Goal::Shown, peer, forebay };
    Row {
        work: format!("push of {count} x {} MB, then a pull, upstream at 1 Gbit/s", length / 1_000_000),
        peer: "direct".to_owned(),
        figures: vec![
            figure("push", "s", both(|round| round.push.as_secs_f64())),
            figure("pull", "s", both(|round| round.pull.as_secs_f64())),
            figure("bytes from upstream", "MB", both(|round| round.received as f64 / 1e6)),
            figure("server CPU", "s", (Vec::new(), own.iter().map(|round| round.cpu.as_secs_f64()).collect())),
        ],
        idle: None,
    }
}

async fn round(address: SocketAddr, process: u32, proxy: &Proxy, blobs: &Arc<Vec<Blob>>) -> Round {
    let cpu = Stopwatch::of_process(process);
    let push = each(UPLOADS, blobs, move |blob| push(address, REPOSITORY, blob)).await;
    let pull = each(DOWNLOADS, blobs, move |blob| {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
        let target = Target { address, process, path, length: blob.bytes.len() as u64 };
        clear::downloads(&target, 1).map(drop)
    })
    .await;
    Round { push, pull, cpu: cpu.elapsed(), received: proxy.received() }
}

/// Does this with each blob, a few at a time; returns how long all of them took.
async fn each(
    at_once: usize,
    blobs: &Arc<Vec<Blob>>,
    work: impl Fn(&Blob) -> std::io::Result<()> + Clone + Send + 'static,
) -> Duration {
    let (begun, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let workers = (0..at_once).map(|_| {
        let (blobs, next, work) = (blobs.clone(), next.clone(), work.clone());
        apart(move || {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(blob)?;
            }
            Ok(())
        })
    });
    futures_util::future::join_all(workers).await;
    begun.elapsed()
}
