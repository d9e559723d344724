//! A thousand clients of one cached blob, while forebay downloads a hundred other blobs from the upstream.

use std::{fs::File, thread};

use bytes::Bytes;
use tempfile::TempDir;

use super::{BLOB, REPOSITORY, Setup, Upstream, apart, check};
use crate::{
    client::{Target, clear},
    cpu,
    proxy::{Line, Proxy},
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};
use forebay_test_support::{real::image::Blob, until::until};

const CLIENTS: usize = 1000;
const FILLS: usize = 100;
/// At the rate of the line, a fill of this size takes longer than the row.
const FILL: u64 = 64_000_000;
/// The rate of all fills together.
const RATE: f64 = 10e6;

pub async fn crowd(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let endless: Vec<String> = (0..FILLS).map(|index| sparse_blob(&upstream, index)).collect();
    let folder = TempDir::with_prefix("forebay-compare-crowd-").unwrap();
    let cache = folder.path().join("cache");
    let options = Options { cache: Some(&cache), ..Options::default() };
    {
        let forebay = Forebay::start(&setup.program, &upstream.registry.url(), options).await;
        check(&upstream.at(&forebay), &upstream.digest).await;
        forebay.until_cached(&upstream.digest).await;
    }
    let (mut memory, mut unfair, mut throughput, mut idle) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setup.rounds.min(3) {
        let proxy = Proxy::before(upstream.registry.port, Line { shared_rate: Some(RATE), ..Line::default() }).await;
        let forebay = Forebay::start(&setup.program, &proxy.url(), options).await;
        let target = upstream.at(&forebay);
        check(&target, &upstream.digest).await;
        for digest in &endless {
            let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
            let target = Target { path, length: FILL, ..target.clone() };
            // The download breaks off when forebay ends.
            thread::spawn(move || clear::downloads(&target, 1).err());
        }
        let all = FILLS as f64;
        until("all fills are in flight", async || {
            forebay.metric("forebay_fills_in_flight", "").filter(|count| *count >= all)
        })
        .await;
        let time = setup.time * 10;
        let streamed = apart(move || clear::stream(&target, CLIENTS, time)).await;
        let still = forebay.metric("forebay_fills_in_flight", "").unwrap_or_default();
        assert!(still >= all, "only {still} of the fills were in flight until the end");
        memory.push(cpu::peak_memory(forebay.process()).unwrap() as f64 / f64::from(1 << 20));
        let least = streamed.bytes.iter().min().copied().unwrap_or_default();
        let most = streamed.bytes.iter().max().copied().unwrap_or_default();
        unfair.push(most as f64 / least as f64);
        throughput.push(streamed.gigabytes_per_second());
        idle.push(streamed.client_idle());
    }
    let figure = |measure, unit, goal, forebay| Figure { measure, unit, goal, peer: Vec::new(), forebay };
    Row {
        work: "1000 clients streaming a hit of 256 MB, 100 fills in flight".to_owned(),
        peer: String::new(),
        figures: vec![
            figure("peak RSS", "MiB", Goal::AtMost(64.0), memory),
            figure("fastest client / slowest", "", Goal::AtMost(3.0), unfair),
            figure("throughput", "GB/s", Goal::Shown, throughput),
        ],
        idle: Some((Vec::new(), idle)),
    }
}

/// A blob of zero bytes, which do not match its digest; its download does not reach the end.
fn sparse_blob(upstream: &Upstream, index: usize) -> String {
    let blob = Blob { bytes: Bytes::new(), digest: format!("sha256:{index:064x}") };
    upstream.registry.store(REPOSITORY, &blob);
    let file = File::options().write(true).open(upstream.registry.file_of(&blob)).unwrap();
    file.set_len(FILL).unwrap();
    blob.digest
}
