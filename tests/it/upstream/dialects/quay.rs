//! Quay: Basic and Bearer in one answer, in one header or in several; robots with a `+` in their names.

use super::*;
use forebay_test_support::internet::dialect::{DISTRIBUTION, REALM};

pub(super) const QUAY: Dialect = Dialect {
    name: "quay.io",
    url: "https://quay.io",
    challenges: &[
        r#"Basic realm="quay.io", Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:{repository}:pull,push""#,
    ],
    base_challenges: &[r#"Basic realm="quay.io", Bearer realm="https://quay.io/v2/auth",service="quay.io""#],
    realm: Some(Realm {
        url: "https://quay.io/v2/auth",
        service: Some("quay.io"),
        wrong_password: Refusal(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"Invalid Username or Password"}]}"#,
        ),
        ..REALM
    }),
    users: &[("team+robot", "ROBOT0123")],
    public: &["coreos/etcd"],
    private: &["team/app"],
    blobs: Some(Redirect {
        status: 302,
        location: "https://cdn01.quay.io/quayio-production-s3/sha256/{hex}?Expires=1&Signature={signature}__&Key-Pair-Id=K&region=us-east-1",
        get_only: false,
        authorization: Some(Refusal(400, "<Error><Code>InvalidArgument</Code></Error>")),
        expired: Refusal(403, "<Error><Code>AccessDenied</Code></Error>"),
    }),
    ..DISTRIBUTION
};

pub(super) const IN_LINES: Dialect = Dialect {
    challenges: &[
        r#"Basic realm="quay.io""#,
        r#"Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:{repository}:pull,push""#,
    ],
    ..QUAY
};

/// Not all of its challenges are known here, and none of them is in the order one would like.
pub(super) const WITH_A_STRANGER: Dialect = Dialect {
    challenges: &[
        r#"Negotiate, bearer scope="repository:{repository}:pull,push", service="quay.io", realm="https://quay.io/v2/auth""#,
        r#"Basic realm="quay.io""#,
    ],
    ..QUAY
};

#[tokio::test]
async fn public() {
    for dialect in [&QUAY, &IN_LINES, &WITH_A_STRANGER] {
        pulls_what_is_public(dialect).await;
    }
}

#[tokio::test]
async fn private() {
    for dialect in [&QUAY, &IN_LINES, &WITH_A_STRANGER] {
        pulls_what_is_private(dialect).await;
    }
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&QUAY).await;
    refuses_a_wrong_password(&IN_LINES).await;
}
