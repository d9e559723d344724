//! A cold blob: how long a client waits for it. Each round begins with an empty cache.

use std::{
    hint::black_box,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use rustix::{
    fs::sendfile,
    net::{RecvFlags, recv},
};
use sha2::{Digest as _, Sha256};

use super::{BLOB, Setup, Upstream, apart, check, in_turn};
use crate::{
    client::{
        Target,
        clear::{self, Download},
    },
    cpu::{self, Stopwatch},
    proxy::{Line, Proxy},
    servers::{Forebay, Mirror, Options, local},
    table::{Figure, Goal, Row, median},
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
                goal: Goal::AtMostTimes(0.9),
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
    beside_direct(setup, work, DISTANT_BLOB, line, 0.27).await
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

/// Eight concurrent clients, compared with one, and the CPU time with that of one miss and seven hits.
pub async fn shared(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let url = upstream.registry.url();
    let mut of_parts = Vec::new();
    let (alone, together) = in_turn(
        setup.rounds,
        async || {
            let forebay = Forebay::start(&setup.program, &url, Options::default()).await;
            let target = upstream.at(&forebay);
            let (alone, miss) = with_cpu(&upstream, &forebay, 1).await;
            let hits = Stopwatch::of_tree(forebay.process());
            for _ in 1..CLIENTS {
                download(&target).await;
            }
            of_parts.push(miss + 1.1 * hits.elapsed().as_secs_f64());
            (alone, miss)
        },
        async || {
            let forebay = Forebay::start(&setup.program, &url, Options::default()).await;
            with_cpu(&upstream, &forebay, CLIENTS).await
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
    let figure = |measure, unit, goal, peer, forebay| Figure { measure, unit, goal, peer, forebay };
    let time = |rounds: &[(Download, f64)]| rounds.iter().map(|(download, _)| download.whole.as_secs_f64()).collect();
    let cpu = together.iter().map(|(_, cpu)| *cpu).collect();
    Row {
        work: "8 clients, one cold blob of 256 MB".to_owned(),
        peer: "forebay with one client".to_owned(),
        figures: vec![
            figure("bytes from upstream", "MB", Goal::AtMostTimes(1.004), one, eight),
            figure("server CPU (peer: 1 miss + 7 hits x 1.1)", "s", Goal::AtMostTimes(1.0), of_parts, cpu),
            figure("last client done", "s", Goal::Shown, time(&alone), time(&together)),
        ],
        idle: None,
    }
}

/// The downloads of so many clients together, and the CPU seconds of forebay until the blob is in the cache.
async fn with_cpu(upstream: &Upstream, forebay: &Forebay, clients: usize) -> (Download, f64) {
    let watch = Stopwatch::of_tree(forebay.process());
    let download = last_of(clients, &upstream.at(forebay)).await;
    forebay.until_cached(&upstream.digest).await;
    (download, watch.elapsed().as_secs_f64())
}

/// CPU time of one miss, compared with that of its parts: each done alone, in a plain loop.
pub async fn cost(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let url = upstream.registry.url();
    let mut parts: [Vec<f64>; 4] = Default::default();
    let (peer, own) = in_turn(
        setup.rounds,
        async || {
            let direct = upstream.direct();
            let spent = apart(move || parts_of_a_miss(&direct)).await;
            parts.iter_mut().zip(spent).for_each(|(part, spent)| part.push(spent));
            spent.iter().sum()
        },
        async || {
            let forebay = Forebay::start(&setup.program, &url, Options::default()).await;
            with_cpu(&upstream, &forebay, 1).await.1
        },
    )
    .await;
    for (name, spent) in ["receive", "write", "hash", "send"].into_iter().zip(&parts) {
        eprintln!("  {name}: {:.3} s", median(spent));
    }
    let measure = "server CPU";
    let figures = vec![Figure { measure, unit: "s", goal: Goal::AtMostTimes(1.15), peer, forebay: own }];
    let work = "miss, one client, 256 MB, registry on loopback".to_owned();
    Row { work, peer: "receive + write + hash + send, each alone".to_owned(), figures, idle: None }
}

/// CPU seconds of a thread that receives the blob, writes it to a new file, hashes it, and sends it: each apart. The bytes
/// come from memory, and not from the processor's caches.
fn parts_of_a_miss(registry: &Target) -> io::Result<[f64; 4]> {
    let mut blob = vec![1; usize::try_from(registry.length).map_err(io::Error::other)?];
    let mut body = clear::body(registry)?;
    let receive = cpu_of(|| blob.chunks_mut(64 * 1024).try_for_each(|piece| body.read_exact(piece)))?;
    let mut file = tempfile::tempfile()?;
    let write = cpu_of(|| blob.chunks(1 << 20).try_for_each(|piece| file.write_all(piece)))?;
    let hash = cpu_of(|| {
        let mut hasher = Sha256::new();
        blob.chunks(64 * 1024).for_each(|piece| hasher.update(piece));
        black_box(hasher.finalize());
        Ok(())
    })?;
    let listener = TcpListener::bind(local(0))?;
    let address = listener.local_addr()?;
    let client = thread::spawn(move || {
        let (socket, mut sink) = (TcpStream::connect(address)?, vec![0; 1 << 20]);
        while recv(&socket, &mut sink[..], RecvFlags::TRUNC)?.1 > 0 {}
        Ok::<_, io::Error>(())
    });
    let (socket, _) = listener.accept()?;
    let send = cpu_of(|| {
        let mut offset = 0;
        while offset < registry.length {
            sendfile(&socket, &file, Some(&mut offset), 2 << 20)?;
        }
        Ok(())
    })?;
    drop(socket);
    client.join().map_err(|_| io::Error::other("the client panicked"))??;
    Ok([receive, write, hash, send])
}

/// CPU seconds that this thread spends on some work.
fn cpu_of<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<f64> {
    let before = cpu::of_thread()?;
    work()?;
    Ok((cpu::of_thread()? - before).as_secs_f64())
}

/// One more miss, of which every byte is compared; it takes longer, so it does not count as a round.
async fn verify_miss(setup: &Setup, upstream: &Upstream, url: &str) {
    let forebay = Forebay::start(&setup.program, url, Options::default()).await;
    check(&upstream.at(&forebay), &upstream.digest).await;
}

pub async fn download(target: &Target) -> Download {
    last_of(1, target).await
}

/// Begins this many downloads together: the latest first byte and the latest end.
pub async fn last_of(clients: usize, target: &Target) -> Download {
    let target = target.clone();
    apart(move || clear::downloads(&target, clients)).await
}

fn whole(downloads: &[Download]) -> Vec<f64> {
    downloads.iter().map(|download| download.whole.as_secs_f64()).collect()
}

fn first_byte(downloads: &[Download]) -> Vec<f64> {
    downloads.iter().map(|download| download.first_byte.as_secs_f64() * 1e3).collect()
}
