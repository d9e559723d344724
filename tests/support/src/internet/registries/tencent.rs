//! Tencent CCR, the personal edition: each region is a registry with a realm of its own, and the name of one ends with
//! the name of another. The account is a number. Blobs come from the registry or by a redirect; where to is not known.

use super::super::dialect::{DISTRIBUTION, Dialect, Mount, REALM, Realm, Redirect, Refusal};

pub const CCR: Dialect = Dialect {
    name: "ccr.ccs.tencentyun.com",
    url: "https://ccr.ccs.tencentyun.com",
    challenges: &[
        r#"Bearer realm="https://ccr.ccs.tencentyun.com/service/token",service="token-service",scope="repository:{repository}:pull,push""#,
    ],
    base_challenges: &[r#"Bearer realm="https://ccr.ccs.tencentyun.com/service/token",service="token-service""#],
    realm: Some(Realm {
        url: "https://ccr.ccs.tencentyun.com/service/token",
        service: Some("token-service"),
        nameless: Some(Refusal(401, "")),
        ..REALM
    }),
    users: &[("100012345678", "p@ss of ccr")],
    public: &["tkeimages/open"],
    private: &["team/closed"],
    empty: &["team/pushed"],
    upload: "https://ccr.ccs.tencentyun.com/v2/{repository}/blobs/uploads/{session}?_state={state}",
    mount: Mount::Begun,
    ..DISTRIBUTION
};

pub const HKCCR: Dialect = Dialect {
    name: "hkccr.ccs.tencentyun.com",
    url: "https://hkccr.ccs.tencentyun.com",
    challenges: &[
        r#"Bearer realm="https://hkccr.ccs.tencentyun.com/service/token",service="token-service",scope="repository:{repository}:pull,push""#,
    ],
    base_challenges: &[r#"Bearer realm="https://hkccr.ccs.tencentyun.com/service/token",service="token-service""#],
    realm: Some(Realm {
        url: "https://hkccr.ccs.tencentyun.com/service/token",
        service: Some("token-service"),
        nameless: Some(Refusal(401, "")),
        ..REALM
    }),
    users: &[("200087654321", "p@ss of hkccr")],
    upload: "https://hkccr.ccs.tencentyun.com/v2/{repository}/blobs/uploads/{session}?_state={state}",
    blobs: Some(Redirect {
        status: 302,
        location: "https://layers.cos.example/sha256/{hex}?sign={signature}",
        get_only: false,
        authorization: Some(Refusal(403, "<Error><Code>AccessDenied</Code></Error>")),
        expired: Refusal(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
    }),
    ..CCR
};
