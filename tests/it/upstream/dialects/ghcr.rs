//! GHCR: each request needs a token, also an anonymous one for public images; the realm refuses with 403.

use super::*;
use forebay_test_support::internet::dialect::{DENIED, DISTRIBUTION, REALM};

pub(super) const GHCR: Dialect = Dialect {
    name: "ghcr.io",
    url: "https://ghcr.io",
    challenges: &[r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:{repository}:pull""#],
    base_challenges: &[r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull""#],
    realm: Some(Realm {
        url: "https://ghcr.io/token",
        service: Some("ghcr.io"),
        wrong_password: Refusal(403, r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#),
        nameless: Some(Refusal(403, DENIED)),
        ..REALM
    }),
    users: &[("someone", "ghp_0123456789")],
    public: &["owner/image"],
    private: &["owner/closed/image"],
    blobs: Some(Redirect {
        status: 307,
        location: "https://pkg-containers.githubusercontent.com/ghcr1/blobs/sha256:{hex}?se=2026-01-01T00%3A00%3A00Z&sig={signature}%2F%3D&sp=r&sv=2019-12-12",
        get_only: false,
        authorization: Some(Refusal(400, "<Error><Code>InvalidAuthenticationInfo</Code></Error>")),
        expired: Refusal(403, "<Error><Code>AuthenticationFailed</Code></Error>"),
    }),
    ..DISTRIBUTION
};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&GHCR).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&GHCR).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&GHCR).await;
}

#[tokio::test]
async fn a_password_that_has_died() {
    outlives_its_password(&GHCR).await;
}
