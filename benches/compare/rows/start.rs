//! A start with a million blobs in the cache.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{Setup, apart};
use crate::{
    client::clear,
    cpu,
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};
use forebay_test_support::until::PATIENCE;

/// No server listens there, and forebay must send it no request.
const NOWHERE: &str = "http://127.0.0.1:9";

pub async fn with_many_blobs(setup: &Setup) -> Row {
    let count = if setup.quick { 50_000 } else { 1_000_000 };
    let folder = TempDir::with_prefix("forebay-compare-start-").unwrap();
    let cache = folder.path().join("cache");
    // An empty folder becomes a cache; one with other content would be refused.
    drop(Forebay::start(&setup.program, NOWHERE, Options { cache: Some(&cache), ..Options::default() }).await);
    let to = cache.clone();
    apart(move || create_blobs(&to, count)).await;
    let (mut serving, mut complete, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setup.rounds.min(3) {
        let options = Options { cache: Some(&cache), ..Options::default() };
        let forebay = Forebay::spawn(&setup.program, NOWHERE, options);
        let answers = || clear::get(forebay.address, "/v2/").ok().filter(|answer| answer.0 == 200);
        serving.push(1e3 * time_until(&forebay, Duration::from_millis(1), || answers().is_some()).await);
        let objects = || forebay.metric("forebay_cache_objects", "kind=\"blob\"");
        let pause = Duration::from_millis(20);
        complete.push(time_until(&forebay, pause, || objects() == Some(f64::from(count))).await);
        memory.push(cpu::peak_memory(forebay.process()).unwrap() as f64 / f64::from(1 << 20));
    }
    let figure =
        |measure, unit, most, forebay| Figure { measure, unit, goal: Goal::AtMost(most), peer: Vec::new(), forebay };
    apart(move || fs::remove_dir_all(folder.path())).await;
    Row {
        work: format!("start with {count} cached blobs (empty files, directory entries in memory)"),
        peer: String::new(),
        figures: vec![
            figure("first answer of /v2/", "ms", 100.0, serving),
            figure("index complete", "s", 2.0, complete),
            figure("peak RSS", "MiB", 110.0, memory),
        ],
        idle: None,
    }
}

/// Seconds from the start of the program until the condition holds.
async fn time_until(forebay: &Forebay, pause: Duration, mut so: impl FnMut() -> bool) -> f64 {
    loop {
        if so() {
            return forebay.started.elapsed().as_secs_f64();
        }
        assert!(forebay.started.elapsed() < PATIENCE, "forebay does not get there");
        tokio::time::sleep(pause).await;
    }
}

/// Files with the names that the cache gives them. A start does not read their content.
fn create_blobs(cache: &Path, count: u32) -> std::io::Result<()> {
    let begin = Instant::now();
    let blobs = cache.join("blobs/sha256");
    for shard in 0..=255_u8 {
        fs::create_dir_all(blobs.join(format!("{shard:02x}")))?;
    }
    for index in 0..count {
        let name = hex::encode(Sha256::digest(index.to_le_bytes()));
        File::create(blobs.join(&name[..2]).join(name))?;
    }
    eprintln!("compare: made {count} files in {:.0?}", begin.elapsed());
    Ok(())
}
