//! Harbor: over http or under a private CA, named from outside by `external_url`; robots with `$` and `+` in their names; a
//! token that is not good is answered with a Basic challenge; a proxy project says 404 to the HEAD of what it would fetch.

use super::super::dialect::{DISTRIBUTION, Dialect, REALM, Realm, Redirect, Refusal};

pub const HARBOR: Dialect = Dialect {
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
    empty: &["team/pushed"],
    upload: "https://harbor.lan:8443/v2/{repository}/blobs/uploads/{session}?_state={state}",
    ..DISTRIBUTION
};

/// Behind a balancer that ends TLS, with an `external_url` that begins with http.
pub const BEHIND_BALANCER: Dialect = Dialect {
    challenges: &[
        r#"Bearer realm="http://harbor.lan:8443/service/token",service="harbor-registry",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="http://harbor.lan:8443/service/token",service="harbor-registry""#],
    ..HARBOR
};

pub const CLEAR: Dialect = Dialect {
    name: "harbor.lan",
    url: "http://harbor.lan",
    configuration: r#"urls = ["http://harbor.lan"]"#,
    challenges: &[
        r#"Bearer realm="http://harbor.lan/service/token",service="harbor-registry",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="http://harbor.lan/service/token",service="harbor-registry""#],
    realm: Some(Realm { url: "http://harbor.lan/service/token", service: Some("harbor-registry"), ..REALM }),
    upload: "http://harbor.lan/v2/{repository}/blobs/uploads/{session}?_state={state}",
    ..HARBOR
};

/// With a proxy project, and storage in a bucket.
pub const PROXY: Dialect = Dialect {
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
