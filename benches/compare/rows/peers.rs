//! Forebays that are peers: what a cluster costs where nothing is shared, and what a miss costs that a peer answers.

use super::{
    BLOB, Setup, Upstream, check, in_turn,
    misses::{download, last_of},
};
use crate::{
    client::clear::Download,
    cpu::Stopwatch,
    proxy::{Line, Proxy},
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};
use forebay_test_support::real::port::free_port;

/// How many peers share a cold blob, and how many clients each of them has.
const PEERS: usize = 3;
const CLIENTS: usize = 8;

/// Two members, of which clients know one.
pub struct Pair {
    pub near: Forebay,
    _other: Forebay,
}

impl Pair {
    pub async fn start(setup: &Setup, url: &str, access_log: bool) -> Self {
        let ports = [free_port(), free_port()];
        let start = async |port| {
            let options = Options { port: Some(port), peers: &ports, access_log, ..Options::default() };
            Forebay::start(&setup.program, url, options).await
        };
        Self { near: start(ports[0]).await, _other: start(ports[1]).await }
    }
}

/// A cached blob of a member, compared with a forebay that is in no cluster.
pub async fn blob_hit(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let url = upstream.registry.url();
    let alone = Forebay::start(&setup.program, &url, Options::default()).await;
    let pair = Pair::start(setup, &url, false).await;
    let (peer, own) = (upstream.at(&alone), upstream.at(&pair.near));
    for (server, target) in [(&alone, &peer), (&pair.near, &own)] {
        check(target, &upstream.digest).await;
        server.until_cached(&upstream.digest).await;
        check(target, &upstream.digest).await;
    }
    let rounds = super::blob_hits::side_by_side(setup, peer, own, 8).await;
    let work = "blob hit, clear HTTP/1.1, 8 connections, in a cluster".to_owned();
    super::throughput_row(work, "forebay without a cluster", &rounds, Goal::Times(0.97), Goal::AtMostTimes(1.05))
}

/// A forebay that asks one peer for everything, and that peer.
struct Chain {
    near: Forebay,
    owner: Forebay,
}

impl Chain {
    async fn start(setup: &Setup, url: &str) -> Self {
        let port = free_port();
        let options = Options { port: Some(port), peers: &[port], ..Options::default() };
        let owner = Forebay::start(&setup.program, url, options).await;
        let options = Options { peers: &[port], ..Options::default() };
        Self { near: Forebay::start(&setup.program, url, options).await, owner }
    }

    /// One download from the near forebay, and the CPU seconds of both until both have the blob.
    async fn download(&self, upstream: &Upstream) -> (Download, f64) {
        let watches = [&self.near, &self.owner].map(|forebay| Stopwatch::of_tree(forebay.process()));
        let download = download(&upstream.at(&self.near)).await;
        for forebay in [&self.near, &self.owner] {
            forebay.until_cached(&upstream.digest).await;
        }
        assert!(
            self.near.metric("forebay_peer_received_bytes_total", "") >= Some(upstream.length as f64),
            "not by peer"
        );
        (download, watches.iter().map(|watch| watch.elapsed().as_secs_f64()).sum())
    }
}

/// A miss whose owner has nothing either, through a line of 1 Gbit/s, compared with a forebay that asks the registry.
pub async fn cold_miss(setup: &Setup) -> Row {
    let line = Line { shared_rate: Some(125e6), ..Line::default() };
    let work = "miss, one client, 256 MB, upstream at 1 Gbit/s, by way of a peer".to_owned();
    miss(setup, work, line, false).await
}

/// A miss that the owner has, compared with a forebay that gets it from a registry on the same machine.
pub async fn warm_miss(setup: &Setup) -> Row {
    let work = "miss, one client, 256 MB, a peer has it".to_owned();
    miss(setup, work, Line::default(), true).await
}

async fn miss(setup: &Setup, work: String, line: Line, is_warm: bool) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let proxy = Proxy::before(upstream.registry.port, line).await;
    // A proxy without a rate would only cost time.
    let url = if is_warm { upstream.registry.url() } else { proxy.url() };
    let (alone, by_peer) = in_turn(
        setup.rounds,
        async || {
            let forebay = Forebay::start(&setup.program, &url, Options::default()).await;
            let watch = Stopwatch::of_tree(forebay.process());
            let download = download(&upstream.at(&forebay)).await;
            forebay.until_cached(&upstream.digest).await;
            (download, watch.elapsed().as_secs_f64())
        },
        async || {
            let chain = Chain::start(setup, &url).await;
            if is_warm {
                check(&upstream.at(&chain.owner), &upstream.digest).await;
                chain.owner.until_cached(&upstream.digest).await;
            }
            chain.download(&upstream).await
        },
    )
    .await;
    let chain = Chain::start(setup, &url).await;
    check(&upstream.at(&chain.near), &upstream.digest).await;
    let both = |of: fn(&(Download, f64)) -> f64| (alone.iter().map(of).collect(), by_peer.iter().map(of).collect());
    let goal = if is_warm { Goal::Shown } else { Goal::AtMostTimes(1.05) };
    let figure = |measure, unit, goal, (peer, forebay)| Figure { measure, unit, goal, peer, forebay };
    Row {
        work,
        peer: "forebay without a cluster, cold".to_owned(),
        figures: vec![
            figure("time", "s", goal, both(|round| round.0.whole.as_secs_f64())),
            figure("first byte", "ms", Goal::Shown, both(|round| round.0.first_byte.as_secs_f64() * 1e3)),
            figure("server CPU, of the peer too", "s", Goal::Shown, both(|round| round.1)),
        ],
        idle: None,
    }
}

/// So many forebays before this URL: members of one cluster, or of none.
pub async fn start(setup: &Setup, url: &str, count: usize, is_cluster: bool) -> Vec<Forebay> {
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    let mut forebays = Vec::new();
    for port in &ports {
        let peers = if is_cluster { ports.as_slice() } else { &[] };
        let options = Options { port: Some(*port), peers, ..Options::default() };
        forebays.push(Forebay::start(&setup.program, url, options).await);
    }
    forebays
}

/// One cold blob for clients of three forebays behind a line of 1 Gbit/s, compared with three that share nothing.
pub async fn shared(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let round = async |is_cluster: bool| {
        let line = Line { shared_rate: Some(125e6), ..Line::default() };
        let proxy = Proxy::before(upstream.registry.port, line).await;
        let forebays = start(setup, &proxy.url(), PEERS, is_cluster).await;
        let targets: Vec<_> = forebays.iter().map(|forebay| upstream.at(forebay)).collect();
        let pulls = targets.iter().map(|target| last_of(CLIENTS, target));
        let last = futures_util::future::join_all(pulls).await;
        let last = last.iter().map(|download| download.whole.as_secs_f64()).fold(0.0, f64::max);
        (proxy.received() as f64 / 1e6, last)
    };
    let rounds = in_turn(setup.rounds.min(3), async || round(false).await, async || round(true).await).await;
    let both = |of: fn(&(f64, f64)) -> f64| (rounds.0.iter().map(of).collect(), rounds.1.iter().map(of).collect());
    let figure = |measure, unit, goal, (peer, forebay)| Figure { measure, unit, goal, peer, forebay };
    Row {
        work: format!("{CLIENTS} clients at each of {PEERS} peers, one cold blob of 256 MB, upstream at 1 Gbit/s"),
        peer: format!("{PEERS} forebays, nothing shared"),
        figures: vec![
            figure("bytes from upstream", "MB", Goal::AtMost(1.05 * BLOB as f64 / 1e6), both(|round| round.0)),
            figure("last client done", "s", Goal::AtMostTimes(0.4), both(|round| round.1)),
        ],
        idle: None,
    }
}
