//! Manifests in memory, while blobs that are not in memory have to be read from the disk.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::{
    fs::{Advice, fadvise},
    io::{Errno, ReadWriteFlags, preadv2},
};

use super::{
    REPOSITORY, Setup, apart, in_turn,
    manifests::{self, By},
};
use crate::{
    client::{Target, clear},
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};
use forebay_test_support::{real::image::Blob, until::until};

const CLIENTS: usize = 8;
/// The places of a file that are checked to see whether it is in memory.
const SAMPLES: u64 = 32;

pub async fn cold_blobs(setup: &Setup) -> Row {
    let (registry, manifest) = manifests::registry_with_image().await;
    let forebay = Forebay::start(&setup.program, &registry.url(), Options::default()).await;
    for _ in 0..2 {
        manifests::check(forebay.address, &manifest, By::Digest).await;
    }
    let mut blobs = Vec::new();
    for seed in 0..CLIENTS as u64 {
        let blob = Blob::random(1000 + seed, if setup.quick { 64_000_000 } else { 512_000_000 });
        registry.store(REPOSITORY, &blob);
        let target = Target {
            address: forebay.address,
            process: forebay.process(),
            path: format!("/v2/{REPOSITORY}/blobs/{}", blob.digest),
            length: blob.bytes.len() as u64,
        };
        super::check(&target, &blob.digest).await;
        blobs.push((target, forebay.until_cached(&blob.digest).await));
    }
    let time = setup.wrk_time();
    let (mut rates, mut resident) = (Vec::new(), 0);
    let ask = async || manifests::ask(forebay.address, &manifest, By::Digest, time).await;
    let (idle, busy) = in_turn(setup.rounds, ask, async || {
        let load = Load::start(&blobs);
        until("blobs are streamed", async || (load.passes() > 0).then_some(())).await;
        let before = load.passes();
        let answered = ask().await;
        rates.push((load.passes() - before) as f64 * blobs[0].0.length as f64 / 1e9 / time.as_secs_f64());
        resident += apart(move || load.stop()).await;
        answered
    })
    .await;
    assert!(resident == 0, "{resident} samples of blobs were in memory when their download began");
    let both =
        |of: fn(&crate::client::wrk::Answered) -> f64| (idle.iter().map(of).collect(), busy.iter().map(of).collect());
    let (p99_idle, p99_busy) = both(|answered| answered.p99_ms());
    let (rate_idle, rate_busy) = both(|answered| answered.per_second);
    let figure = |measure, unit, goal, peer, forebay| Figure { measure, unit, goal, peer, forebay };
    Row {
        work: "manifest by digest, wrk, 32 connections, while 8 clients stream blobs that are not in the page cache"
            .to_owned(),
        peer: "forebay without the 8".to_owned(),
        figures: vec![
            figure("p99", "ms", Goal::AtMostTimes(2.0), p99_idle, p99_busy),
            figure("requests", "/s", Goal::Shown, rate_idle, rate_busy),
            figure("blobs meanwhile", "GB/s", Goal::Shown, Vec::new(), rates),
        ],
        idle: Some(both(|answered| answered.idle)),
    }
}

/// Clients that each download a blob again and again, and evict it from memory before each download.
struct Load {
    stop: Arc<AtomicBool>,
    passes: Arc<AtomicU64>,
    workers: Vec<JoinHandle<io::Result<u64>>>,
}

impl Load {
    fn start(blobs: &[(Target, PathBuf)]) -> Self {
        let (stop, passes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers = blobs
            .iter()
            .map(|(target, file)| {
                let (target, file) = (target.clone(), file.clone());
                let (stop, passes) = (Arc::clone(&stop), Arc::clone(&passes));
                thread::spawn(move || {
                    let mut resident = 0;
                    while !stop.load(Ordering::Relaxed) {
                        resident += forget(&file)?;
                        clear::downloads(&target, 1)?;
                        passes.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(resident)
                })
            })
            .collect();
        Self { stop, passes, workers }
    }

    /// The number of finished downloads.
    fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Waits for the running downloads; returns how many samples were in memory although they were evicted.
    fn stop(self) -> io::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| io::Error::other("a client thread panicked"))?)
            .sum()
    }
}

/// Evicts a file from the page cache, and checks it: returns how many samples are still there.
fn forget(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    fadvise(&file, 0, None, Advice::DontNeed)?;
    // The check reads, and would cause read-ahead.
    fadvise(&file, 0, None, Advice::Random)?;
    let mut resident = 0;
    for sample in 0..SAMPLES {
        let mut byte = [0];
        match preadv2(&file, &mut [IoSliceMut::new(&mut byte)], length / SAMPLES * sample, ReadWriteFlags::NOWAIT) {
            Ok(_) => resident += 1,
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(resident)
}
