//! An upstream without an endpoint for referrers has them under a tag.

use std::time::Duration;

use forebay::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::cache::list::STALE;
use crate::cache::list::referrers::{SBOM, SIGNATURE, digests};
use forebay_test_support::manifest::OCI_INDEX;
use forebay_test_support::manifest::OCI_MANIFEST;
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Server, When},
    mirror::Mirror,
};

const HOUR: Duration = Duration::from_secs(3600);

/// An index as clients make it, with more in it than forebay has to know.
fn index() -> (String, [Value; 3]) {
    let descriptor = |artifact_type: &str, hex: &str| {
        json!({
            "mediaType": OCI_MANIFEST, "artifactType": artifact_type, "size": 7, "digest": format!("sha256:{}", hex.repeat(64)),
            "annotations": { "org.opencontainers.image.created": "2026-01-01T00:00:00Z" },
        })
    };
    let all = [descriptor(SIGNATURE, "1"), descriptor(SBOM, "2"), descriptor(SIGNATURE, "3")];
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": all });
    (serde_json::to_string_pretty(&index).unwrap(), all)
}

fn tag_of(subject: &Digest) -> String {
    subject.as_str().replace(':', "-")
}

/// A registry that never heard of referrers, an image in it, and the path that asks what refers to it.
async fn old_registry() -> (FakeRegistry, Digest, String) {
    let registry = FakeRegistry::start().await;
    let subject = registry.add_image("team/app", "1", &[]).manifest;
    let path = format!("/v2/team/app/referrers/{subject}");
    (registry, subject, path)
}

#[tokio::test]
async fn the_index_is_given_as_it_is_or_filtered_here() {
    let (registry, subject, path) = old_registry().await;
    let (stored, [one, two, three]) = index();
    let pushed = registry.add_manifest("team/app", OCI_INDEX, stored.clone());
    registry.tag("team/app", &tag_of(&subject), &pushed);
    let mirror = Mirror::build(&registry).config(|config| config.cache.negative_ttl = HOUR).start().await;
    let whole = mirror.get(&path).await;
    assert_eq!((whole.status, whole.text(), whole.header("content-type")), (200, &*stored, Some(OCI_INDEX)));
    assert_eq!((whole.header("oci-filters-applied"), whole.header("cache-status")), (None, Some("forebay; fwd=miss")));
    for (query, left) in [
        ("artifactType=application%2Fvnd.example.signature%2Bjson", vec![&one, &three]),
        ("artifactType=application/vnd.example.sbom", vec![&two]),
        ("artifactType=application/none", vec![]),
    ] {
        let filtered = mirror.get(&format!("{path}?{query}&ns=fake.example")).await;
        let index: Value = serde_json::from_slice(&filtered.body).unwrap();
        assert_eq!(index, json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": left }), "{query}");
        assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
        let head = mirror.head(&format!("{path}?{query}")).await;
        assert_eq!((head.status, head.header("content-length")), (200, filtered.header("content-length")));
    }
    // The tag was asked for once, and the endpoint once for each list.
    assert_eq!(registry.count(|request| request.path.contains("/manifests/")), 1);
    assert_eq!(registry.count(|request| request.path.contains("/referrers/")), 4);
    registry.forget_requests();
    let again = mirror.get(&path).await;
    assert_eq!((again.text(), again.header("cache-status")), (&*stored, Some("forebay; hit")));
    assert!(registry.requests().is_empty());
}

/// Some registries take the tag for the digest, and give the subject itself: what it lists is its platforms.
#[tokio::test]
async fn a_sha512_subject_under_its_tag_has_no_referrers() {
    let (registry, _, _) = old_registry().await;
    let (stored, _) = index();
    let subject = Digest::of(Algorithm::Sha512, stored.as_bytes());
    let stored_under = registry.add_manifest("team/app", OCI_INDEX, stored);
    registry.tag("team/app", &format!("sha512-{}", &subject.hex()[..64]), &stored_under);
    let path = format!("/v2/team/app/referrers/{subject}");
    let told = |digest: Option<&str>| Fault::Header("docker-content-digest", digest.map(str::to_owned));
    for claimed in [Some(stored_under.as_str()), Some(subject.as_str()), None] {
        let mirror = Mirror::of(&registry).await;
        registry.heal();
        registry.fault(When::manifests(), told(claimed));
        for query in ["", "?artifactType=a/b"] {
            let none = mirror.get(&format!("{path}{query}")).await;
            assert_eq!((none.status, digests(&none).len()), (200, 0), "{claimed:?} {query}");
        }
        // Another subject's tag that has the same content has referrers.
        let other = Digest::of(Algorithm::Sha512, b"other");
        registry.tag("team/app", &format!("sha512-{}", &other.hex()[..64]), &stored_under);
        let listed = mirror.get(&format!("/v2/team/app/referrers/{other}")).await;
        assert_ne!(digests(&listed).len(), 0, "{claimed:?}");
    }
}

#[tokio::test]
async fn nothing_refers_to_it_until_something_does() {
    let (registry, subject, path) = old_registry().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.negative_ttl = Duration::ZERO).start().await;
    for query in ["", "?artifactType=a/b"] {
        let none = mirror.get(&format!("{path}{query}")).await;
        assert_eq!(
            (digests(&none).len(), none.header("oci-filters-applied")),
            (0, (!query.is_empty()).then_some("artifactType"))
        );
    }
    assert_eq!(mirror.head(&path).await.status, 200);
    // An image under a tag of such a name is no index.
    registry.tag("team/app", &tag_of(&subject), &subject);
    assert_eq!(digests(&mirror.get(&path).await).len(), 0);
    registry.untag("team/app", &tag_of(&subject));
    let (mirror, (stored, all)) =
        (Mirror::build(&registry).config(|config| config.cache.negative_ttl = Duration::ZERO).start().await, index());
    assert_eq!(digests(&mirror.get(&path).await).len(), 0);
    let pushed = registry.add_manifest("team/app", OCI_INDEX, stored);
    registry.tag("team/app", &tag_of(&subject), &pushed);
    assert_eq!(digests(&mirror.get(&path).await).len(), all.len(), "that there was none is not believed");
    // And once there is an endpoint, it is asked.
    registry.offer_referrers(true);
    registry.add_manifest("team/app", OCI_MANIFEST, crate::cache::list::referrers::artifact(&subject, SBOM, "1"));
    assert_eq!(digests(&mirror.get(&path).await).len(), 1);
}

#[tokio::test]
async fn a_404_of_either_is_believed_for_negative_ttl() {
    let (registry, _, path) = old_registry().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.negative_ttl = HOUR).start().await;
    for _ in 0..3 {
        assert_eq!(digests(&mirror.get(&path).await).len(), 0);
    }
    let asked: Vec<String> = registry.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[tokio::test]
async fn every_way_to_say_that_there_is_no_such_endpoint() {
    for status in [404, 405, 400, 406] {
        let (registry, subject, path) = old_registry().await;
        registry.offer_referrers(true);
        registry.fault(When::referrers(), Fault::status(status));
        let (stored, all) = index();
        let pushed = registry.add_manifest("team/app", OCI_INDEX, stored);
        registry.tag("team/app", &tag_of(&subject), &pushed);
        let mirror = Mirror::of(&registry).await;
        assert_eq!(digests(&mirror.get(&path).await).len(), all.len(), "{status}");
    }
}

/// A client without a grant learns nothing about the repository, nor that it is empty.
#[tokio::test]
async fn a_refusal_is_no_empty_index() {
    for (when, status, expected) in [
        (When::referrers(), 401, 403),
        (When::referrers(), 403, 403),
        (When::manifests(), 401, 403),
        (When::manifests(), 403, 403),
        (When::manifests(), 503, 502),
        (When::referrers(), 503, 502),
    ] {
        let (registry, _, path) = old_registry().await;
        let mirror = Mirror::of(&registry).await;
        registry.fault(when.clone(), Fault::status(status));
        let refused = mirror.get(&path).await;
        assert_eq!(refused.status, expected, "{when:?} {status}: {}", refused.text());
    }
}

#[tokio::test]
async fn an_outage_leaves_what_the_tag_was() {
    let (registry, subject, path) = old_registry().await;
    let (stored, _) = index();
    let pushed = registry.add_manifest("team/app", OCI_INDEX, stored.clone());
    registry.tag("team/app", &tag_of(&subject), &pushed);
    let asking = Mirror::build(&registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.cache.negative_ttl = Duration::ZERO;
    });
    let mirror = asking.start().await;
    assert_eq!(mirror.get(&path).await.text(), stored);
    registry.take_down(Server::Api).await;
    let stale = mirror.get(&path).await;
    assert_eq!((stale.text(), stale.header("cache-status")), (&*stored, STALE));
}

#[tokio::test]
async fn an_outage_leaves_it_that_nothing_refers_until_it_is_refused() {
    let asking = |config: &mut forebay::config::Config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.cache.negative_ttl = Duration::ZERO;
    };
    for then in ["nothing", "refused"] {
        let (registry, _, path) = old_registry().await;
        let mirror = Mirror::build(&registry).config(asking).start().await;
        assert_eq!(digests(&mirror.get(&path).await).len(), 0);
        if then == "refused" {
            registry.fault(When::manifests(), Fault::status(403));
            assert_eq!(mirror.get(&path).await.status, 403);
        }
        registry.take_down(Server::Api).await;
        let answer = mirror.get(&path).await;
        if then == "nothing" {
            assert_eq!((digests(&answer).len(), answer.header("cache-status")), (0, STALE));
        } else {
            assert_eq!(answer.status, 502, "{then}");
        }
    }
}

/// By a 200, a client that attaches something takes it that the upstream keeps referrers, and leaves out the tag.
#[tokio::test]
async fn where_pushes_are_taken_the_tag_is_the_clients_own() {
    let (registry, subject, path) = old_registry().await;
    let mut mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    let (stored, _) = index();
    let put = async |mirror: &Mirror, reference: &str, media_type: &str, content: &str| {
        let path = format!("/v2/team/app/manifests/{reference}");
        let headers = [("content-type", media_type)];
        assert_eq!(mirror.send(http::Method::PUT, &path, &headers, content.to_owned()).await.status, 201);
    };
    // NAME_UNKNOWN would say that there is no such repository.
    let has_no_endpoint = async |mirror: &Mirror| {
        for query in ["", "?artifactType=a/b"] {
            let answer = mirror.get(&format!("{path}{query}")).await;
            assert_eq!((answer.status, &*answer.error_code()), (404, "UNSUPPORTED"));
            assert_eq!(mirror.head(&format!("{path}{query}")).await.status, 404);
        }
    };
    has_no_endpoint(&mirror).await;
    put(&mirror, "signature", OCI_MANIFEST, "{}").await;
    has_no_endpoint(&mirror).await;
    put(&mirror, &tag_of(&subject), OCI_INDEX, &stored).await;
    has_no_endpoint(&mirror).await;
    mirror.restart().await;
    has_no_endpoint(&mirror).await;
    let tag = format!("/v2/team/app/manifests/{}", tag_of(&subject));
    assert_eq!(mirror.get_with(&tag, &[("accept", OCI_INDEX)]).await.text(), stored);
    assert_eq!(mirror.request(http::Method::DELETE, &tag, &[]).await.status, 202);
    has_no_endpoint(&mirror).await;
    // An upstream that has the endpoint is asked.
    registry.offer_referrers(true);
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    assert_eq!(digests(&mirror.get(&path).await).len(), 0);
}

/// Each puts back what it read, with one entry more: what the other instance put meanwhile must be in it.
#[tokio::test]
async fn two_instances_lose_nothing_under_the_tag() {
    let (registry, subject, _) = old_registry().await;
    let believing = || {
        Mirror::build(&registry).config(|config| {
            config.upstreams[0].push = true;
            config.cache.tag_ttl = HOUR;
            config.cache.negative_ttl = HOUR;
        })
    };
    let mirrors = [believing().start().await, believing().start().await];
    let tag = format!("/v2/team/app/manifests/{}", tag_of(&subject));
    for at in 0..8 {
        // Read at one, put at the other.
        let [reader, writer] = &mirrors;
        let read = reader.get_with(&tag, &[("accept", OCI_INDEX)]).await;
        let mut manifests = match read.status {
            404 => vec![],
            200 => serde_json::from_slice::<Value>(&read.body).unwrap()["manifests"].as_array().unwrap().clone(),
            status => panic!("{status}"),
        };
        assert_eq!(manifests.len(), at);
        manifests.push(json!({ "mediaType": OCI_MANIFEST, "size": at, "digest": format!("sha256:{at:064}") }));
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests }).to_string();
        let put = writer.send(http::Method::PUT, &tag, &[("content-type", OCI_INDEX)], index).await;
        assert_eq!(put.status, 201);
    }
}

/// Some registries take such a tag for the digest that is in it.
#[tokio::test]
async fn the_subject_under_its_own_tag_refers_to_nothing() {
    let (registry, _, _) = old_registry().await;
    let subject = registry.add_manifest("team/app", OCI_INDEX, index().0);
    registry.tag("team/app", &tag_of(&subject), &subject);
    let mirror = Mirror::of(&registry).await;
    for query in ["", "?artifactType=application/vnd.example.sbom"] {
        let answer = mirror.get(&format!("/v2/team/app/referrers/{subject}{query}")).await;
        assert_eq!(digests(&answer).len(), 0, "{query}");
    }
}

/// Two megabytes, as a name with many signatures has: read once for each filter, and given the same each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_index_is_filtered_for_each_request() {
    let (registry, subject, path) = old_registry().await;
    let filler = "x".repeat(1000);
    let manifests: Vec<Value> = (0..2000)
        .map(
            |at| json!({ "artifactType": if at % 1000 == 0 { SBOM } else { SIGNATURE }, "digest": at, "data": filler }),
        )
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests }).to_string();
    let pushed = registry.add_manifest("team/app", OCI_INDEX, index);
    registry.tag("team/app", &tag_of(&subject), &pushed);
    let mirror = Mirror::of(&registry).await;
    let path = format!("{path}?artifactType={SBOM}");
    let answers = futures_util::future::join_all((0..8).map(|_| mirror.get(&path))).await;
    for answer in answers {
        let left: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(left["manifests"], json!([manifests[0], manifests[1000]]));
    }
}

#[tokio::test]
async fn a_warning_of_the_tag_passes_with_what_is_made_of_it() {
    let (registry, subject, path) = old_registry().await;
    let pushed = registry.add_manifest("team/app", OCI_INDEX, index().0);
    registry.tag("team/app", &tag_of(&subject), &pushed);
    let mirror = Mirror::of(&registry).await;
    let warning = r#"299 - "signatures move on Monday""#;
    registry.fault(When::manifests(), Fault::Header("warning", Some(warning.to_owned())));
    for query in ["", "?artifactType=application/vnd.example.sbom", "?artifactType=application/none", ""] {
        let answer = mirror.get(&format!("{path}{query}")).await;
        assert_eq!((answer.status, answer.header("warning")), (200, Some(warning)), "{query}");
    }
}
