//! NVIDIA's nvcr.io: a challenge without a service; the user is called `$oauthtoken`; and a token that has died is answered
//! with the challenge of another realm, which gives nothing to the nameless.

use super::*;
use forebay_test_support::internet::dialect::{DISTRIBUTION, REALM};

pub(super) const NVCR: Dialect = Dialect {
    name: "nvcr.io",
    url: "https://nvcr.io",
    challenges: &[r#"Bearer realm="https://nvcr.io/proxy_auth",scope="repository:{repository}:pull""#],
    base_challenges: &[r#"Bearer realm="https://nvcr.io/proxy_auth""#],
    bad_challenges: Some(&[
        r#"Bearer realm="https://authn.nvidia.com/token",service="registry",scope="repository:{repository}:pull""#,
    ]),
    unauthorized: "<html>401 Authorization Required</html>",
    realm: Some(Realm { url: "https://nvcr.io/proxy_auth", service: None, ..REALM }),
    users: &[("$oauthtoken", "nvapi-_x:y")],
    public: &["nvidia/cuda"],
    private: &["org/team/app"],
    blobs: Some(Redirect {
        status: 307,
        location: "https://layers.nvcr.io/sha256/{hex}?Expires=1&Signature={signature}",
        get_only: false,
        authorization: Some(Refusal(400, "<Error><Code>InvalidArgument</Code></Error>")),
        expired: Refusal(403, "<Error><Code>AccessDenied</Code></Error>"),
    }),
    ..DISTRIBUTION
};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&NVCR).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&NVCR).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&NVCR).await;
}

#[tokio::test]
async fn another_realm_for_an_expired_token_still_renews_it() {
    let user = Some(NVCR.users[0]);
    for (mode, user) in [(Mode::Shared, None), (Mode::Shared, user), (Mode::Client, None), (Mode::Client, user)] {
        let internet = Internet::of(&[NVCR]).await;
        let forebay = Forebay::as_user(&internet, &NVCR, mode, user).await;
        let image = internet.image(&NVCR, "nvidia/cuda");
        assert_eq!(forebay.get("/v2/nvidia/cuda/manifests/1?ns=nvcr.io").await.status, 200);
        internet.revoke_tokens(&NVCR);
        let path = format!("/v2/nvidia/cuda/blobs/{}?ns=nvcr.io", image.layers[0]);
        assert_eq!(forebay.get(&path).await.status, 200, "{}", forebay.program.log());
        assert!(!hosts(&internet).iter().any(|host| host == "https://authn.nvidia.com"));
        internet.assert_secrets_kept();
    }
}
