//! Manifests by digest: exactly what the upstream has, kept for good, and verified before every use.

pub mod accept;
pub mod damaged;
pub mod freshness;
pub mod images;
pub mod media_type;
pub mod no_manifest;
pub mod not_found;
pub mod rate_limit;
pub mod tag;
pub mod tag_age;
pub mod tag_head;

use std::{
    fs,
    path::{Path, PathBuf},
};

use forebay::oci::{Algorithm, Digest};
use http::Method;

use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Server, When},
    manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, asked, manifest},
    mirror::{Answer, Mirror},
};

/// Every file below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn assert_is(answer: &Answer, media_type: &str, digest: &Digest, content: &[u8]) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some(media_type));
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
    assert_eq!(answer.header("content-length"), Some(&*content.len().to_string()));
    assert!(answer.body == content, "{media_type}: other bytes");
}

#[tokio::test]
async fn every_byte_and_the_exact_type_come_through() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let odd: [(&str, &[u8]); 6] = [
        (OCI_MANIFEST, b"{ \"schemaVersion\" : 2 ,\n\t\"layers\":[ ], \"b\":1, \"a\":1e0 }\r\n"),
        (OCI_INDEX, "{\"schemaVersion\":2,\"manifests\":[],\"x\":\"\u{e9}\\u00e9\"}".as_bytes()),
        ("application/vnd.docker.distribution.manifest.v1+json", b"{\"schemaVersion\":1}"),
        ("application/vnd.example.thing+json; charset=utf-8; v=\"1;2\"", b"{}"),
        ("Application/VND.Example+JSON", b" {}"),
        ("text/plain", b"\x00\xff not JSON at all \n\n"),
    ];
    for (number, (media_type, content)) in odd.into_iter().enumerate() {
        let digest = registry.add_manifest("team/app", media_type, content);
        let tag = format!("odd{number}");
        registry.tag("team/app", &tag, &digest);
        for path in [manifest(&tag), manifest(&tag), manifest(&digest)] {
            assert_is(&mirror.get(&path).await, media_type, &digest, content);
            let head = mirror.head(&path).await;
            assert_eq!((head.status, head.header("content-type")), (200, Some(media_type)));
            assert_eq!(head.header("content-length"), Some(&*content.len().to_string()));
            assert!(head.body.is_empty());
        }
    }
    assert_eq!((asked(&registry, Method::GET), asked(&registry, Method::HEAD)), (6, 0));
}

#[tokio::test]
async fn a_cached_digest_is_served_without_the_upstream() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    let path = manifest(&image.manifest);
    let first = mirror.get(&path).await;
    assert_is(&first, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
    assert_eq!(first.header("cache-status"), Some("forebay; fwd=miss; stored"));
    registry.forget_requests();
    for _ in 0..2 {
        for method in [Method::GET, Method::HEAD] {
            let again = mirror.request(method, &path, &[]).await;
            assert_eq!((again.status, again.header("cache-status")), (200, Some("forebay; hit")));
            assert_eq!(again.header("docker-content-digest"), Some(image.manifest.as_str()));
        }
        // The second round is that of a mirror that has just been started, and whose upstream is gone.
        if mirror.metric("forebay_requests_total", &[("outcome", "miss")]).await > 0.0 {
            registry.take_down(Server::Api).await;
            mirror.restart().await;
        }
    }
    assert_is(&mirror.get(&path).await, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
    assert!(registry.requests().is_empty());
}

/// A part could not be verified; no registry gives one.
#[tokio::test]
async fn a_range_of_a_manifest_is_all_of_it() {
    let registry = FakeRegistry::start().await;
    let mirror =
        Mirror::build(&registry).config(|config| config.cache.tag_ttl = std::time::Duration::ZERO).start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let etag = format!("\"{}\"", image.manifest);
    // Cold, revalidated, and cached.
    for path in [manifest(1), manifest(1), manifest(&image.manifest)] {
        for range in ["bytes=0-9", "bytes=5-", "bytes=-1", "bytes=0-0,5-9", "bytes=100000-"] {
            for condition in ["\"other\"", &*etag] {
                let headers = [("range", range), ("if-range", condition)];
                for headers in [&headers[..1], &headers] {
                    let answer = mirror.get_with(&path, headers).await;
                    assert_is(&answer, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
                    assert_eq!(answer.header("content-range"), None, "{path} {headers:?}");
                    let head = mirror.request(Method::HEAD, &path, headers).await;
                    let len = image.manifest_bytes.len().to_string();
                    assert_eq!((head.status, head.header("content-length")), (200, Some(&*len)), "{path} {headers:?}");
                }
            }
        }
    }
    assert_eq!(registry.count(|request| request.headers.contains_key("range")), 0, "nor is the upstream asked for one");
}

#[tokio::test]
async fn the_head_of_an_unknown_digest_is_no_pull() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let head = mirror.head(&manifest(&image.manifest)).await;
    assert_eq!((head.status, head.header("cache-status")), (200, Some("forebay; fwd=miss")));
    assert_eq!(head.header("content-length"), Some(&*image.manifest_bytes.len().to_string()));
    assert_eq!((asked(&registry, Method::GET), asked(&registry, Method::HEAD)), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_mebibytes_pass_and_a_byte_more_does_not() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let mut content = vec![b'x'; 16 * 1024 * 1024];
    let long_type = format!("application/{}", "x".repeat(243));
    let largest = registry.add_manifest("team/app", &long_type, content.clone());
    assert_is(&mirror.get(&manifest(&largest)).await, &long_type, &largest, &content);
    registry.take_down(Server::Api).await;
    mirror.restart().await;
    assert_is(&mirror.get(&manifest(&largest)).await, &long_type, &largest, &content);
    registry.bring_up(Server::Api).await;
    content.push(b'x');
    let larger = registry.add_manifest("team/app", OCI_MANIFEST, content);
    let refused = mirror.get(&manifest(&larger)).await;
    assert_eq!((refused.status, &*refused.error_code()), (413, "MANIFEST_INVALID"));
    // One that does not say how long it is.
    registry.fault(When::manifests(), Fault::NoContentLength);
    let refused = mirror.get(&manifest(&larger)).await;
    assert_eq!((refused.status, &*refused.error_code()), (413, "MANIFEST_INVALID"));
}

#[tokio::test]
async fn a_missing_type_is_the_one_the_manifest_declares() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    registry.fault(When::manifests(), Fault::Header("content-type", None));
    for (content, media_type) in [
        (
            format!(
                "{{\"schemaVersion\":2,\"mediaType\":\"{DOCKER_MANIFEST}\",\"config\":{{\"mediaType\":\"a/b\",\"size\":1,\"digest\":\"sha256:{}\"}}}}",
                "a".repeat(64)
            ),
            DOCKER_MANIFEST,
        ),
        ("{\"schemaVersion\":2,\"manifests\":[]}".to_owned(), OCI_INDEX),
        ("{\"schemaVersion\":2,\"something\":[]}".to_owned(), OCI_MANIFEST),
    ] {
        let digest = registry.add_manifest("team/app", OCI_MANIFEST, content.clone());
        assert_is(&mirror.get(&manifest(&digest)).await, media_type, &digest, content.as_bytes());
        let head = mirror.head(&manifest(&digest)).await;
        assert_eq!(head.header("content-type"), Some(media_type));
    }
}

#[tokio::test]
async fn a_sha512_digest_is_a_digest() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let content = "{\"schemaVersion\":2,\"manifests\":[]}";
    let digest = Digest::of(Algorithm::Sha512, content.as_bytes());
    let headers = vec![("content-type", OCI_INDEX.to_owned()), ("docker-content-digest", digest.to_string())];
    registry.fault(When::manifests(), Fault::Answer { status: 200, headers, body: content.to_owned() });
    for path in [manifest(&digest), manifest("1")] {
        assert_is(&mirror.get(&path).await, OCI_INDEX, &digest, content.as_bytes());
    }
    registry.take_down(Server::Api).await;
    mirror.restart().await;
    for path in [manifest(&digest), manifest("1")] {
        assert_is(&mirror.get(&path).await, OCI_INDEX, &digest, content.as_bytes());
    }
}
