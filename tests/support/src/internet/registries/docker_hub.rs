//! Docker Hub: the realm is another host, blobs are behind a CDN, pulls are counted.

use super::super::dialect::{DISTRIBUTION, Dialect, Limit, REALM, Realm, Redirect, Refusal};

pub const HUB: Dialect = Dialect {
    name: "docker.io",
    url: "https://registry-1.docker.io",
    challenges: &[
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#],
    realm: Some(Realm {
        url: "https://auth.docker.io/token",
        service: Some("registry.docker.io"),
        fields: &["token", "access_token"],
        wrong_password: Refusal(401, r#"{"details":"incorrect username or password"}"#),
        ..REALM
    }),
    users: &[("someone", "dckr_pat_x-y")],
    public: &["library/alpine", "someone/open"],
    private: &["someone/closed"],
    empty: &["someone/pushed"],
    upload: "https://registry-1.docker.io/v2/{repository}/blobs/uploads/{session}?_state={state}",
    delete: Some(Refusal(405, r#"{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}"#)),
    blobs: Some(Redirect {
        status: 307,
        location: "https://production.cloudflare.docker.com/registry-v2/blobs/sha256/{hex}/data?verify=1-{signature}%2B%3D",
        get_only: false,
        authorization: None,
        expired: Refusal(403, "<html>403 Forbidden</html>"),
    }),
    limit: Some(Limit {
        pulls: 10,
        headers: &[
            ("ratelimit-limit", "10;w=21600"),
            ("ratelimit-remaining", "{remaining};w=21600"),
            ("docker-ratelimit-source", "192.0.2.7"),
        ],
        retry_after: "77",
        body: r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#,
    }),
    ..DISTRIBUTION
};
