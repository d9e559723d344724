//! QingCloud's `dockerhub.qingcloud.com`: distribution with users of its own. Repositories may have a single component and
//! mean just that. How it challenges is not known, so both ways of distribution are tried.

use super::*;
pub(super) use forebay_test_support::internet::registries::qingcloud::{PASSWORDS, TOKENS};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&TOKENS).await;
    pulls_what_is_public(&PASSWORDS).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&TOKENS).await;
    pulls_what_is_private(&PASSWORDS).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&TOKENS).await;
    refuses_a_wrong_password(&PASSWORDS).await;
}

#[tokio::test]
async fn a_name_of_one_component_stays_as_it_is() {
    let internet = Internet::of(&[TOKENS]).await;
    let forebay = Forebay::with(&internet, &[(&TOKENS, "default = true")]).await;
    let wordpress = internet.image(&TOKENS, "wordpress").manifest_bytes;
    for path in ["/v2/dockerhub.qingcloud.com/wordpress/manifests/1", "/v2/wordpress/manifests/1"] {
        assert_eq!(forebay.get(path).await.body, wordpress, "{path}");
    }
    assert_eq!(internet.count(|seen| seen.url().contains("library")), 0);
    // And one that has `library/` in it keeps it.
    assert_eq!(forebay.get("/v2/nginx/manifests/1").await.status, 403);
    assert_eq!(forebay.get("/v2/library/nginx/manifests/1").await.status, 200);
}
