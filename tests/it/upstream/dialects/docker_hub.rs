//! Docker Hub: the realm is another host, blobs are behind a CDN, pulls are counted.

use super::*;
use forebay_test_support::internet::dialect::Limit;
pub(super) use forebay_test_support::internet::registries::docker_hub::HUB;

#[tokio::test]
async fn public() {
    pulls_what_is_public(&HUB).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&HUB).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&HUB).await;
}

#[tokio::test]
async fn library_is_added_to_a_name_of_one_component() {
    let internet = Internet::of(&[HUB]).await;
    let forebay = Forebay::with(&internet, &[(&HUB, "")]).await;
    for path in
        ["/v2/docker.io/alpine/manifests/1", "/v2/index.docker.io/library/alpine/manifests/1", "/v2/alpine/manifests/1"]
    {
        assert_eq!(forebay.get(path).await.status, 200, "{path}");
    }
    assert_eq!(internet.count(|seen| seen.path_and_query.starts_with("/v2/alpine/")), 0);
}

#[tokio::test]
async fn pulls_are_counted_and_the_last_one_says_when_to_come_again() {
    let hub = Dialect { limit: HUB.limit.map(|limit| Limit { pulls: 1, ..limit }), ..HUB };
    let internet = Internet::of(&[hub]).await;
    let forebay = Forebay::with(&internet, &[(&hub, "")]).await;
    let image = internet.image(&hub, "library/alpine");
    for _ in 0..3 {
        assert_eq!(forebay.get("/v2/library/alpine/manifests/1").await.body, image.manifest_bytes);
    }
    let metrics = forebay.program.metrics().await;
    for line in [
        "forebay_upstream_ratelimit_limit{upstream=\"docker.io\"} 10",
        "forebay_upstream_ratelimit_remaining{upstream=\"docker.io\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    let refused = forebay.get("/v2/someone/open/manifests/1").await;
    assert_eq!(
        (refused.status, refused.header("retry-after"), &*refused.error_code()),
        (429, Some("77"), "TOOMANYREQUESTS")
    );
    // What is refused for want of a token is no pull, nor is a HEAD, which is not made into one.
    let pulled = |seen: &Seen| {
        seen.url().contains("/manifests/") && seen.method == Method::GET && seen.header("authorization").is_some()
    };
    assert_eq!(internet.count(pulled), 2);
    for digest in image.layers.iter().chain([&image.config]) {
        assert_eq!(forebay.get(&format!("/v2/library/alpine/blobs/{digest}")).await.status, 200);
    }
    assert_eq!(hosts(&internet).len(), 3);
}

#[tokio::test]
async fn a_broken_blob_resumes_with_a_new_signature() {
    let internet = Internet::of(&[HUB]).await;
    let forebay = Forebay::with(&internet, &[(&HUB, "")]).await;
    let layer = internet.image(&HUB, "library/alpine").layers[0].clone();
    internet.cut_next_blob(&HUB);
    let got = forebay.get(&format!("/v2/library/alpine/blobs/{layer}")).await;
    assert_eq!(got.body, internet.blob(&HUB, "library/alpine", layer.as_str()));
    let at_cdn = |seen: &Seen| seen.origin == "https://production.cloudflare.docker.com";
    let asked: Vec<Seen> = internet.seen().into_iter().filter(at_cdn).collect();
    assert_eq!(asked.len(), 2);
    // What came before the end may have been lost with the connection, in part.
    let range = asked[1].header("range").unwrap();
    assert!(asked[0].header("range").is_none() && range.starts_with("bytes=") && range != "bytes=0-", "{range}");
    assert_ne!(asked[0].path_and_query, asked[1].path_and_query);
    internet.assert_secrets_kept();
}
