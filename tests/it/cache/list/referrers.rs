//! What refers to a digest: by the upstream's endpoint or, where it has none, by the tag that stands for it; believed for
//! a while.

use std::time::Duration;

use forebay::oci::Digest;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    cache::list::{STALE, pages},
    push::put_manifest,
};
use forebay_test_support::manifest::OCI_INDEX;
use forebay_test_support::manifest::OCI_MANIFEST;
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    mirror::{Answer, Mirror},
    until::bounded,
};

pub const SIGNATURE: &str = "application/vnd.example.signature+json";
pub const SBOM: &str = "application/vnd.example.sbom";

/// A manifest that says something about another one.
pub fn artifact(subject: &Digest, artifact_type: &str, name: &str) -> String {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type, "layers": [],
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": format!("sha256:{}", "a".repeat(64)) },
        "subject": { "mediaType": OCI_MANIFEST, "size": 7, "digest": subject.as_str() }, "annotations": { "name": name },
    })
    .to_string()
}

/// A registry with an endpoint for referrers, an image, and the path that asks what refers to it.
async fn offering() -> (FakeRegistry, Digest, String) {
    let registry = FakeRegistry::start().await;
    registry.offer_referrers(true);
    let subject = registry.add_image("team/app", "1", &[]).manifest;
    let path = format!("/v2/team/app/referrers/{subject}");
    (registry, subject, path)
}

pub fn digests(answer: &Answer) -> Vec<String> {
    let index: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (answer.status, answer.header("content-type"), &index["mediaType"]),
        (200, Some(OCI_INDEX), &json!(OCI_INDEX))
    );
    index["manifests"].as_array().unwrap().iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn referrers_are_cached_for_their_ttl() {
    for (ttl, asked, status) in [(3600, 1, "forebay; hit"), (0, 4, "forebay; fwd=miss")] {
        let (registry, subject, path) = offering().await;
        let signature = registry.add_manifest("team/app", OCI_MANIFEST, artifact(&subject, SIGNATURE, "1"));
        let ttl = Duration::from_secs(ttl);
        let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = ttl).start().await;
        let first = mirror.get(&path).await;
        assert_eq!(
            (digests(&first), first.header("cache-status")),
            (vec![signature.to_string()], Some("forebay; fwd=miss"))
        );
        for _ in 0..2 {
            let again = mirror.get(&format!("{path}?ns=fake.example")).await;
            assert_eq!((again.body, again.headers["cache-status"].to_str().unwrap()), (first.body.clone(), status));
        }
        let head = mirror.head(&path).await;
        assert_eq!((head.status, head.header("content-length")), (200, first.header("content-length")));
        assert_eq!(head.header("content-type"), Some(OCI_INDEX));
        assert_eq!(registry.requests().len(), asked, "{ttl:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_requests_for_referrers_cost_one() {
    let (registry, _, path) = offering().await;
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::referrers(), Fault::HoldHead(gate.clone()));
    let all = join_all((0..20).map(|_| mirror.get(&path)));
    let open = async {
        gate.reached().await;
        gate.open();
    };
    let (answers, ()) = bounded(async { tokio::join!(all, open) }).await;
    assert!(answers.iter().all(|answer| digests(answer).is_empty()));
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn each_filter_is_a_list_of_its_own_and_the_upstream_applies_it() {
    let (registry, subject, path) = offering().await;
    let add = |kind: &str, name: &str| registry.add_manifest("team/app", OCI_MANIFEST, artifact(&subject, kind, name));
    let (signature, sbom) = (add(SIGNATURE, "1").to_string(), add(SBOM, "1").to_string());
    let mirror = Mirror::of(&registry).await;
    let mut both = vec![signature.clone(), sbom.clone()];
    both.sort();
    for _ in 0..2 {
        for (query, expected, applied) in [
            ("", both.clone(), None),
            ("?artifactType=application%2Fvnd.example.signature%2Bjson", vec![signature.clone()], Some("artifactType")),
            ("?artifactType=application/vnd.example.sbom", vec![sbom.clone()], Some("artifactType")),
            ("?artifactType=application/none", vec![], Some("artifactType")),
        ] {
            let found = mirror.get(&format!("{path}{query}")).await;
            assert_eq!((digests(&found), found.header("oci-filters-applied")), (expected, applied), "{query}");
        }
    }
    assert_eq!(registry.requests().len(), 4);
    assert!(registry.requests().iter().all(|request| request.header("accept") == Some(OCI_INDEX)));
}

#[tokio::test]
async fn all_pages_of_referrers_come_without_the_upstream_too() {
    let (registry, subject, path) = offering().await;
    let add =
        |number: u8| registry.add_manifest("team/app", OCI_MANIFEST, artifact(&subject, SBOM, &number.to_string()));
    let mut all: Vec<String> = (0..5).map(|number| add(number).to_string()).collect();
    all.sort();
    let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    let by_path = path.replace("/v2/", "/v2/fake.example/");
    for status in [Some("forebay; fwd=miss"), STALE] {
        for first in
            [format!("{path}?n=2&artifactType={SBOM}"), format!("{by_path}?n=2"), format!("{path}?n=2&ns=fake.example")]
        {
            let pages = pages(&mirror, &first).await;
            assert_eq!(pages.iter().map(|page| digests(page).len()).collect::<Vec<_>>(), [2, 2, 1], "{first}");
            assert_eq!(pages.iter().flat_map(digests).collect::<Vec<_>>(), all, "{first}");
            assert!(pages.iter().all(|page| page.header("cache-status") == status), "{first}");
        }
        registry.take_down(Server::Api).await;
    }
}

#[tokio::test]
async fn an_outage_leaves_the_last_answer_and_a_refusal_leaves_none() {
    let (registry, subject, path) = offering().await;
    registry.add_manifest("team/app", OCI_MANIFEST, artifact(&subject, SIGNATURE, "1"));
    let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    let good = mirror.get(&path).await;
    for fault in [Fault::status(500), Fault::too_many("9"), Fault::Disconnect] {
        registry.heal();
        registry.fault(When::any(), fault.clone());
        let stale = mirror.get(&path).await;
        assert_eq!((stale.status, stale.header("cache-status"), &stale.body), (200, STALE, &good.body), "{fault:?}");
        assert_ne!(
            mirror.get(&format!("{path}?artifactType=x/y")).await.status,
            200,
            "no client requested that before"
        );
    }
    for status in [401, 403] {
        registry.heal();
        assert_eq!(mirror.get(&path).await.status, 200);
        registry.fault(When::any(), Fault::status(status));
        assert_eq!(mirror.get(&path).await.status, 403, "{status}");
        registry.heal();
        registry.fault(When::any(), Fault::status(503));
        assert_eq!(mirror.get(&path).await.status, 502, "{status}");
    }
}

#[tokio::test]
async fn what_is_pushed_through_the_mirror_refers_at_once() {
    let (registry, subject, path) = offering().await;
    let hour = Duration::from_secs(3600);
    let believing = Mirror::build(&registry).config(|config| {
        config.upstreams[0].push = true;
        config.cache.tag_ttl = hour;
        config.cache.negative_ttl = hour;
    });
    let mirror = believing.start().await;
    let filtered = format!("{path}?artifactType={SBOM}");
    assert_eq!((digests(&mirror.get(&path).await).len(), digests(&mirror.get(&filtered).await).len()), (0, 0));
    let sbom = artifact(&subject, SBOM, "1");
    let digest = crate::push::digest(sbom.as_bytes());
    let put = put_manifest(&mirror, digest.as_str(), &sbom).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, Some(subject.as_str())));
    for path in [&path, &filtered] {
        assert_eq!(digests(&mirror.get(path).await), [digest.as_str()]);
    }
    let delete = format!("/v2/team/app/manifests/{digest}");
    assert_eq!(mirror.request(http::Method::DELETE, &delete, &[]).await.status, 202);
    assert_eq!(digests(&mirror.get(&path).await).len(), 0);
}
