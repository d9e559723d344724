//! A blob that is in the cache and in memory.

use std::sync::Arc;

use rustls::ClientConfig;
use tempfile::TempDir;

use super::{BLOB, Setup, Upstream, apart, check, in_turn, throughput_row};
use crate::{
    client::{Streamed, Target, clear, http2, tls},
    machine::{FileSystem, Mounted},
    servers::{
        Forebay, Mirror, Nginx, Options, Tls,
        limit::{LOOPS, Limit},
    },
    table::{Goal, Row, median},
};
use forebay_test_support::real::certificate::Authority;

/// In clear, compared with nginx with sendfile.
pub async fn beside_nginx(setup: &Setup, connections: usize) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let forebay = Forebay::start(&setup.program, &upstream.registry.url(), Options::default()).await;
    let own = upstream.at(&forebay);
    check(&own, &upstream.digest).await;
    let nginx = Nginx::files().await;
    nginx.link(&forebay.until_cached(&upstream.digest).await, &upstream.path());
    let peer = upstream.at_nginx(&nginx);
    check(&peer, &upstream.digest).await;
    check(&own, &upstream.digest).await;
    let rounds = side_by_side(setup, peer, own, connections).await;
    let throughput = if connections > 8 { Goal::Times(1.4) } else { Goal::Times(1.0) };
    throughput_row(work_of(connections), "nginx static, sendfile", &rounds, throughput, Goal::Shown)
}

/// In clear, compared with the best of the raw loops: the machine's limit.
pub async fn beside_limit(setup: &Setup, connections: usize) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let forebay = Forebay::start(&setup.program, &upstream.registry.url(), Options::default()).await;
    let own = upstream.at(&forebay);
    check(&own, &upstream.digest).await;
    let file = forebay.until_cached(&upstream.digest).await;
    let mut loops = Vec::new();
    for (way, threads) in LOOPS {
        let limit = Limit::start(&file, way, threads).await;
        let peer = Target { address: limit.address, process: limit.process(), ..own.clone() };
        check(&peer, &upstream.digest).await;
        loops.push((format!("{way:?}, {threads} thread(s)"), peer, limit));
    }
    check(&own, &upstream.digest).await;
    let stream = async |target: &Target| {
        let (target, time) = (target.clone(), setup.time);
        apart(move || clear::stream(&target, connections, time)).await
    };
    let mut of_loops: Vec<Vec<Streamed>> = loops.iter().map(|_| Vec::new()).collect();
    let mut of_forebay = Vec::new();
    for _ in 0..setup.rounds {
        for ((_, peer, _), rounds) in loops.iter().zip(&mut of_loops) {
            rounds.push(stream(peer).await);
        }
        of_forebay.push(stream(&own).await);
    }
    let of = |rounds: &[Streamed], of: fn(&Streamed) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let speed = |rounds: &[Streamed]| median(&of(rounds, Streamed::gigabytes_per_second));
    let cost = |rounds: &[Streamed]| median(&of(rounds, Streamed::cpu_per_gigabyte));
    for ((name, _, _), rounds) in loops.iter().zip(&of_loops) {
        eprintln!("  {name}: {:.2} GB/s, {:.3} s/GB", speed(rounds), cost(rounds));
    }
    let best = (0..loops.len()).max_by(|a, b| speed(&of_loops[*a]).total_cmp(&speed(&of_loops[*b]))).unwrap();
    let (throughput, cpu) = match connections {
        1 => (Goal::Times(0.9), Goal::AtMostTimes(1.2)),
        _ => (Goal::Times(0.97), Goal::AtMostTimes(1.1)),
    };
    let peer = format!("limit: {}", loops[best].0);
    let rounds = (of_loops.swap_remove(best), of_forebay);
    throughput_row(work_of(connections), &peer, &rounds, throughput, cpu)
}

fn work_of(connections: usize) -> String {
    format!("blob hit, clear HTTP/1.1, {connections} connection{}", if connections == 1 { "" } else { "s" })
}

/// In clear, compared with docker-registry as a mirror.
pub async fn beside_registry(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let forebay = Forebay::start(&setup.program, &upstream.registry.url(), Options::default()).await;
    let own = upstream.at(&forebay);
    let mirror = Mirror::start(&upstream.registry.url()).await;
    let peer = upstream.at_mirror(&mirror);
    check(&own, &upstream.digest).await;
    check(&peer, &upstream.digest).await;
    forebay.until_cached(&upstream.digest).await;
    mirror.until_cached(&upstream.digest).await;
    check(&own, &upstream.digest).await;
    check(&peer, &upstream.digest).await;
    let rounds = side_by_side(setup, peer, own, 8).await;
    let work = "blob hit, clear HTTP/1.1, 8 connections".to_owned();
    throughput_row(work, "docker-registry mirror", &rounds, Goal::Times(1.5), Goal::AtMostTimes(0.5))
}

/// In clear, from a cache on another file system, compared with one in the ordinary folder.
pub async fn on_file_system(setup: &Setup, kind: FileSystem) -> Row {
    let mounted = Mounted::new(kind);
    let cache = mounted.folder.path().join("merged/cache");
    let upstream = Upstream::with_blob(BLOB).await;
    let ordinary = Forebay::start(&setup.program, &upstream.registry.url(), Options::default()).await;
    let options = Options { cache: Some(&cache), ..Options::default() };
    let forebay = Forebay::start(&setup.program, &upstream.registry.url(), options).await;
    let (peer, own) = (upstream.at(&ordinary), upstream.at(&forebay));
    for server in [&ordinary, &forebay] {
        check(&upstream.at(server), &upstream.digest).await;
        server.until_cached(&upstream.digest).await;
        check(&upstream.at(server), &upstream.digest).await;
    }
    let rounds = side_by_side(setup, peer, own, 8).await;
    let work = format!("{}, cache on {}", work_of(8), kind.name());
    throughput_row(work, "forebay, cache in the bench's folder", &rounds, Goal::Shown, Goal::AtMostTimes(1.2))
}

pub async fn over_tls(setup: &Setup) -> Row {
    encrypted(setup, Tls::Http1).await
}

pub async fn over_http2(setup: &Setup) -> Row {
    encrypted(setup, Tls::Http2).await
}

async fn encrypted(setup: &Setup, protocol: Tls) -> Row {
    let (folder, authority) = (TempDir::with_prefix("forebay-compare-tls-").unwrap(), Authority::new());
    let identity = authority.issue(folder.path(), &["127.0.0.1"]);
    let upstream = Upstream::with_blob(BLOB).await;
    let options = Options { tls: Some(&identity), ..Options::default() };
    let forebay = Forebay::start(&setup.program, &upstream.registry.url(), options).await;
    let own = upstream.at(&forebay);
    // The same port serves clear HTTP.
    check(&own, &upstream.digest).await;
    let nginx = Nginx::files_tls(&identity, protocol).await;
    nginx.link(&forebay.until_cached(&upstream.digest).await, &upstream.path());
    let peer = upstream.at_nginx(&nginx);
    let client = Client { protocol, config: tls::config(&authority.pem(), &[protocol.alpn()]) };
    client.check(&own, &upstream.digest).await;
    client.check(&peer, &upstream.digest).await;
    let rounds =
        in_turn(setup.rounds, async || client.stream(setup, &peer).await, async || client.stream(setup, &own).await)
            .await;
    let work = format!("blob hit, TLS 1.3 AES-128-GCM, {}, 8 connections", protocol.name());
    throughput_row(work, "nginx static, TLS", &rounds, Goal::Times(1.6), Goal::Shown)
}

impl Tls {
    fn alpn(self) -> &'static str {
        match self {
            Tls::Http1 => "http/1.1",
            Tls::Http2 => "h2",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Tls::Http1 => "HTTP/1.1",
            Tls::Http2 => "HTTP/2",
        }
    }
}

struct Client {
    protocol: Tls,
    config: Arc<ClientConfig>,
}

impl Client {
    async fn check(&self, target: &Target, digest: &str) {
        let (target, config, digest) = (target.clone(), Arc::clone(&self.config), digest.to_owned());
        match self.protocol {
            Tls::Http1 => apart(move || tls::verify(&target, &config, &digest)).await,
            Tls::Http2 => apart(move || http2::verify(&target, &config, &digest)).await,
        }
    }

    async fn stream(&self, setup: &Setup, target: &Target) -> Streamed {
        let (target, config, time) = (target.clone(), Arc::clone(&self.config), setup.time);
        match self.protocol {
            Tls::Http1 => apart(move || tls::stream(&target, &config, 8, time)).await,
            Tls::Http2 => apart(move || http2::stream(&target, &config, 8, time)).await,
        }
    }
}

pub async fn side_by_side(
    setup: &Setup,
    peer: Target,
    own: Target,
    connections: usize,
) -> (Vec<Streamed>, Vec<Streamed>) {
    let stream = async |target: &Target| {
        let (target, time) = (target.clone(), setup.time);
        apart(move || clear::stream(&target, connections, time)).await
    };
    in_turn(setup.rounds, async || stream(&peer).await, async || stream(&own).await).await
}
