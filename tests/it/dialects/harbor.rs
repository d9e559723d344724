//! Harbor: over http or under a private CA, named from outside by `external_url`; robots with `$` and `+` in their names; a
//! token that is not good is answered with a Basic challenge; a proxy project says 404 to the HEAD of what it would fetch.

use super::*;
use crate::support::internet::dialect::{DISTRIBUTION, REALM};

pub(super) const HARBOR: Dialect = Dialect {
    name: "harbor.lan:8443",
    url: "https://harbor.lan:8443",
    challenges: &[
        r#"Bearer realm="https://harbor.lan:8443/service/token",service="harbor-registry",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="https://harbor.lan:8443/service/token",service="harbor-registry""#],
    bad_challenges: Some(&[r#"Basic realm="harbor""#]),
    realm: Some(Realm { url: "https://harbor.lan:8443/service/token", service: Some("harbor-registry"), ..REALM }),
    takes_passwords: true,
    users: &[("robot$team+puller", "robot's secret"), ("ann", "ann's")],
    public: &["open/app"],
    private: &["team/app"],
    ..DISTRIBUTION
};

/// Behind a balancer that ends TLS, with an `external_url` that begins with http.
pub(super) const BEHIND_BALANCER: Dialect = Dialect {
    challenges: &[
        r#"Bearer realm="http://harbor.lan:8443/service/token",service="harbor-registry",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="http://harbor.lan:8443/service/token",service="harbor-registry""#],
    ..HARBOR
};

pub(super) const CLEAR: Dialect = Dialect {
    name: "harbor.lan",
    url: "http://harbor.lan",
    configuration: r#"urls = ["http://harbor.lan"]"#,
    challenges: &[
        r#"Bearer realm="http://harbor.lan/service/token",service="harbor-registry",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="http://harbor.lan/service/token",service="harbor-registry""#],
    realm: Some(Realm { url: "http://harbor.lan/service/token", service: Some("harbor-registry"), ..REALM }),
    ..HARBOR
};

/// With a proxy project, and storage in a bucket.
pub(super) const PROXY: Dialect = Dialect {
    public: &["hub/library/alpine"],
    blob_head: Some(Refusal(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#)),
    blobs: Some(Redirect {
        status: 307,
        location: "https://s3.lan:9000/harbor/docker/registry/v2/blobs/sha256/{hex}/data?X-Amz-Signature={signature}",
        get_only: true,
        authorization: Some(Refusal(400, "Only one auth mechanism allowed")),
        expired: Refusal(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>"),
    }),
    ..HARBOR
};

const ALL: [&Dialect; 4] = [&HARBOR, &BEHIND_BALANCER, &CLEAR, &PROXY];

#[tokio::test]
async fn public() {
    for dialect in ALL {
        pulls_what_is_public(dialect).await;
    }
}

#[tokio::test]
async fn private() {
    for dialect in ALL {
        pulls_what_is_private(dialect).await;
    }
}

#[tokio::test]
async fn a_wrong_password() {
    for dialect in ALL {
        refuses_a_wrong_password(dialect).await;
    }
}

#[tokio::test]
async fn a_token_that_died_is_answered_with_basic_and_a_new_one_is_fetched_all_the_same() {
    let user = Some(HARBOR.users[0]);
    for (mode, user) in [(Mode::Shared, None), (Mode::Shared, user), (Mode::Client, None), (Mode::Client, user)] {
        let internet = Internet::of(&[HARBOR]).await;
        let forebay = Forebay::as_user(&internet, &HARBOR, mode, user).await;
        let image = internet.image(&HARBOR, "open/app");
        assert_eq!(forebay.get("/v2/open/app/manifests/1?ns=harbor.lan:8443").await.status, 200);
        internet.revoke_tokens(&HARBOR);
        let path = format!("/v2/open/app/blobs/{}?ns=harbor.lan:8443", image.layers[0]);
        assert_eq!(forebay.get(&path).await.status, 200, "{}", forebay.program.log());
        let shown_password = |seen: &Seen| {
            seen.path_and_query.starts_with("/v2/")
                && seen.header("authorization").is_some_and(|it| it.starts_with("Basic"))
        };
        assert_eq!(
            internet.count(shown_password),
            0,
            "the realm gives tokens, so no password is sent with each request"
        );
        internet.assert_secrets_kept();
    }
}
