//! What every answer says of itself, and what is never in one.

use std::collections::HashSet;

use http::Method;

use forebay_test_support::manifest::{OCI_MANIFEST, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Server, When},
    mirror::{Mirror, UPSTREAM},
    wire::exchange,
};

/// One request to a mirror, and the status it should have.
type Case = (Method, String, Vec<(&'static str, String)>, u16);

fn cases(registry: &FakeRegistry) -> Vec<Case> {
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let blob = |digest: &dyn std::fmt::Display| format!("/v2/team/app/blobs/{digest}");
    let layer = blob(&image.layers[0]);
    let get = |path: &str, headers: &[(&'static str, &str)], status: u16| {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        (Method::GET, path.to_owned(), headers, status)
    };
    let same = format!("\"{}\"", image.layers[0]);
    let missing = format!("sha256:{}", "0".repeat(64));
    vec![
        get("/v2/", &[], 200),
        get("/v2", &[], 200),
        get(&manifest(1), &[], 200),
        get(&manifest(&image.manifest), &[], 200),
        get(&layer, &[], 200),
        get(&layer, &[("range", "bytes=2-")], 206),
        get(&layer, &[("range", "bytes=99-")], 416),
        get(&layer, &[("if-none-match", &same)], 304),
        get("/v2/team/app/tags/list", &[], 200),
        get("/v2/_catalog", &[], 200),
        get(&manifest(2), &[], 404),
        get(&blob(&missing), &[], 404),
        get("/v2/BAD/manifests/1", &[], 400),
        get("/nothing", &[], 404),
        (Method::HEAD, manifest(1), vec![], 200),
        (Method::HEAD, layer, vec![], 200),
        (Method::HEAD, manifest(2), vec![], 404),
        (Method::POST, "/v2/team/app/blobs/uploads/".to_owned(), vec![], 405),
        (Method::DELETE, manifest(1), vec![], 405),
    ]
}

#[tokio::test]
async fn the_headers_of_every_answer() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let mut ids = HashSet::new();
    for (method, path, headers, status) in cases(&registry) {
        for namespace in [None, Some(UPSTREAM)] {
            let target = namespace.map_or(path.clone(), |name| format!("{path}?ns={name}"));
            let mut line: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
            line.push(("content-length", "0"));
            let answer = exchange(mirror.address(), &format!("{method} {target}"), &line).await;
            let what = format!("{method} {target}: {answer:?}");
            assert_eq!(answer.status, status, "{what}");
            assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"), "{what}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
            assert_eq!(answer.header("content-security-policy"), Some("default-src 'none'; sandbox"), "{what}");
            assert!(answer.header("via").is_some_and(|via| via.starts_with("1.1 forebay-")), "{what}");
            assert!(ids.insert(answer.header("x-request-id").unwrap().to_owned()), "an id comes twice: {what}");
            // What has no route has no upstream either.
            let scoped = namespace.filter(|_| !matches!(&*path, "/nothing" | "/v2/BAD/manifests/1"));
            assert_eq!(answer.header("oci-namespace"), scoped, "{what}");
            let len = answer.header("content-length").map(|len| len.parse::<usize>().unwrap());
            if method == Method::HEAD || status == 304 {
                assert!(answer.body.is_empty(), "{what}");
            } else {
                assert_eq!(len, Some(answer.body.len()), "{what}");
            }
            if (400..500).contains(&status) && method != Method::HEAD {
                let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                let error = json["errors"][0].as_object().unwrap();
                assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
                assert!(error["code"].is_string() && error["message"].is_string(), "{what}");
                assert!(error.contains_key("detail"), "{what}");
            }
            assert_eq!(answer.header("transfer-encoding"), None, "{what}");
        }
    }
}

#[tokio::test]
async fn content_says_which_it_is() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    let layer = &image.layers[0];
    let of_blob = format!("/v2/team/app/blobs/{layer}");
    let cases = [
        (manifest(1), &image.manifest, image.manifest_bytes.len(), OCI_MANIFEST),
        (manifest(&image.manifest), &image.manifest, image.manifest_bytes.len(), OCI_MANIFEST),
        (of_blob.clone(), layer, 7, "application/octet-stream"),
    ];
    for (path, digest, len, media_type) in cases {
        // From nothing, by HEAD and by GET, and out of the cache: always the same.
        for method in [Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
            let answer = mirror.request(method.clone(), &path, &[]).await;
            assert_eq!(answer.status, 200, "{path}");
            let etag = format!("\"{digest}\"");
            for (name, value) in [
                ("docker-content-digest", digest.as_str()),
                ("etag", &etag),
                ("content-length", &len.to_string()),
                ("content-type", media_type),
            ] {
                assert_eq!(answer.header(name), Some(value), "{method} {path}: {name}");
            }
            let ranges = (path == of_blob).then_some("bytes");
            assert_eq!(answer.header("accept-ranges"), ranges, "{method} {path}");
            assert!(answer.header("cache-status").unwrap().starts_with("forebay; "));
            assert_eq!(answer.body.len(), if method == Method::GET { len } else { 0 });
        }
    }
}

#[tokio::test]
async fn the_base_answers_at_once_whatever_the_upstream_does() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for path in ["/v2/", "/v2", "/prefix/v2/", &format!("/v2/?ns={UPSTREAM}")] {
        let base = mirror.get(path).await;
        assert_eq!((base.status, base.text()), (200, "{}"), "{path}");
        assert_eq!(base.header("www-authenticate"), None);
    }
    assert!(registry.requests().is_empty());
    registry.take_down(Server::Api).await;
    assert_eq!((mirror.get("/v2/").await.status, mirror.head("/v2/").await.status), (200, 200));
}

#[tokio::test]
async fn nothing_of_the_upstreams_own_is_passed_on() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    let theirs = ["set-cookie", "server", "age", "x-cache", "strict-transport-security", "location", "cache-control"];
    for name in theirs {
        registry.fault(When::any(), Fault::Header(name, Some("theirs".to_owned())));
    }
    for path in [manifest(1), format!("/v2/team/app/blobs/{}", image.layers[0]), "/v2/team/app/tags/list".to_owned()] {
        for method in [Method::HEAD, Method::GET] {
            let answer = mirror.request(method, &path, &[]).await;
            assert_eq!(answer.status, 200);
            for name in theirs {
                assert_ne!(answer.header(name), Some("theirs"), "{path}: {name}");
            }
        }
    }
}
