//! Azure ACR: the token is called `access_token`; a refresh token is exchanged by POST, a password is not; tags are
//! metadata, which a token for pulling does not allow.

use super::*;
use forebay_test_support::internet::dialect::{DISTRIBUTION, Post};

const NO_WAY: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, visit https://aka.ms/acr/authorization for more information."}]}"#;

pub(super) const ACR: Dialect = Dialect {
    name: "team.azurecr.io",
    url: "https://team.azurecr.io",
    challenges: &[
        r#"Bearer realm="https://team.azurecr.io/oauth2/token",service="team.azurecr.io",scope="repository:{repository}:{action}""#,
    ],
    base_challenges: &[r#"Bearer realm="https://team.azurecr.io/oauth2/token",service="team.azurecr.io""#],
    unauthorized: NO_WAY,
    realm: Some(Realm {
        url: "https://team.azurecr.io/oauth2/token",
        service: Some("team.azurecr.io"),
        fields: &["access_token"],
        post: Post::Refresh { token: "refresh.token", password: 400 },
        wrong_password: Refusal(401, NO_WAY),
        nameless: Some(Refusal(401, NO_WAY)),
    }),
    // The admin account, a scoped token, and a refresh token in a password's place.
    users: &[
        ("team", "admin/+="),
        ("puller", "of-a-scope-map"),
        ("00000000-0000-0000-0000-000000000000", "refresh.token"),
    ],
    public: &["open"],
    private: &["team/app"],
    tags_action: "metadata_read",
    blobs: Some(Redirect {
        status: 307,
        location: "https://eusmanaged12.blob.core.windows.net/0-1/docker/registry/v2/blobs/sha256/{hex}/data?se=2026-01-01T00%3A00%3A00Z&sig={signature}%3D&sp=r&sr=b",
        get_only: false,
        authorization: Some(Refusal(400, "<Error><Code>InvalidAuthenticationInfo</Code></Error>")),
        expired: Refusal(403, "<Error><Code>AuthenticationFailed</Code></Error>"),
    }),
    ..DISTRIBUTION
};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&ACR).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&ACR).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&ACR).await;
}

#[tokio::test]
async fn a_refresh_token_of_docker_login() {
    let internet = Internet::of(&[ACR]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let pair = basic("00000000-0000-0000-0000-000000000000", "");
    let pair = pair.strip_prefix("Basic ").unwrap();
    let text = format!(r#"{{"auths":{{"team.azurecr.io":{{"auth":"{pair}","identitytoken":"refresh.token"}}}}}}"#);
    std::fs::write(&file, text).unwrap();
    let forebay = Forebay::with(&internet, &[(&ACR, &format!("docker_config = {file:?}"))]).await;
    assert_eq!(forebay.pull(&ACR, "team/app").await, Ok(()), "{}", forebay.program.log());
    let posted = |seen: &Seen| seen.method == Method::POST && seen.parameter("grant_type") == ["refresh_token"];
    assert_eq!(internet.count(posted), 1);
    assert_eq!(internet.count(|seen| seen.header("authorization").is_some_and(|it| it.starts_with("Basic"))), 0);
}

#[tokio::test]
async fn a_list_of_tags_needs_metadata_read() {
    let (ann, nobody) = (Some(ACR.users[0]), None);
    for (repository, mode, user) in
        [("open", Mode::Shared, nobody), ("team/app", Mode::Shared, ann), ("team/app", Mode::Client, ann)]
    {
        let internet = Internet::of(&[ACR]).await;
        let forebay = Forebay::as_user(&internet, &ACR, mode, user).await;
        let path = format!("/v2/{repository}/tags/list?ns=team.azurecr.io");
        let list = format!(r#"{{"name":"{repository}","tags":["1"]}}"#);
        // Alone, beside pulls, and again.
        assert_eq!(forebay.get(&path).await.text(), list, "{mode:?}: {}", forebay.program.log());
        assert_eq!(forebay.pull(&ACR, repository).await, Ok(()));
        assert_eq!(forebay.get(&path).await.text(), list);
        let scopes: Vec<String> = internet.seen().iter().flat_map(|seen| seen.parameter("scope")).collect();
        assert_eq!(scopes.len(), 2, "one token for pulling, one for tags: {scopes:?}");
        internet.assert_secrets_kept();
    }
}

#[tokio::test]
async fn a_challenge_does_not_make_forebay_ask_for_more_than_to_read() {
    let greedy = Dialect {
        challenges: &[
            r#"Bearer realm="https://team.azurecr.io/oauth2/token",service="team.azurecr.io",scope="repository:{repository}:delete,metadata_read,metadata_write,pull,push repository:team/other:metadata_read""#,
        ],
        ..ACR
    };
    let internet = Internet::of(&[greedy]).await;
    let forebay = Forebay::with(&internet, &[(&greedy, &credentials_of(&greedy))]).await;
    assert_eq!(forebay.get("/v2/team/app/tags/list?ns=team.azurecr.io").await.status, 200, "{}", forebay.program.log());
    internet.assert_secrets_kept();
    assert_eq!(internet.count(|seen| seen.path_and_query.contains("other")), 0);
}
