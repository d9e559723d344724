//! The operator's listener, the control socket, and the API on both.

pub mod api;
mod ask;
mod attacks;
pub mod control;
mod events;
pub mod explain;
pub mod page;
pub mod pause;
pub mod requests;
pub mod transfers;
mod warm;

use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror, test_server::client, wire};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_health_and_readiness() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let address = mirror.app().admin_addr();
    let (url, client) = (format!("http://{address}"), client());
    let get = async |path: &str| {
        let response = client.get(format!("{url}{path}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };

    assert_eq!(get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz").await, (200, "ready\n".to_owned()));
    mirror.app().announce_drain();
    assert_eq!(get("/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(get("/healthz").await, (200, "ok\n".to_owned()));

    let (status, text) = get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("forebay_evicted_bytes_total 0\n") && text.contains("forebay_build_info{"), "{text}");
    // The operator's own connections are not clients.
    assert!(text.contains("forebay_connections 0\n"), "{text}");
    let response = client.get(format!("{url}/metrics?x=y")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(response.headers()["content-security-policy"], "default-src 'none'; sandbox");

    let head = client.head(format!("{url}/healthz")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "3"));
    assert_eq!(get("/v2/").await.0, 404);
    let post = client.post(format!("{url}/readyz")).send().await.unwrap();
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));

    let hostless = wire::send(address, "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert_eq!((hostless.status, hostless.header("x-content-type-options")), (400, Some("nosniff")));
    let old = wire::send(address, "GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status, 200);
}
