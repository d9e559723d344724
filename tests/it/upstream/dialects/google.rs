//! Google Artifact Registry: the user `_json_key` has a password of many lines; a redirect stays on the host and is
//! relative; the realm knows no POST.

use super::*;
use forebay_test_support::internet::dialect::{DENIED, DISTRIBUTION, Post, REALM};

const JSON_KEY: &str = r#"{
  "type": "service_account",
  "project_id": "project",
  "private_key": "-----BEGIN PRIVATE KEY-----\nMIIE+/==\n-----END PRIVATE KEY-----\n",
  "client_email": "puller@project.iam.gserviceaccount.com"
}"#;

pub(super) const GOOGLE: Dialect = Dialect {
    name: "europe-docker.pkg.dev",
    url: "https://europe-docker.pkg.dev",
    challenges: &[
        r#"Bearer realm="https://europe-docker.pkg.dev/v2/token",service="europe-docker.pkg.dev",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="https://europe-docker.pkg.dev/v2/token",service="europe-docker.pkg.dev""#],
    realm: Some(Realm {
        url: "https://europe-docker.pkg.dev/v2/token",
        service: Some("europe-docker.pkg.dev"),
        post: Post::Unknown(404),
        nameless: Some(Refusal(403, DENIED)),
        ..REALM
    }),
    users: &[("_json_key", JSON_KEY), ("oauth2accesstoken", "ya29.a0-_")],
    public: &["project/open/app"],
    private: &["project/closed/app"],
    blobs: Some(Redirect {
        status: 302,
        location: "/artifacts-downloads/namespaces/project/repositories/app/downloads/{signature}=",
        get_only: false,
        authorization: None,
        expired: Refusal(403, DENIED),
    }),
    ..DISTRIBUTION
};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&GOOGLE).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&GOOGLE).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&GOOGLE).await;
}

#[tokio::test]
async fn an_identity_token_is_shown_by_get_where_post_is_unknown() {
    let internet = Internet::of(&[GOOGLE]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let pair = basic("oauth2accesstoken", "");
    let pair = pair.strip_prefix("Basic ").unwrap();
    let text =
        format!(r#"{{"auths":{{"https://europe-docker.pkg.dev":{{"auth":"{pair}","identitytoken":"ya29.a0-_"}}}}}}"#);
    std::fs::write(&file, text).unwrap();
    let forebay = Forebay::with(&internet, &[(&GOOGLE, &format!("docker_config = {file:?}"))]).await;
    assert_eq!(forebay.pull(&GOOGLE, "project/closed/app").await, Ok(()), "{}", forebay.program.log());
}
