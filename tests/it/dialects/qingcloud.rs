//! QingCloud's `dockerhub.qingcloud.com`: distribution with users of its own. Repositories may have a single component and
//! mean just that. How it challenges is not known, so both ways of distribution are tried.

use super::*;
use crate::support::internet::dialect::{DISTRIBUTION, REALM};

pub(super) const TOKENS: Dialect = Dialect {
    name: "dockerhub.qingcloud.com",
    url: "https://dockerhub.qingcloud.com",
    challenges: &[
        r#"Bearer realm="https://dockerhub.qingcloud.com/auth",service="dockerhub.qingcloud.com",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="https://dockerhub.qingcloud.com/auth",service="dockerhub.qingcloud.com""#],
    realm: Some(Realm {
        url: "https://dockerhub.qingcloud.com/auth",
        service: Some("dockerhub.qingcloud.com"),
        ..REALM
    }),
    users: &[("someone", "secret:with:colons")],
    public: &["wordpress", "library/nginx"],
    private: &["team", "team/app"],
    ..DISTRIBUTION
};

/// Passwords are sent to the registry itself, for everything.
pub(super) const PASSWORDS: Dialect = Dialect {
    challenges: &[r#"Basic realm="Registry Realm""#],
    base_challenges: &[r#"Basic realm="Registry Realm""#],
    realm: None,
    takes_passwords: true,
    public: &[],
    private: &["wordpress", "team/app"],
    ..TOKENS
};

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
