//! What is refused before anybody is asked.

use super::Two;
use crate::support::{mirror::Answer, wire::exchange};

fn assert_refused(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()), "{what}");
    assert_eq!(answer.error_code(), code, "{what}");
}

#[tokio::test]
async fn what_no_upstream_is_called_is_never_asked() {
    let two = Two::start().await;
    let digest = format!("sha256:{}", "a".repeat(64));
    for target in [
        "/v2/a/b/manifests/1?ns=evil.example".to_owned(),
        "/v2/a/b/manifests/1?ns=127.0.0.1:22".to_owned(),
        "/v2/a/b/manifests/1?ns=hub.example.evil".to_owned(),
        "/v2/a/b/manifests/1?ns=hub.example/../evil".to_owned(),
        "/v2/a/b/manifests/1?ns=evil.example&ns=hub.example".to_owned(),
        format!("/v2/a/b/blobs/{digest}?ns=evil.example"),
        "/v2/a/b/tags/list?ns=evil.example".to_owned(),
        format!("/v2/a/b/referrers/{digest}?ns=evil.example"),
        "/v2/_catalog?ns=evil.example".to_owned(),
        "/v2/?ns=evil.example".to_owned(),
        // Nobody's namespace at Docker Hub looks so: a registry is meant that is not configured.
        "/v2/evil.example/a/b/manifests/1".to_owned(),
        "/v2/localhost/a/manifests/1".to_owned(),
        format!("/v2/evil.example:443/a/blobs/{digest}"),
        "/v2/evil.example/manifests/1".to_owned(),
        "/v2/localhost/tags/list".to_owned(),
        "/evil.example/v2/a/manifests/1".to_owned(),
    ] {
        assert_refused(&two.ask(&target, "mirror.lan").await, 404, "NAME_UNKNOWN", &target);
    }
    assert!(two.seen().is_empty(), "{:?}", two.seen());
    let labels = [("upstream", "none"), ("status", "404"), ("outcome", "bypass")];
    two.mirror.until_metric("forebay_requests_total", &labels, 16.0).await;
}

#[tokio::test]
async fn names_tags_and_digests_that_are_none() {
    let two = Two::start().await;
    let short = "sha256:abc";
    for (target, code) in [
        ("/v2/A/b/manifests/1", "NAME_INVALID"),
        ("/v2/a/b_/manifests/1", "NAME_INVALID"),
        ("/v2/a/-b/manifests/1", "NAME_INVALID"),
        ("/v2/a/b..c/manifests/1", "NAME_INVALID"),
        ("/v2/a//b/manifests/1", "NAME_INVALID"),
        ("/v2//a/manifests/1", "NAME_INVALID"),
        (&format!("/v2/a/b/manifests/{short}"), "DIGEST_INVALID"),
        (&format!("/v2/a/b/blobs/{short}"), "DIGEST_INVALID"),
        (&format!("/v2/a/b/blobs/md5:{}", "a".repeat(32)), "DIGEST_INVALID"),
        (&format!("/v2/a/b/blobs/sha256:{}", "A".repeat(64)), "DIGEST_INVALID"),
        (&format!("/v2/a/b/blobs/sha512:{}", "a".repeat(64)), "DIGEST_INVALID"),
        (&format!("/v2/a/b/referrers/{short}"), "DIGEST_INVALID"),
        // What could be taken for another path by whoever reads it next.
        ("/v2/a%252Fb/manifests/1", "NAME_INVALID"),
        ("/v2/a/%252e%252e/manifests/1", "NAME_INVALID"),
        ("/v2/../a/manifests/1", "NAME_INVALID"),
        ("/v2/a/../../b/manifests/1", "NAME_INVALID"),
        ("/v2/a/./b/manifests/1", "NAME_INVALID"),
        ("/v2/a/%2e%2e/b/manifests/1", "NAME_INVALID"),
        ("/v2/a/..%2f..%2fb/manifests/1", "NAME_INVALID"),
        ("/v2/a%5Cb/manifests/1", "NAME_INVALID"),
        ("/v2/a%00/manifests/1", "NAME_INVALID"),
        ("/v2/a%0d%0ax/manifests/1", "NAME_INVALID"),
        ("/v2/%ff/manifests/1", "NAME_INVALID"),
        ("/v2/a/b/manifests/1/", "NAME_INVALID"),
        ("/../v2/a/b/manifests/1", "NAME_INVALID"),
    ] {
        for target in [target.to_owned(), format!("{target}?ns=team")] {
            assert_refused(&two.ask(&target, "mirror.lan").await, 400, code, &target);
        }
    }
    // There is no manifest by a tag that is none, as registries say; and none can be made.
    for tag in [".INVALID_MANIFEST_NAME", ".1", "-1", "a+b", &"a".repeat(129)] {
        let target = format!("/v2/a/b/manifests/{tag}");
        assert_refused(&two.ask(&target, "mirror.lan").await, 404, "MANIFEST_UNKNOWN", &target);
        assert_eq!(two.mirror.request(http::Method::HEAD, &target, &[]).await.status, 404, "{target}");
        for method in [http::Method::PUT, http::Method::DELETE] {
            assert_refused(&two.mirror.request(method, &target, &[]).await, 400, "TAG_INVALID", &target);
        }
    }
    assert!(two.seen().is_empty(), "{:?}", two.seen());
}

#[tokio::test]
async fn what_is_no_path_of_a_registry() {
    let two = Two::start().await;
    for target in
        ["/", "/v1/_ping", "/metrics", "/v2x/", "/v2/a", "/v2/a/b/manifest/1", "/v2/a/b/tags", "/v2/a/b/blobs"]
    {
        assert_refused(&two.ask(target, "mirror.lan").await, 404, "NAME_UNKNOWN", target);
    }
    for line in ["PUT /v2/", "POST /v2/", "DELETE /v2/_catalog"] {
        let refused = exchange(two.mirror.address(), line, &[]).await;
        assert_refused(&refused, 405, "UNSUPPORTED", line);
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    }
    assert!(two.seen().is_empty(), "{:?}", two.seen());
}

#[tokio::test]
async fn a_request_that_is_no_http_reaches_nobody() {
    let two = Two::start().await;
    for line in ["GET /v2/a b/manifests/1", "GET", "\u{1}"] {
        let answer = exchange(two.mirror.address(), line, &[]).await;
        assert_eq!(answer.status, 400, "{line:?}");
    }
    // A proxy's form of the request line: the path is what counts, not the host in it.
    assert_eq!(two.ask("http://evil.example/v2/a/b/manifests/1", "mirror.lan").await.status, 404);
    assert_eq!(two.seen(), ["hub /v2/a/b/manifests/1"]);
}
