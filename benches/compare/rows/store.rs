//! An object store behind forebay, SeaweedFS: what it costs hits, what comes from it, and how soon a blob is there.

use std::time::Instant;

use super::{BLOB, REPOSITORY, Setup, Upstream, check, in_turn, misses::download};
use crate::{
    client::{Target, clear::Download},
    cpu::Stopwatch,
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};
use forebay_test_support::{
    real::{image::Blob, registry::Registry, seaweedfs::SeaweedFs},
    until::until,
};

const SMALL: usize = 1_000_000;

/// The object of a blob.
fn object(digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    format!("blobs/sha256/{}/{hex}", &hex[..2])
}

async fn with_store(setup: &Setup, url: &str, store: &SeaweedFs) -> Forebay {
    let options = Options { store: Some(store.port), ..Options::default() };
    Forebay::start(&setup.program, url, options).await
}

/// Waits until the blob is in the bucket and forebay has nothing more to upload.
async fn until_uploaded(store: &SeaweedFs, forebay: &Forebay, digest: &str) {
    let name = object(digest);
    until("the blob is in the bucket", async || store.has(&name).await).await;
    until("nothing waits", async || forebay.metric("forebay_store_upload_queue", "") == Some(0.0)).await;
}

/// A cached blob, compared with a forebay that has no store.
pub async fn blob_hit(setup: &Setup) -> Row {
    let (upstream, store) = (Upstream::with_blob(BLOB).await, SeaweedFs::start().await);
    let url = upstream.registry.url();
    let alone = Forebay::start(&setup.program, &url, Options::default()).await;
    let stored = with_store(setup, &url, &store).await;
    let (peer, own) = (upstream.at(&alone), upstream.at(&stored));
    for (server, target) in [(&alone, &peer), (&stored, &own)] {
        check(target, &upstream.digest).await;
        server.until_cached(&upstream.digest).await;
        check(target, &upstream.digest).await;
    }
    until_uploaded(&store, &stored, &upstream.digest).await;
    let rounds = super::blob_hits::side_by_side(setup, peer, own, 8).await;
    let work = "blob hit, clear HTTP/1.1, 8 connections, with a store".to_owned();
    super::throughput_row(work, "forebay without a store", &rounds, Goal::Times(0.97), Goal::AtMostTimes(1.05))
}

/// A miss that the store has, compared with one that docker-registry has: both on this machine.
pub async fn miss(setup: &Setup) -> Row {
    let (upstream, store) = (Upstream::with_blob(BLOB).await, SeaweedFs::start().await);
    let url = upstream.registry.url();
    {
        let first = with_store(setup, &url, &store).await;
        check(&upstream.at(&first), &upstream.digest).await;
        until_uploaded(&store, &first, &upstream.digest).await;
    }
    let round = async |is_stored: bool| {
        let forebay = if is_stored {
            with_store(setup, &url, &store).await
        } else {
            Forebay::start(&setup.program, &url, Options::default()).await
        };
        let watch = Stopwatch::of_tree(forebay.process());
        let download = download(&upstream.at(&forebay)).await;
        forebay.until_cached(&upstream.digest).await;
        let spent = watch.elapsed().as_secs_f64();
        let of_registry = forebay.metric("forebay_upstream_received_bytes_total", "").unwrap_or_default();
        // Of a part that another connection takes over, some bytes come twice.
        let is_right = if is_stored { of_registry == 0.0 } else { of_registry >= upstream.length as f64 };
        assert!(is_right, "{of_registry} bytes of the registry");
        (download, spent)
    };
    let rounds = in_turn(setup.rounds, async || round(false).await, async || round(true).await).await;
    check(&upstream.at(&with_store(setup, &url, &store).await), &upstream.digest).await;
    type Round = (Download, f64);
    let both = |of: fn(&Round) -> f64| (rounds.0.iter().map(of).collect(), rounds.1.iter().map(of).collect());
    let figure = |measure, unit, (peer, forebay)| Figure { measure, unit, goal: Goal::Shown, peer, forebay };
    Row {
        work: "miss, one client, 256 MB, SeaweedFS on loopback has it".to_owned(),
        peer: "forebay without a store, registry on loopback".to_owned(),
        figures: vec![
            figure("time", "s", both(|round| round.0.whole.as_secs_f64())),
            figure("first byte", "ms", both(|round| round.0.first_byte.as_secs_f64() * 1e3)),
            figure("server CPU, not of the store", "s", both(|round| round.1)),
        ],
        idle: None,
    }
}

/// From a client's last byte of a miss until the object is in the bucket, compared with a plain upload of such a blob.
pub async fn upload(setup: &Setup) -> Row {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let forebay = with_store(setup, &registry.url(), &store).await;
    let mut figures = Vec::new();
    for (measure, size) in [("until 256 MB are there", BLOB), ("until 1 MB is there", SMALL)] {
        let (mut plain, mut lags) = (Vec::new(), Vec::new());
        // A bucket of more rounds would not fit into the store.
        for round in 0..setup.rounds.min(3) {
            let blob = Blob::random(2 + round as u64, size);
            let name = object(&blob.digest);
            registry.store(REPOSITORY, &blob);
            let begin = Instant::now();
            store.put(&format!("plain/{round}"), &blob.bytes).await;
            plain.push(begin.elapsed().as_secs_f64());
            let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
            let (address, process) = (forebay.address, forebay.process());
            download(&Target { address, process, path, length: size as u64 }).await;
            let begin = Instant::now();
            until("the blob is in the bucket", async || store.has(&name).await).await;
            lags.push(begin.elapsed().as_secs_f64());
            let stored = store.object(&name).await;
            assert!(stored.is_some_and(|stored| stored == blob.bytes), "the object has other bytes");
        }
        figures.push(Figure { measure, unit: "s", goal: Goal::Shown, peer: plain, forebay: lags });
    }
    Row {
        work: "from the last byte of a miss at the client to the object in the bucket".to_owned(),
        peer: "one request to SeaweedFS with such a blob".to_owned(),
        figures,
        idle: None,
    }
}
