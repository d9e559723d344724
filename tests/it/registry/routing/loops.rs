//! Mirrors behind mirrors are fine; a mirror behind itself is a circle.

use std::{net::TcpListener, path::Path};

use forebay::{
    app::{self, Inherited},
    config::{Config, Overrides},
};
use http::Method;

use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror, until::bounded, wire::exchange};

/// A mirror on sockets that were there before it, so that others, and it itself, can be told of them.
pub struct App {
    app: app::App,
    _directory: tempfile::TempDir,
}

impl App {
    pub async fn start(text: &str, registry: Vec<TcpListener>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let overrides = Overrides {
            listen: registry.iter().map(|listener| listener.local_addr().unwrap()).collect(),
            admin: Some("127.0.0.1:0".parse().unwrap()),
            cache_dir: Some(directory.path().join("cache")),
            max_size: None,
        };
        let mut config = Config::parse(text, Path::new("forebay.toml"), overrides).unwrap();
        config.cache.min_free = 0;
        // Not the machine's.
        config.state_directory = Some(directory.path().join("state"));
        config.admin.socket = Some(directory.path().join("control.sock"));
        config.server.allowed_hosts.push("mirror.lan".parse().unwrap());
        let app = app::App::start(config, Inherited { registry, admin: None }).await.unwrap();
        Self { app, _directory: directory }
    }

    pub async fn drain(self) {
        bounded(self.app.drain()).await;
    }
}

pub fn mirror_of(address: std::net::SocketAddr) -> String {
    format!("[[upstream]]\nname = \"next.example\"\nurls = [\"http://{address}\"]\ndefault = true\n")
}

pub fn bound() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn paths() -> [String; 5] {
    let digest = format!("sha256:{}", "a".repeat(64));
    [
        "/v2/a/b/manifests/1".to_owned(),
        format!("/v2/a/b/manifests/{digest}"),
        format!("/v2/a/b/blobs/{digest}"),
        "/v2/a/b/tags/list".to_owned(),
        format!("/v2/a/b/referrers/{digest}"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_of_itself_says_so() {
    let (listener, address) = bound();
    let app = App::start(&mirror_of(address), vec![listener]).await;
    for path in paths() {
        for method in ["GET", "HEAD"] {
            let refused = exchange(address, &format!("{method} {path}"), &[]).await;
            assert_eq!(refused.status, 508, "{method} {path}");
        }
        let refused = exchange(address, &format!("GET {path}"), &[]).await;
        assert_eq!(refused.error_code(), "UNAVAILABLE", "{path}");
    }
    app.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mirrors_of_each_other_say_so() {
    let ((first, address), (second, other)) = (bound(), bound());
    let first = App::start(&mirror_of(other), vec![first]).await;
    let second = App::start(&mirror_of(address), vec![second]).await;
    for path in paths() {
        for method in ["GET", "HEAD"] {
            let refused = exchange(address, &format!("{method} {path}"), &[]).await;
            assert_eq!(refused.status, 508, "{method} {path}");
        }
    }
    first.drain().await;
    second.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_of_a_mirror_is_no_circle() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("a/b", "1", &[b"layer"]);
    let near_registry = Mirror::of(&registry).await;
    let text = mirror_of(near_registry.address());
    let near_client = Mirror::parse(&text).start().await;
    assert_eq!(near_client.get("/v2/a/b/manifests/1").await.body, image.manifest_bytes);
    let blob = near_client.get(&format!("/v2/a/b/blobs/{}", image.layers[0])).await;
    assert_eq!((blob.status, &blob.body[..]), (200, &b"layer"[..]));
    let vias: Vec<_> = registry.requests().iter().map(|request| request.header("via").unwrap().to_owned()).collect();
    for via in vias {
        let hops: Vec<_> = via.split(", ").collect();
        assert_eq!(hops.len(), 2, "{via}");
        assert!(hops.iter().all(|hop| hop.starts_with("1.1 forebay-")) && hops[0] != hops[1], "{via}");
    }
}

#[tokio::test]
async fn other_proxies_on_the_way_are_no_circle() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("a/b", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let own = mirror.get("/v2/").await.header("via").unwrap().to_owned();
    let vias = [("via", "1.1 proxy.lan (squid)"), ("via", "1.1 forebay-0000, HTTP/2 forebay")];
    assert_eq!(mirror.get_with("/v2/a/b/manifests/1", &vias).await.body, image.manifest_bytes);
    for via in [own.clone(), format!("1.0 fred, {own}"), format!("{own} (a comment), 1.1 other")] {
        let refused = mirror.request(Method::GET, "/v2/a/b/manifests/1", &[("via", "1.1 x"), ("via", &via)]).await;
        assert_eq!(refused.status, 508, "{via}");
    }
    assert_eq!(registry.requests().len(), 1);
}
