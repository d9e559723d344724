//! Tencent CCR, the personal edition: each region is a registry with a realm of its own, and the name of one ends with
//! the name of another. The account is a number. Blobs come from the registry or by a redirect; where to is not known.

use super::*;
pub(super) use forebay_test_support::internet::registries::tencent::{CCR, HKCCR};

#[tokio::test]
async fn public() {
    pulls_what_is_public(&CCR).await;
    pulls_what_is_public(&HKCCR).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&CCR).await;
    pulls_what_is_private(&HKCCR).await;
}

#[tokio::test]
async fn a_wrong_password() {
    refuses_a_wrong_password(&CCR).await;
    refuses_a_wrong_password(&HKCCR).await;
}

#[tokio::test]
async fn a_name_that_ends_with_another_is_its_own_registry() {
    let internet = Internet::of(&[CCR, HKCCR]).await;
    let (ccr, hkccr) = (credentials_of(&CCR), credentials_of(&HKCCR));
    let forebay = Forebay::with(&internet, &[(&CCR, &ccr), (&HKCCR, &hkccr)]).await;
    for dialect in [&HKCCR, &CCR] {
        // Both have a repository of this name, with other content.
        assert_eq!(forebay.pull(dialect, "team/closed").await, Ok(()), "{}", forebay.program.log());
        let path = format!("/v2/{}/team/closed/manifests/1", dialect.name);
        assert_eq!(forebay.get(&path).await.body, internet.image(dialect, "team/closed").manifest_bytes);
    }
    let asked = internet.seen().len();
    for name in
        ["xccr.ccs.tencentyun.com", "r.ccs.tencentyun.com", "ccs.tencentyun.com", "ccr.ccs.tencentyun.com.example"]
    {
        let refused = forebay.get(&format!("/v2/team/closed/manifests/1?ns={name}")).await;
        assert_eq!((refused.status, &*refused.error_code()), (404, "NAME_UNKNOWN"), "{name}");
    }
    assert_eq!(internet.seen().len(), asked);
}
