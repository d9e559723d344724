//! A cached manifest: requests per second, and how long the slowest hundredth waits.

use super::{REPOSITORY, Setup, Told, apart, compared, in_turn};
use crate::{
    client::{
        clear,
        wrk::{self, Answered},
    },
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

/// Compared with a cache of nginx.
pub async fn beside_nginx(setup: &Setup, by: By, access_log: bool) -> Row {
    let (registry, manifest) = registry_with_image().await;
    let forebay = Forebay::start(&setup.program, &registry.url(), Options { access_log, ..Options::default() }).await;
    let nginx = Nginx::cache(&registry.url(), access_log).await;
    let rounds = side_by_side(setup, &manifest, by, nginx.address, forebay.address).await;
    let (per_second, p99) =
        if access_log { (Goal::Shown, Goal::Shown) } else { (Goal::Times(1.4), Goal::AtMostTimes(1.0)) };
    let logs = if access_log { ", both with an access log" } else { "" };
    row(
        format!("manifest hit by {}, wrk, 32 connections{logs}", by.name()),
        "nginx proxy_cache",
        &rounds,
        per_second,
        p99,
    )
}

/// By tag, compared with docker-registry as a mirror, which sends a request to its upstream each time.
pub async fn beside_registry(setup: &Setup) -> Row {
    let (registry, manifest) = registry_with_image().await;
    let forebay = Forebay::start(&setup.program, &registry.url(), Options::default()).await;
    let mirror = Mirror::start(&registry.url()).await;
    let rounds = side_by_side(setup, &manifest, By::Tag, mirror.address, forebay.address).await;
    let work = "manifest by tag, wrk, 32 connections".to_owned();
    row(work, "docker-registry mirror", &rounds, Goal::Times(200.0), Goal::Shown)
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

async fn side_by_side(
    setup: &Setup,
    manifest: &Document,
    by: By,
    peer: SocketAddr,
    own: SocketAddr,
) -> (Vec<Answered>, Vec<Answered>) {
    for address in [peer, own, peer, own] {
        check(address, manifest, by).await;
    }
    let time = setup.wrk_time();
    in_turn(setup.rounds, async || ask(peer, manifest, by, time).await, async || ask(own, manifest, by, time).await)
        .await
}

fn row(work: String, peer: &str, rounds: &(Vec<Answered>, Vec<Answered>), per_second: Goal, p99: Goal) -> Row {
    let told: [Told<Answered>; 2] =
        [("requests", "/s", per_second, |answered| answered.per_second), ("p99", "ms", p99, Answered::p99_ms)];
    compared(work, peer, rounds, told, |answered| answered.idle)
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
