//! Requests that forebay refuses without a request to an upstream.

use super::Two;
use forebay_test_support::{
    mirror::Answer,
    wire::{exchange, send},
};

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
        // No namespace at Docker Hub looks so: the client means a registry that is not configured.
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
        // The next reader could take these for another path.
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
async fn an_invalid_request_reaches_no_upstream() {
    let two = Two::start().await;
    for line in ["GET /v2/a b/manifests/1", "GET", "\u{1}"] {
        let answer = exchange(two.mirror.address(), line, &[]).await;
        assert_eq!(answer.status, 400, "{line:?}");
    }
    // A proxy's form of the request line.
    assert_eq!(two.ask("http://whatever.lan/v2/a/b/manifests/1", "mirror.lan").await.status, 404);
    assert_eq!(two.seen(), ["hub /v2/a/b/manifests/1"]);
}

#[tokio::test]
async fn requests_that_name_no_host_or_two_are_refused() {
    let two = Two::start().await;
    let manifest = "/v2/a/b/manifests/1";
    for request in [
        format!("GET {manifest} HTTP/1.1\r\n"),
        "GET /v2/ HTTP/1.1\r\n".to_owned(),
        "GET /no/registry HTTP/1.1\r\n".to_owned(),
        format!("GET {manifest} HTTP/1.1\r\nHost: team.lan\r\nHost: mirror.lan\r\n"),
        format!("GET {manifest} HTTP/1.1\r\nHost: team.lan\r\nhost: team.lan\r\n"),
        format!("GET {manifest} HTTP/1.0\r\nHost: team.lan\r\nHost: team.lan\r\n"),
        format!("GET {manifest} HTTP/1.1\r\nHost:\r\n"),
        format!("GET {manifest} HTTP/1.1\r\nHost: team.lan/a\r\n"),
        format!("GET {manifest} HTTP/1.1\r\nHost: team.lan, mirror.lan\r\n"),
        format!("GET {manifest} HTTP/1.1\r\nHost: user@team.lan\r\n"),
        format!("GET {manifest} HTTP/1.0\r\nHost: team.lan:x\r\n"),
        format!("GET http://team.lan{manifest} HTTP/1.1\r\n"),
        format!("GET http://user@team.lan{manifest} HTTP/1.1\r\nHost: team.lan\r\n"),
        format!("PUT {manifest} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}GET /v2/ HTTP/1.1\r\nHost: a\r\n"),
    ] {
        let answer = send(two.mirror.address(), &format!("{request}Connection: close\r\n\r\n")).await;
        assert_refused(&answer, 400, "UNSUPPORTED", &request);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    assert!(two.seen().is_empty(), "{:?}", two.seen());
}

#[tokio::test]
async fn the_host_of_an_absolute_form_counts_and_not_host() {
    let two = Two::start().await;
    for (request, seen) in [
        ("GET http://team.lan/v2/a/b/manifests/1 HTTP/1.1\r\nHost: mirror.lan\r\n", "team"),
        ("GET http://mirror.lan/v2/a/b/manifests/2 HTTP/1.1\r\nHost: team.lan\r\n", "hub"),
        ("GET http://team.lan/v2/a/b/manifests/3 HTTP/1.0\r\n", "team"),
        ("GET /v2/a/b/manifests/4 HTTP/1.0\r\n", "hub"),
        ("GET /v2/a/b/manifests/5 HTTP/1.0\r\nHost: team.lan\r\n", "team"),
        ("GET /v2/a/b/manifests/6 HTTP/1.1\r\nHost: team.lan:\r\n", "team"),
    ] {
        let answer = send(two.mirror.address(), &format!("{request}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 404, "{request}");
        let (hub, team) = (!two.hub.requests().is_empty(), !two.team.requests().is_empty());
        assert_eq!((hub, team), (seen == "hub", seen == "team"), "{request}");
        two.forget();
    }
}

#[tokio::test]
async fn http2_names_one_host() {
    let two = Two::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
    let client = client.resolve("team.lan", two.mirror.address()).build().unwrap();
    let port = two.mirror.address().port();
    for (tag, (host, status)) in [
        (format!("team.lan:{port}"), 404),
        (format!("TEAM.lan:{port}"), 404),
        ("team.lan".to_owned(), 400),
        (format!("mirror.lan:{port}"), 400),
        ("team.lan/".to_owned(), 400),
    ]
    .into_iter()
    .enumerate()
    {
        let url = format!("http://team.lan:{port}/v2/a/b/manifests/{tag}");
        let answer = client.get(&url).header("host", &host).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (status, http::Version::HTTP_2), "{host}");
        assert_eq!(!two.team.requests().is_empty(), status == 404, "{host}");
        two.forget();
    }
}
