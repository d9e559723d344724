//! A blob that is in the cache and in memory.

use std::sync::Arc;

use rustls::ClientConfig;
use tempfile::TempDir;

use super::{BLOB, Setup, Upstream, apart, check, in_turn, throughput_row};
use crate::{
    client::{Streamed, Target, clear, http2, tls},
    servers::{Forebay, Mirror, Nginx, Options, Tls},
    table::{Goal, Row},
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
    let (throughput, cpu) = match connections {
        1 => (Goal::Times(1.0), Goal::Shown),
        8 => (Goal::Times(1.8), Goal::AtMostTimes(0.45)),
        _ => (Goal::Times(2.0), Goal::AtMostTimes(0.40)),
    };
    let work = format!("blob hit, clear HTTP/1.1, {connections} connection{}", if connections == 1 { "" } else { "s" });
    throughput_row(work, "nginx static, sendfile", &rounds, throughput, cpu)
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
    throughput_row(work, "docker-registry mirror", &rounds, Goal::Times(1.5), Goal::AtMostTimes(0.35))
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
    throughput_row(work, "nginx static, TLS", &rounds, Goal::Times(1.0), Goal::Shown)
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

async fn side_by_side(setup: &Setup, peer: Target, own: Target, connections: usize) -> (Vec<Streamed>, Vec<Streamed>) {
    let stream = async |target: &Target| {
        let (target, time) = (target.clone(), setup.time);
        apart(move || clear::stream(&target, connections, time)).await
    };
    in_turn(setup.rounds, async || stream(&peer).await, async || stream(&own).await).await
}
