//! How long the router takes to route a request.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, black_box, counter::ItemsCount};
use forebay::{
    config::{Config, Overrides},
    route::{Routes, Target},
};
use http::{Method, Uri};

fn main() {
    divan::main();
}

#[divan::bench(args = [
    "/v2/library/nginx/manifests/latest",
    "/v2/library/nginx/manifests/latest?ns=docker.io",
    "/v2/ghcr.io/owner/image/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
])]
fn resolve(bencher: Bencher<'_, '_>, uri: &str) {
    let config = Config::load(None, Overrides::default()).unwrap();
    let routes = Routes::new(config.upstreams.iter().map(|upstream| (upstream, upstream.name.clone())));
    let uri: Uri = uri.parse().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench(|| {
        let target = Target {
            method: &Method::GET,
            uri: black_box(&uri),
            host: Some("mirror.lan:5000"),
            sni: None,
            tls: false,
            local_port: 5000,
        };
        routes.resolve(target).unwrap()
    });
}
