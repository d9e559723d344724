//! What changes something is passed on to the upstream, and only there.

pub mod authorization;
pub mod capture;
pub mod invalidation;
pub mod permit;
pub mod refused;
pub mod session;
pub mod streaming;

use forebay::oci::{Algorithm, Digest};
use http::Method;
use serde_json::{Value, json};

use forebay_test_support::manifest::OCI_MANIFEST;
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::{Answer, Builder, Mirror},
};

pub const UPLOADS: &str = "/v2/team/app/blobs/uploads/";

/// A mirror of this registry that takes pushes.
fn build(registry: &FakeRegistry) -> Builder {
    Mirror::build(registry).config(|config| config.upstreams[0].push = true)
}

async fn mirror_of(registry: &FakeRegistry) -> Mirror {
    build(registry).start().await
}

pub fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// Where an answer says to go on.
fn location(answer: &Answer) -> String {
    answer.header("location").unwrap_or_else(|| panic!("no Location: {answer:?}")).to_owned()
}

/// The end of an upload: its place, with the digest of the whole.
fn with_digest(location: &str, digest: &Digest) -> String {
    format!("{location}{}digest={digest}", if location.contains('?') { '&' } else { '?' })
}

async fn begin(mirror: &Mirror) -> String {
    let begun = mirror.request(Method::POST, UPLOADS, &[]).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    location(&begun)
}

/// Pushes a blob in one go.
async fn push_blob(mirror: &Mirror, repository: &str, content: &[u8]) -> Digest {
    let begun = mirror.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), &[]).await;
    let digest = digest(content);
    let put = mirror.send(Method::PUT, &with_digest(&location(&begun), &digest), &[], content.to_vec()).await;
    assert_eq!(put.status, 201, "{put:?}");
    digest
}

pub async fn put_manifest(mirror: &Mirror, reference: &str, content: &str) -> Answer {
    let path = format!("/v2/team/app/manifests/{reference}");
    mirror.send(Method::PUT, &path, &[("content-type", OCI_MANIFEST)], content.to_owned()).await
}

#[tokio::test]
async fn a_blob_is_pushed_in_every_way_the_specification_knows() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;

    // POST, PATCH, PATCH, status, PUT.
    let begun = mirror.request(Method::POST, UPLOADS, &[]).await;
    assert_eq!((begun.status, begun.header("range")), (202, Some("0-0")));
    assert_eq!(begun.header("docker-upload-uuid"), Some("upload-1"));
    assert_eq!(begun.header("oci-chunk-min-length"), Some("7"));
    assert_eq!((begun.header("set-cookie"), begun.header("server")), (None, None));
    assert_eq!(begun.header("content-length"), Some("0"));
    let first = location(&begun);
    assert!(first.starts_with(&format!("{UPLOADS}upload-1?_state=")), "{first}");
    let port = registry.url().port().unwrap().to_string();
    assert!(!first.contains(&port), "it tells nothing of where the upstream is");
    let patched = mirror.send(Method::PATCH, &first, &[("content-range", "0-3")], "some").await;
    assert_eq!((patched.status, patched.header("range")), (202, Some("0-3")));
    let skipped = mirror.send(Method::PATCH, &location(&patched), &[("content-range", "9-9")], "x").await;
    assert_eq!((skipped.status, skipped.header("range")), (416, Some("0-3")));
    let asked = mirror.get(&location(&skipped)).await;
    assert_eq!((asked.status, asked.header("range"), asked.header("content-length")), (204, Some("0-3"), None));
    let whole = digest(b"some content");
    let put = mirror.send(Method::PUT, &with_digest(&location(&asked), &whole), &[], " content").await;
    assert_eq!((put.status, put.header("docker-content-digest")), (201, Some(whole.as_str())));
    assert_eq!(location(&put), format!("/v2/team/app/blobs/{whole}"));
    assert_eq!(mirror.get(&location(&put)).await.text(), "some content");

    // POST alone; a digest of another algorithm; nothing at all.
    let sha512 = Digest::of(Algorithm::Sha512, b"other");
    for (digest, content) in [(digest(b"more"), "more"), (sha512, "other"), (digest(b""), "")] {
        let posted = mirror.send(Method::POST, &format!("{UPLOADS}?digest={digest}"), &[], content).await;
        assert_eq!((posted.status, &*location(&posted)), (201, &*format!("/v2/team/app/blobs/{digest}")));
        assert_eq!(registry.blob("team/app", &digest).unwrap(), content);
    }
    let wrong = mirror.send(Method::POST, &format!("{UPLOADS}?digest={whole}"), &[], "not that").await;
    assert_eq!((wrong.status, &*wrong.error_code()), (400, "DIGEST_INVALID"));
    assert!(wrong.text().contains("so says the registry"), "the upstream's own words");

    // Mounted, or not.
    let base = registry.add_blob("team/base", "base");
    for (query, status) in [
        (format!("mount={base}&from=team%2Fbase"), 201),
        (format!("mount={base}&from=fake.example%2Fteam%2Fbase"), 201),
        (format!("mount={base}&from=team%2Fother"), 202),
        (format!("mount={base}"), 202),
    ] {
        let mounted = mirror.request(Method::POST, &format!("{UPLOADS}?{query}"), &[]).await;
        assert_eq!(mounted.status, status, "{query}");
        if status == 201 {
            assert_eq!(location(&mounted), format!("/v2/team/app/blobs/{base}"));
        }
    }

    // Cancelled.
    let begun = begin(&mirror).await;
    assert_eq!(mirror.request(Method::DELETE, &begun, &[]).await.status, 204);
    let gone = mirror.send(Method::PATCH, &begun, &[], "more").await;
    assert_eq!((gone.status, &*gone.error_code()), (404, "BLOB_UPLOAD_UNKNOWN"));

    mirror
        .until_metric("forebay_requests_total", &[("operation", "push"), ("outcome", "bypass"), ("status", "416")], 1.0)
        .await;
    for request in registry.requests() {
        assert!(request.header("via").is_some_and(|via| via.contains("forebay-")), "{request:?}");
    }
}

#[tokio::test]
async fn a_manifest_is_put_and_what_the_upstream_tells_of_it_arrives() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let subject = digest(b"subject");
    let content = format!(r#"{{"schemaVersion":2,"subject":{{"digest":"{subject}"}}}}"#);
    let named = digest(content.as_bytes());
    let put = put_manifest(&mirror, "1", &content).await;
    assert_eq!((put.status, &*location(&put)), (201, "/v2/team/app/manifests/1"));
    assert_eq!(put.header("docker-content-digest"), Some(named.as_str()));
    assert_eq!(put.header("oci-subject"), Some(subject.as_str()));
    let put = put_manifest(&mirror, &format!("{named}?tag=2&tag=3"), &content).await;
    assert_eq!((put.status, &*location(&put)), (201, &*format!("/v2/team/app/manifests/{named}")));
    let tags: Vec<_> = put.headers.get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["2", "3"]);
    for reference in ["1", "2", "3", named.as_str()] {
        let got = mirror.get_with(&format!("/v2/team/app/manifests/{reference}"), &[("accept", OCI_MANIFEST)]).await;
        assert_eq!((got.status, got.text(), got.header("content-type")), (200, &*content, Some(OCI_MANIFEST)));
    }
    let refused = put_manifest(&mirror, "1", "nonsense").await;
    assert_eq!((refused.status, &*refused.error_code()), (400, "MANIFEST_INVALID"));
    // What the endpoints do not have.
    for (method, path) in [
        (Method::POST, "/v2/team/app/manifests/1"),
        (Method::PATCH, "/v2/team/app/manifests/1"),
        (Method::DELETE, "/v2/team/app/tags/list"),
        (Method::PUT, UPLOADS),
        (Method::GET, UPLOADS),
    ] {
        let asked = registry.requests().len();
        assert_eq!(mirror.request(method.clone(), path, &[]).await.status, 405, "{method} {path}");
        assert_eq!(registry.requests().len(), asked);
    }
}

/// However the client found the upstream, it comes back the same way.
#[tokio::test]
async fn a_location_keeps_the_way_the_client_came() {
    let (hub, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"hub.example\"\nurls = [\"{}\"]\ndefault = true\npush = true\n\
         [[upstream]]\nname = \"other.example:5000\"\nurls = [\"{}\"]\npush = true\nhosts = [\"other.lan\"]\n",
        hub.url(),
        other.url()
    ))
    .start()
    .await;
    let content = b"content";
    let digest = digest(content);
    for (front, query, host) in [
        ("/v2/other.example:5000/team/app", "", "mirror.lan"),
        ("/prefix/v2/other.example:5000/team/app", "", "mirror.lan"),
        ("/v2/team/app", "?ns=other.example%3A5000", "mirror.lan"),
        ("/v2/team/app", "", "other.lan"),
    ] {
        let headers = [("host", host)];
        let begun = mirror.request(Method::POST, &format!("{front}/blobs/uploads/{query}"), &headers).await;
        let place = location(&begun);
        assert!(place.starts_with(&format!("{front}/blobs/uploads/upload-")), "{place}");
        let patched = mirror.send(Method::PATCH, &place, &headers, &content[..]).await;
        assert_eq!(patched.status, 202, "{place}");
        let put = mirror.send(Method::PUT, &with_digest(&location(&patched), &digest), &headers, "").await;
        assert_eq!((put.status, location(&put)), (201, format!("{front}/blobs/{digest}{query}")));
        assert_eq!(mirror.get_with(&location(&put), &headers).await.body, &content[..]);
        other.remove_blob("team/app", &digest);
    }
    assert!(hub.requests().is_empty());
}

/// A registry that pushes are passed on to may still be refused by its upstream; its status and its errors are passed on.
#[tokio::test]
async fn an_answer_is_the_upstreams_own() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    for (status, errors) in [
        (403, json!([{ "code": "DENIED", "message": "read only", "detail": null }])),
        (
            413,
            json!([{ "code": "SIZE_INVALID", "message": "the upstream answers 413 Payload Too Large", "detail": null }]),
        ),
        (429, json!([{ "code": "TOOMANYREQUESTS", "message": "slower", "detail": { "a": 1 } }])),
        (
            500,
            json!([{ "code": "UNKNOWN", "message": "no", "detail": null }, { "code": "X", "message": "so", "detail": 2 }]),
        ),
    ] {
        let told = json!({ "errors": errors });
        let body = if status == 413 { json!({ "errors": [] }) } else { json!({ "errors": errors, "more": 2 }) };
        let headers = vec![("retry-after", "7".to_owned()), ("set-cookie", "a=b".to_owned())];
        let answer = Fault::Answer { status, headers, body: body.to_string() };
        registry.fault(When::any(), answer);
        for answer in [
            mirror.request(Method::POST, UPLOADS, &[]).await,
            put_manifest(&mirror, "1", "{}").await,
            mirror.request(Method::DELETE, "/v2/team/app/manifests/1", &[]).await,
        ] {
            let json: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!((answer.status, &json, answer.header("retry-after")), (status, &told, Some("7")));
            assert_eq!(answer.header("set-cookie"), None);
        }
        registry.heal();
    }
    registry.fault(When::uploads(), Fault::Disconnect);
    let broken = mirror.request(Method::POST, UPLOADS, &[]).await;
    assert_eq!((broken.status, &*broken.error_code()), (502, "UNAVAILABLE"));
}

/// A second URL is for reading: what is written there while the first is down would be missing at the first.
#[tokio::test]
async fn a_push_goes_to_the_first_url_alone() {
    use forebay_test_support::fake_registry::Server;
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = build(&first).config(|config| config.upstreams[0].urls.push(second.url())).start().await;
    push_blob(&mirror, "team/app", b"content").await;
    first.take_down(Server::Api).await;
    assert_eq!(mirror.request(Method::POST, UPLOADS, &[]).await.status, 502);
    assert!(second.requests().is_empty());
}

/// Two mirrors in a row: to a client that pushes, what the inner one would have to fetch is not there.
#[tokio::test]
async fn a_blob_that_head_does_not_find_is_not_there() {
    let registry = FakeRegistry::start().await;
    let inner = mirror_of(&registry).await;
    let outer = Mirror::parse(&format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\npush = true\n",
        inner.url()
    ))
    .start()
    .await;
    // Cached at the inner one by way of another repository.
    let blob = registry.add_blob("team/source", "content");
    assert_eq!(inner.get(&format!("/v2/team/source/blobs/{blob}")).await.text(), "content");
    registry.forget_requests();
    for mirror in [&inner, &outer] {
        assert_eq!(mirror.head(&format!("/v2/team/app/blobs/{blob}")).await.status, 404);
        let asked: Vec<_> = registry.requests().into_iter().map(|request| request.method).collect();
        assert_eq!(asked, [Method::HEAD]);
        registry.forget_requests();
    }
    push_blob(&outer, "team/app", b"content").await;
    assert_eq!(outer.head(&format!("/v2/team/app/blobs/{blob}")).await.status, 200);
}

#[tokio::test]
async fn an_upstreams_page_is_never_the_answer_to_a_push() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let errors = r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}"#;
    let page = "<script>alert(1)</script>";
    for (status, kind, body, code) in [
        (400, "text/html", errors, Some("MANIFEST_INVALID")),
        (400, "text/html", page, Some("UNSUPPORTED")),
        (403, "image/svg+xml", page, Some("DENIED")),
        (404, "application/json", r#"{"error": "none"}"#, Some("NAME_UNKNOWN")),
        (413, "text/html", page, Some("SIZE_INVALID")),
        (429, "text/xml", "", Some("TOOMANYREQUESTS")),
        (500, "text/html", page, Some("UNAVAILABLE")),
        (201, "text/html", page, None),
    ] {
        let headers = vec![("content-type", kind.to_owned())];
        registry.fault_times(
            1,
            When::manifests().method(Method::PUT),
            Fault::Answer { status, headers, body: body.to_owned() },
        );
        let answer = put_manifest(&mirror, "1", "{}").await;
        assert_eq!(answer.status, status, "{answer:?}");
        let json = code.map(|_| "application/json");
        assert_eq!((answer.header("content-type"), answer.header("x-content-type-options")), (json, Some("nosniff")));
        match code {
            Some(code) => assert_eq!(answer.error_code(), code),
            None => assert_eq!(answer.text(), ""),
        }
    }
}
