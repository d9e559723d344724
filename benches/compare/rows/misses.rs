//! A cold blob: how long a client waits for it. Each round begins with an empty cache.

use std::time::Duration;

use super::{BLOB, Setup, Upstream, apart, check, in_turn};
use crate::{
    client::{
        Target,
        clear::{self, Download},
    },
    proxy::{Line, Proxy},
    servers::{Forebay, Mirror, Options},
    table::{Figure, Goal, Row},
};

const CLIENTS: usize = 8;
/// Smaller, since a direct download runs at 20 MB/s.
const DISTANT_BLOB: usize = 128_000_000;

/// From a registry on the same machine, compared with a cold docker-registry mirror and, for the first byte, with a
/// direct download.
pub async fn on_loopback(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let url = upstream.registry.url();
    let mut direct = Vec::new();
    let (peer, own) = in_turn(
        setup.rounds,
        async || {
            direct.push(download(&upstream.direct()).await);
            let mirror = Mirror::start(&url).await;
            download(&upstream.at_mirror(&mirror)).await
        },
        async || {
            let forebay = Forebay::start(&setup.program, &url, Options::default()).await;
            download(&upstream.at(&forebay)).await
        },
    )
    .await;
    verify_miss(setup, &upstream, &url).await;
    Row {
        work: "miss, one client, 256 MB, registry on loopback".to_owned(),
        peer: "docker-registry mirror, cold".to_owned(),
        figures: vec![
            Figure {
                measure: "time",
                unit: "s",
                goal: Goal::AtMostTimes(0.85),
                peer: whole(&peer),
                forebay: whole(&own),
            },
            Figure {
                measure: "first byte (peer: direct)",
                unit: "ms",
                goal: Goal::AtMostMore(2.0),
                peer: first_byte(&direct),
                forebay: first_byte(&own),
            },
            Figure {
                measure: "time (peer: direct)",
                unit: "s",
                goal: Goal::Shown,
                peer: whole(&direct),
                forebay: whole(&own),
            },
        ],
        idle: None,
    }
}

/// Through a line of 1 Gbit/s for all connections together, compared with the same client directly on that line.
pub async fn at_a_gigabit(setup: &Setup) -> Row {
    let line = Line { shared_rate: Some(125e6), ..Line::default() };
    let work = "miss, one client, 256 MB, upstream at 1 Gbit/s".to_owned();
    beside_direct(setup, work, BLOB, line, 1.02).await
}

/// From a distant upstream that is slow on each connection.
pub async fn from_afar(setup: &Setup) -> Row {
    let line = Line { connection_rate: Some(20e6), round_trip: Duration::from_millis(40), ..Line::default() };
    let work = "miss, one client, 128 MB, upstream 40 ms away at 20 MB/s per connection".to_owned();
    beside_direct(setup, work, DISTANT_BLOB, line, 0.30).await
}

async fn beside_direct(setup: &Setup, work: String, length: usize, line: Line, most: f64) -> Row {
    let upstream = Upstream::with_blob(length).await;
    let proxy = Proxy::before(upstream.registry.port, line).await;
    let (peer, own) = in_turn(
        setup.rounds,
        async || download(&Target { address: proxy.address, ..upstream.direct() }).await,
        async || {
            let forebay = Forebay::start(&setup.program, &proxy.url(), Options::default()).await;
            download(&upstream.at(&forebay)).await
        },
    )
    .await;
    verify_miss(setup, &upstream, &proxy.url()).await;
    Row {
        work,
        peer: "direct".to_owned(),
        figures: vec![
            Figure {
                measure: "time",
                unit: "s",
                goal: Goal::AtMostTimes(most),
                peer: whole(&peer),
                forebay: whole(&own),
            },
            Figure {
                measure: "first byte",
                unit: "ms",
                goal: Goal::Shown,
                peer: first_byte(&peer),
                forebay: first_byte(&own),
            },
        ],
        idle: None,
    }
}

/// Eight concurrent clients, compared with one.
pub async fn shared(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let url = upstream.registry.url();
    let (alone, together) = in_turn(
        setup.rounds,
        async || {
            let forebay = Forebay::start(&setup.program, &url, Options::default()).await;
            download(&upstream.at(&forebay)).await
        },
        async || {
            let forebay = Forebay::start(&setup.program, &url, Options::default()).await;
            last_of(CLIENTS, &upstream.at(&forebay)).await
        },
    )
    .await;
    // Separate rounds count the bytes: a proxy that carries them costs a part of the two cores.
    let (mut one, mut eight) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds.min(3) {
        for (clients, bytes) in [(1, &mut one), (CLIENTS, &mut eight)] {
            let proxy = Proxy::before(upstream.registry.port, Line::default()).await;
            let forebay = Forebay::start(&setup.program, &proxy.url(), Options::default()).await;
            last_of(clients, &upstream.at(&forebay)).await;
            bytes.push(proxy.received() as f64 / 1e6);
        }
    }
    Row {
        work: "8 clients, one cold blob of 256 MB".to_owned(),
        peer: "forebay with one client".to_owned(),
        figures: vec![
            Figure {
                measure: "bytes from upstream",
                unit: "MB",
                goal: Goal::AtMostTimes(1.004),
                peer: one,
                forebay: eight,
            },
            Figure {
                measure: "last client done",
                unit: "s",
                goal: Goal::AtMostTimes(1.3),
                peer: whole(&alone),
                forebay: whole(&together),
            },
        ],
        idle: None,
    }
}

/// One more miss, of which every byte is compared; it takes longer, so it does not count as a round.
async fn verify_miss(setup: &Setup, upstream: &Upstream, url: &str) {
    let forebay = Forebay::start(&setup.program, url, Options::default()).await;
    check(&upstream.at(&forebay), &upstream.digest).await;
}

async fn download(target: &Target) -> Download {
    last_of(1, target).await
}

/// Begins this many downloads together: the latest first byte and the latest end.
async fn last_of(clients: usize, target: &Target) -> Download {
    let target = target.clone();
    apart(move || clear::downloads(&target, clients)).await
}

fn whole(downloads: &[Download]) -> Vec<f64> {
    downloads.iter().map(|download| download.whole.as_secs_f64()).collect()
}

fn first_byte(downloads: &[Download]) -> Vec<f64> {
    downloads.iter().map(|download| download.first_byte.as_secs_f64() * 1e3).collect()
}
