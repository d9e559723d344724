//! Aliyun: the realm is another host of the same domain, the service has colons in it, blobs are in OSS.

use super::*;
use forebay_test_support::internet::dialect::{DISTRIBUTION, REALM};

pub(super) const ALIYUN: Dialect = Dialect {
    name: "registry.cn-hangzhou.aliyuncs.com",
    url: "https://registry.cn-hangzhou.aliyuncs.com",
    challenges: &[
        r#"Bearer realm="https://dockerauth.cn-hangzhou.aliyuncs.com/auth",service="registry.aliyuncs.com:cn-hangzhou:26842",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[
        r#"Bearer realm="https://dockerauth.cn-hangzhou.aliyuncs.com/auth",service="registry.aliyuncs.com:cn-hangzhou:26842""#,
    ],
    realm: Some(Realm {
        url: "https://dockerauth.cn-hangzhou.aliyuncs.com/auth",
        service: Some("registry.aliyuncs.com:cn-hangzhou:26842"),
        ..REALM
    }),
    users: &[("someone@1234567890123456", "secret")],
    public: &["acs/pause"],
    private: &["team/app"],
    blobs: Some(Redirect {
        status: 307,
        location: "https://aliregistry-cn-hangzhou.oss-cn-hangzhou.aliyuncs.com/docker/registry/v2/blobs/sha256/{hex}/data?Expires=1&OSSAccessKeyId=K&Signature={signature}%2B%3D",
        get_only: true,
        authorization: Some(Refusal(400, "<Error><Code>InvalidArgument</Code></Error>")),
        expired: Refusal(403, "<Error><Code>AccessDenied</Code><Message>Request has expired.</Message></Error>"),
    }),
    ..DISTRIBUTION
};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&ALIYUN).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&ALIYUN).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&ALIYUN).await;
}
