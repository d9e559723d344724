//! Only the URL of an upload says where it goes on, and only its client has that URL.

use std::fs;

use http::Method;

use super::{UPLOADS, begin, build, digest, location, mirror_of, with_digest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
};

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_and_at_another_instance() {
    let registry = FakeRegistry::start().await;
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("push.key");
    fs::write(&key, "a".repeat(40)).unwrap();
    let mut mirror = mirror_of(&registry).await;
    let begun = begin(&mirror).await;
    let patched = mirror.send(Method::PATCH, &begun, &[], "some ").await;
    mirror.restart().await;
    let patched = mirror.send(Method::PATCH, &location(&patched), &[], "content").await;
    assert_eq!((patched.status, patched.header("range")), (202, Some("0-11")));
    // A mirror with a key of its own knows nothing of it.
    let stranger = mirror_of(&registry).await;
    let unknown = stranger.send(Method::PATCH, &location(&patched), &[], "more").await;
    assert_eq!((unknown.status, &*unknown.error_code()), (404, "BLOB_UPLOAD_UNKNOWN"));
    let put = mirror.send(Method::PUT, &with_digest(&location(&patched), &digest(b"some content")), &[], "").await;
    assert_eq!(put.status, 201);

    let with_key = || build(&registry).config(|config| config.push.key_file = Some(key.clone()));
    let (one, other) = (with_key().start().await, with_key().start().await);
    let begun = begin(&one).await;
    let patched = other.send(Method::PATCH, &begun, &[], "from two").await;
    assert_eq!(patched.status, 202);
    let put = one.send(Method::PUT, &with_digest(&location(&patched), &digest(b"from two")), &[], "").await;
    assert_eq!(put.status, 201);
}

#[tokio::test]
async fn what_was_not_made_here_for_this_repository_is_no_upload() {
    let (registry, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let upstream = |name: &str, registry: &FakeRegistry| {
        format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\npush = true\n", registry.url())
    };
    let text = upstream("hub.example", &registry) + "default = true\n" + &upstream("other.example", &other);
    let mirror = Mirror::parse(&text).start().await;
    let begun = begin(&mirror).await;
    let (path, state) = begun.split_once("?_state=").unwrap();
    let first = if state.starts_with('A') { 'B' } else { 'A' };
    registry.forget_requests();
    for forged in [
        path.to_owned(),
        format!("{path}?_state="),
        format!("{path}?_state={}", "A".repeat(60)),
        format!("{path}?_state={first}{}", &state[1..]),
        format!("{path}?_state={}", &state[..state.len() - 1]),
        begun.replace("team/app", "team/base"),
        begun.replace("/v2/team/app", "/v2/other.example/team/app"),
        format!("{begun}&ns=other.example"),
    ] {
        for method in [Method::GET, Method::PATCH, Method::PUT, Method::DELETE] {
            let refused = mirror.send(method.clone(), &forged, &[], "content").await;
            assert_eq!((refused.status, &*refused.error_code()), (404, "BLOB_UPLOAD_UNKNOWN"), "{method} {forged}");
        }
    }
    assert!(registry.requests().is_empty() && other.requests().is_empty());
    assert_eq!(mirror.get(&begun).await.status, 204, "it is there all the time");
}

#[tokio::test]
async fn an_upload_that_is_to_go_on_elsewhere_does_not() {
    let (registry, elsewhere) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = mirror_of(&registry).await;
    for place in [
        format!("{}v2/team/app/blobs/uploads/1", elsewhere.url()),
        "http://169.254.169.254/latest".to_owned(),
        "//127.0.0.1:1/x".to_owned(),
        "ftp://x/".to_owned(),
    ] {
        registry.fault(When::uploads(), Fault::Header("location", Some(place.clone())));
        let begun = mirror.request(Method::POST, UPLOADS, &[]).await;
        assert_eq!(
            (begun.status, &*begun.error_code(), begun.header("location")),
            (502, "UNAVAILABLE", None),
            "{place}"
        );
        registry.heal();
    }
    // Relative to what was asked, as the Artifact Registry does; and by another path altogether.
    for (place, path) in [("/elsewhere/7?sig=a%2Fb", "/elsewhere/7"), ("7?x", "/v2/team/app/blobs/uploads/7")] {
        registry.fault(When::uploads().method(Method::POST), Fault::Header("location", Some(place.to_owned())));
        let begun = begin(&mirror).await;
        mirror.send(Method::PATCH, &begun, &[], "x").await;
        registry.wait_for(|seen| seen.iter().any(|request| request.path == path)).await;
        registry.heal();
    }
    let signed = registry.requests().into_iter().find(|request| request.path == "/elsewhere/7").unwrap();
    assert_eq!(signed.query, "sig=a%2Fb", "to the letter");
    assert!(elsewhere.requests().is_empty());
}

/// Only what has nothing to lose on the way is led elsewhere.
#[tokio::test]
async fn a_redirect_is_followed_with_the_same_method_or_not_at_all() {
    use forebay_test_support::fake_registry::To;
    let (registry, next) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = mirror_of(&registry).await;
    let to = |path: &str| To::Location(format!("{}{path}", next.url()));
    for (status, expected) in [(307, 502), (308, 502), (301, 502), (302, 502), (303, 502)] {
        registry.fault(When::uploads(), Fault::Redirect { status, to: to("v2/team/app/blobs/uploads/") });
        // The place that `next` tells is its own, where nothing goes on.
        assert_eq!(mirror.request(Method::POST, UPLOADS, &[]).await.status, expected, "{status}");
        registry.heal();
    }
    assert_eq!(next.count(|request| request.method == Method::POST), 2, "307 and 308");
    let blob = next.add_blob("team/app", "x");
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: to(&format!("v2/team/app/blobs/{blob}")) });
    assert_eq!(mirror.request(Method::DELETE, &format!("/v2/team/app/blobs/{blob}"), &[]).await.status, 202);
    registry.heal();
    registry.fault(When::manifests(), Fault::Redirect { status: 307, to: to("v2/team/app/manifests/1") });
    let put = super::put_manifest(&mirror, "1", "{}").await;
    assert_eq!((put.status, put.header("location")), (502, None), "its content cannot be sent again");
}

#[tokio::test]
async fn pushing_is_switched_on_and_off_by_a_reload() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let with_push = |push: bool| {
        let mut config = mirror.config().clone();
        config.upstreams[0].push = push;
        mirror.app().reload(config).unwrap();
    };
    assert_eq!(mirror.request(Method::POST, UPLOADS, &[]).await.status, 405);
    with_push(true);
    let begun = begin(&mirror).await;
    with_push(false);
    assert_eq!(mirror.send(Method::PATCH, &begun, &[], "x").await.status, 405);
    with_push(true);
    assert_eq!(mirror.send(Method::PATCH, &begun, &[], "x").await.status, 202);
}
