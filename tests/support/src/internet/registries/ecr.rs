//! Amazon ECR: no tokens, the password of the user AWS goes with each request and dies after twelve hours; blobs are in S3,
//! by URLs that are signed for GET alone and take no Authorization beside the signature.

use super::super::dialect::{DISTRIBUTION, Dialect, Mount, Redirect, Refusal};

pub const ECR: Dialect = Dialect {
    name: "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    url: "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    challenges: &[r#"Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#],
    base_challenges: &[
        r#"Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#,
    ],
    unauthorized: "Not Authorized\n",
    takes_passwords: true,
    wrong_password: Some(Refusal(
        403,
        r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#,
    )),
    users: &[("AWS", "eyJwYXlsb2FkIjoi+/==")],
    private: &["team/app", "app"],
    empty: &["pushed", "team/pushed"],
    upload: "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/v2/{repository}/blobs/uploads/{session}?_state={state}",
    mount: Mount::Begun,
    delete: Some(Refusal(405, r#"{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}"#)),
    blobs: Some(Redirect {
        status: 307,
        location: "https://prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com/1-2/{hex}?X-Amz-Security-Token=a%2Fb%2B&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-SignedHeaders=host&X-Amz-Expires=3600&X-Amz-Signature={signature}",
        get_only: true,
        authorization: Some(Refusal(
            400,
            "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified</Message></Error>",
        )),
        expired: Refusal(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
    }),
    ..DISTRIBUTION
};
