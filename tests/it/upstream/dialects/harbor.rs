//! Harbor: over http or under a private CA, named from outside by `external_url`; robots with `$` and `+` in their names; a
//! token that is not good is answered with a Basic challenge; a proxy project says 404 to the HEAD of what it would fetch.

use super::*;
pub(super) use forebay_test_support::internet::registries::harbor::{BEHIND_BALANCER, CLEAR, HARBOR, PROXY};

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
async fn a_basic_challenge_to_an_expired_token_renews_it() {
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
