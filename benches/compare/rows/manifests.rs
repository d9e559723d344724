//! A cached manifest: CPU time per request, requests per second, and how long the slowest hundredth waits.

use super::{REPOSITORY, Setup, Told, apart, compared, in_turn, peers::Pair};
use crate::{
    client::{
        clear,
        wrk::{self, Answered},
    },
    cpu::Stopwatch,
    servers::{Forebay, Mirror, Nginx, Options},
    table::{Goal, Row},
};
use forebay_test_support::real::{
    image::{Document, Format, Image},
    registry::Registry,
};
use std::{net::SocketAddr, time::Duration};

const CONNECTIONS: u32 = 32;
const TAG: &str = "1.0";
/// How many missing tags clients request, to measure their effect on requests for existing ones.
const MISSING: u32 = 50_000;
/// An ordinary image has about this many layers.
const LAYERS: [usize; 6] = [1000; 6];

/// Docker's `Accept`: it allows a manifest of any type.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How a client requests a manifest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Digest,
    Tag,
}

/// A request's manifest, and the servers that are asked for it.
struct Duel<'a> {
    setup: &'a Setup,
    manifest: &'a Document,
    by: By,
    peer: (SocketAddr, u32),
    forebay: (SocketAddr, u32),
}

/// Of one round.
struct Round {
    answered: Answered,
    /// Seconds.
    cpu: f64,
}

/// Compared with a cache of nginx, both with their access logs.
pub async fn beside_nginx(setup: &Setup, by: By) -> Row {
    let (registry, manifest) = registry_with_image().await;
    let (forebay, nginx) = (with_log(setup, &registry).await, Nginx::cache(&registry.url(), true).await);
    let (peer, forebay) = ((nginx.address, nginx.process()), (forebay.address, forebay.process()));
    let rounds = Duel { setup, manifest: &manifest, by, peer, forebay }.rounds().await;
    let work = format!("manifest hit by {}, wrk, 32 connections, both with an access log", by.name());
    row(work, "nginx proxy_cache", &rounds, [Goal::AtMostTimes(0.75), Goal::Shown, Goal::AtMostTimes(1.0)])
}

/// Compared with docker-registry as a mirror, which sends a request to its upstream for each tag. forebay logs, the
/// mirror does not.
pub async fn beside_registry(setup: &Setup, by: By) -> Row {
    let (registry, manifest) = registry_with_image().await;
    let (forebay, mirror) = (with_log(setup, &registry).await, Mirror::start(&registry.url()).await);
    let (peer, forebay) = ((mirror.address, mirror.process()), (forebay.address, forebay.process()));
    let rounds = Duel { setup, manifest: &manifest, by, peer, forebay }.rounds().await;
    let rate = Goal::Times(if by == By::Digest { 12.0 } else { 250.0 });
    let work = format!("manifest by {}, wrk, 32 connections", by.name());
    row(work, "docker-registry mirror", &rounds, [Goal::Shown, rate, Goal::Shown])
}

/// By tag, after as many other clients requested tags that do not exist.
pub async fn after_missing_tags(setup: &Setup) -> Row {
    let (registry, manifest) = registry_with_image().await;
    let (before, after) = (with_log(setup, &registry).await, with_log(setup, &registry).await);
    check(after.address, &manifest, By::Tag).await;
    let address = after.address;
    apart(move || wrk::missing_tags(address, REPOSITORY, MISSING)).await;
    let (peer, forebay) = ((before.address, before.process()), (after.address, after.process()));
    let rounds = Duel { setup, manifest: &manifest, by: By::Tag, peer, forebay }.rounds().await;
    let work = format!("manifest hit by tag, wrk, 32 connections, after {MISSING} 404s");
    row(work, "forebay without the 404s", &rounds, [Goal::AtMostTimes(1.1), Goal::Shown, Goal::Shown])
}

/// By tag at a member of a cluster, compared with a forebay that is in none.
pub async fn in_a_cluster(setup: &Setup) -> Row {
    let (registry, manifest) = registry_with_image().await;
    let (alone, pair) = (with_log(setup, &registry).await, Pair::start(setup, &registry.url(), true).await);
    let (peer, forebay) = ((alone.address, alone.process()), (pair.near.address, pair.near.process()));
    let rounds = Duel { setup, manifest: &manifest, by: By::Tag, peer, forebay }.rounds().await;
    let work = "manifest hit by tag, wrk, 32 connections, in a cluster".to_owned();
    row(work, "forebay without a cluster", &rounds, [Goal::AtMostTimes(1.05), Goal::Shown, Goal::Shown])
}

async fn with_log(setup: &Setup, registry: &Registry) -> Forebay {
    Forebay::start(&setup.program, &registry.url(), Options { access_log: true, ..Options::default() }).await
}

/// A registry with an image of several small layers, and the image's manifest.
pub async fn registry_with_image() -> (Registry, Document) {
    let registry = Registry::open().await;
    let image = Image::new(Format::Oci, 7, &LAYERS);
    registry.pusher().image(REPOSITORY, TAG, &image).await;
    (registry, image.manifest)
}

pub fn path(manifest: &Document, by: By) -> String {
    let reference = match by {
        By::Digest => &manifest.blob.digest,
        By::Tag => TAG,
    };
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

/// Checks that the server sends exactly the bytes of the manifest.
pub async fn check(address: SocketAddr, manifest: &Document, by: By) {
    let path = path(manifest, by);
    let (status, body) = apart(move || clear::get_accepting(address, &path, ACCEPT)).await;
    assert!(status == 200 && body == manifest.blob.bytes, "{address} answers {status} with another manifest");
}

pub async fn ask(address: SocketAddr, manifest: &Document, by: By, time: Duration) -> Answered {
    let path = path(manifest, by);
    apart(move || wrk::run(address, &path, ACCEPT, CONNECTIONS, time)).await
}

impl Duel<'_> {
    async fn rounds(self) -> (Vec<Round>, Vec<Round>) {
        let Self { setup, peer, forebay, .. } = self;
        for (address, _) in [peer, forebay, peer, forebay] {
            check(address, self.manifest, self.by).await;
        }
        in_turn(setup.rounds, async || self.round(peer).await, async || self.round(forebay).await).await
    }

    async fn round(&self, (address, process): (SocketAddr, u32)) -> Round {
        let watch = Stopwatch::of_tree(process);
        let answered = ask(address, self.manifest, self.by, self.setup.wrk_time()).await;
        Round { answered, cpu: watch.elapsed().as_secs_f64() }
    }
}

/// The goals are those of CPU per request, of the rate, and of the 99th percentile.
fn row(work: String, peer: &str, rounds: &(Vec<Round>, Vec<Round>), [cpu, rate, p99]: [Goal; 3]) -> Row {
    let told: [Told<Round>; 3] = [
        ("server CPU per request", "us", cpu, |round| round.cpu * 1e6 / round.answered.requests),
        ("requests", "/s", rate, |round| round.answered.per_second),
        ("p99", "ms", p99, |round| round.answered.p99_ms()),
    ];
    compared(work, peer, rounds, told, |round| round.answered.idle)
}

impl Answered {
    pub fn p99_ms(&self) -> f64 {
        self.p99.as_secs_f64() * 1e3
    }
}

impl By {
    fn name(self) -> &'static str {
        match self {
            By::Digest => "digest",
            By::Tag => "tag",
        }
    }
}
