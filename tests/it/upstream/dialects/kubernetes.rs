//! registry.k8s.io: no authentication; manifests are redirected to another registry, blobs to S3.

use super::*;
use forebay_test_support::internet::dialect::DISTRIBUTION;

pub(super) const KUBERNETES: Dialect = Dialect {
    name: "registry.k8s.io",
    url: "https://registry.k8s.io",
    public: &["pause", "ingress-nginx/controller"],
    manifests: Some(Redirect {
        status: 307,
        location: "https://europe-west3-docker.pkg.dev/v2/k8s-artifacts-prod/images/{repository}/manifests/{reference}",
        get_only: false,
        authorization: Some(Refusal(401, "")),
        expired: Refusal(404, ""),
    }),
    blobs: Some(Redirect {
        status: 307,
        location: "https://prod-registry-k8s-io-eu-central-1.s3.dualstack.eu-central-1.amazonaws.com/containers/images/sha256%3A{hex}",
        get_only: false,
        authorization: Some(Refusal(400, "<Error><Code>InvalidArgument</Code></Error>")),
        expired: Refusal(403, "<Error><Code>AccessDenied</Code></Error>"),
    }),
    ..DISTRIBUTION
};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&KUBERNETES).await;
}

#[tokio::test]
async fn each_manifest_request_follows_its_redirect() {
    let internet = Internet::of(&[KUBERNETES]).await;
    let forebay = Forebay::with(&internet, &[(&KUBERNETES, "")]).await;
    // `pause` is no `library/pause`.
    assert_eq!(forebay.get("/v2/registry.k8s.io/pause/manifests/1").await.status, 200);
    assert_eq!(forebay.get("/v2/registry.k8s.io/ingress-nginx/controller/manifests/1").await.status, 200);
    let (asked, led): (Vec<_>, Vec<_>) =
        internet.seen().into_iter().partition(|seen| seen.origin == "https://registry.k8s.io");
    assert_eq!((asked.len(), led.len()), (2, 2), "{}", forebay.program.log());
    assert!(
        led.iter().all(|seen| seen.origin == "https://europe-west3-docker.pkg.dev" && seen.header("accept").is_some())
    );
    // What it has not, the other registry says.
    let missing = forebay.get("/v2/registry.k8s.io/pause/manifests/2").await;
    assert_eq!((missing.status, &*missing.error_code()), (404, "MANIFEST_UNKNOWN"));
}
