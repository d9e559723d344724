//! Who the upstream is told asks: with what the request needs, and before anything is sent that cannot be sent again.

use std::fs;

use http::Method;

use super::{UPLOADS, begin, build, mirror_of, push_blob, put_manifest};
use forebay_test_support::manifest::OCI_MANIFEST;
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Server, When},
    mirror::Answer,
};

/// The scopes that the realm was asked for, each question's together.
fn scopes(registry: &FakeRegistry) -> Vec<String> {
    let asked = registry.requests().into_iter().filter(|request| request.server == Server::Realm);
    asked.map(|request| request.parameter("scope").join(" ")).collect()
}

#[tokio::test]
async fn a_token_is_for_what_the_request_needs() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let mirror = mirror_of(&registry).await;
    let blob = push_blob(&mirror, "team/app", b"content").await;
    assert_eq!(put_manifest(&mirror, "1", "{}").await.status, 201);
    assert_eq!(scopes(&registry), ["repository:team/app:pull,push"], "one for all of it");

    registry.forget_requests();
    let mount = format!("/v2/team/other/blobs/uploads/?mount={blob}&from=team%2Fapp");
    assert_eq!(mirror.request(Method::POST, &mount, &[]).await.status, 201);
    assert_eq!(scopes(&registry), ["repository:team/other:pull,push repository:team/app:pull"]);

    registry.forget_requests();
    let manifest = mirror.get_with("/v2/team/app/manifests/1", &[("accept", OCI_MANIFEST)]).await;
    assert_eq!(manifest.status, 200);
    assert_eq!(scopes(&registry), ["repository:team/app:pull"], "who reads asks for no more");
    assert_eq!(mirror.request(Method::DELETE, "/v2/team/app/manifests/1", &[]).await.status, 202);
    assert_eq!(scopes(&registry)[1..], ["repository:team/app:pull,push,delete"]);
}

#[tokio::test]
async fn content_is_sent_once_and_with_a_token() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let mirror = mirror_of(&registry).await;
    // The first request of all has content: how to ask is asked beforehand.
    assert_eq!(put_manifest(&mirror, "1", "{}").await.status, 201);
    let puts = registry.requests().into_iter().filter(|request| request.method == Method::PUT);
    let shown: Vec<_> = puts.map(|put| put.header("authorization").is_some()).collect();
    assert_eq!(shown, [true]);
    // Where a token has died meanwhile the content is gone: clients begin again.
    registry.revoke_tokens();
    registry.forget_requests();
    let refused = put_manifest(&mirror, "1", "{}").await;
    assert_eq!(
        (refused.status, &*refused.error_code(), refused.header("retry-after")),
        (502, "UNAVAILABLE", Some("1"))
    );
    assert_eq!(refused.header("www-authenticate"), None);
    assert_eq!(registry.count(|request| request.method == Method::PUT), 1);
    // The next one has another.
    assert_eq!(put_manifest(&mirror, "1", "{}").await.status, 201);
    // What has none is tried again at once.
    registry.revoke_tokens();
    begin(&mirror).await;
}

#[tokio::test]
async fn a_token_that_came_for_the_request_and_is_refused_is_the_end() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer { rights: vec![("", "team/other")], ..Bearer::default() }));
    let mirror = mirror_of(&registry).await;
    for _ in 0..3 {
        let refused = put_manifest(&mirror, "1", "{}").await;
        assert_eq!((refused.status, &*refused.error_code()), (403, "DENIED"));
    }
}

#[tokio::test]
async fn an_upstream_without_challenges_gets_no_probe() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    push_blob(&mirror, "team/app", b"content").await;
    assert_eq!(put_manifest(&mirror, "1", "{}").await.status, 201);
    assert_eq!(registry.count(|request| request.path == "/v2/"), 0, "the first answer has told it");
}

/// Its base is open without credentials, its writes are not.
#[tokio::test]
async fn an_upstream_that_asks_too_late_is_known_the_next_time() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let ok = Fault::Answer { status: 200, headers: vec![], body: "{}".to_owned() };
    registry.fault(When::base(), ok);
    let mirror = mirror_of(&registry).await;
    let refused = put_manifest(&mirror, "1", "{}").await;
    assert_eq!((refused.status, refused.header("retry-after")), (502, Some("1")));
    assert_eq!(put_manifest(&mirror, "1", "{}").await.status, 201);
}

#[tokio::test]
async fn with_a_password_that_is_wrong_nothing_is_sent() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Basic { username: "robot".to_owned(), password: "right".to_owned() });
    let directory = tempfile::tempdir().unwrap();
    let mirror = |password: &str| {
        fs::write(directory.path().join("password"), password).unwrap();
        let password_file = directory.path().join("password");
        let credential = forebay::upstream::CredentialSource::Password { username: "robot".to_owned(), password_file };
        build(&registry).config(|config| config.upstreams[0].credential = credential)
    };
    let users = forebay_test_support::users::with_users();
    let ann = forebay_test_support::users::basic("ann", "secret");
    for (password, status) in [("right", 202), ("wrong", 403)] {
        let htpasswd = users.path().join("htpasswd");
        let mirror = mirror(password).config(|config| config.access.htpasswd = Some(htpasswd)).start().await;
        let begun = mirror.request(Method::POST, UPLOADS, &[("authorization", &ann)]).await;
        assert_eq!((begun.status, begun.header("www-authenticate")), (status, None), "{password}");
    }
    assert!(registry.requests().iter().all(|request| request.header("authorization") != Some(&ann)));
}

/// What a push has shown is known to pulls, and the other way round.
#[tokio::test]
async fn a_refused_password_of_forebay_is_not_the_clients() {
    let (username, right) = ("robot".to_owned(), "right".to_owned());
    let auths = |password: &str| {
        let (username, password) = (username.clone(), password.to_owned());
        let one = Auth::Basic { username: username.clone(), password: password.clone() };
        [one, Auth::Forbidding { username, password }]
    };
    for (auth, changed) in auths(&right).into_iter().zip(auths("changed")) {
        let registry = FakeRegistry::start().await;
        registry.require(auth.clone());
        let directory = tempfile::tempdir().unwrap();
        let password_file = directory.path().join("password");
        let set = |password: &str| fs::write(&password_file, password).unwrap();
        set("wrong");
        let password_file = password_file.clone();
        let credential = forebay::upstream::CredentialSource::Password { username: username.clone(), password_file };
        let users = forebay_test_support::users::with_users();
        let mirror = build(&registry).config(|config| {
            config.upstreams[0].credential = credential;
            config.access.htpasswd = Some(users.path().join("htpasswd"));
        });
        let mirror = mirror.start().await;
        let ann = forebay_test_support::users::basic("ann", "secret");
        let headers = [("authorization", &*ann), ("content-type", OCI_MANIFEST)];
        let begin = async || mirror.request(Method::POST, UPLOADS, &headers).await;
        let put = async || mirror.send(Method::PUT, "/v2/team/app/manifests/1", &headers, "{}").await;
        let ok =
            async || mirror.metrics().await.contains("forebay_upstream_credentials_ok{upstream=\"fake.example\"} 1");
        let shown = |password: &str| {
            let shown = forebay_test_support::users::basic("robot", password);
            registry.count(|request| request.header("authorization") == Some(&shown))
        };
        let is_ours = |answer: &Answer| {
            assert_eq!((answer.status, &*answer.error_code()), (403, "UNAVAILABLE"), "{auth:?}");
            assert!(answer.text().contains("the credentials of this mirror, which are not yours"), "{}", answer.text());
        };
        for _ in 0..5 {
            is_ours(&begin().await);
            is_ours(&put().await);
        }
        assert!(shown("wrong") <= 2, "{auth:?}: {}", shown("wrong"));
        assert!(!ok().await);
        set("right");
        assert_eq!(begin().await.status, 202, "{auth:?}");
        assert!(ok().await, "{auth:?}");
        // What the robot may not, or what is not there, is the registry's word.
        registry.fault_times(
            1,
            When::uploads(),
            Fault::Answer {
                status: 403,
                headers: vec![("content-type", "application/json".to_owned())],
                body: r#"{"errors":[{"code":"DENIED","message":"for admins alone"}]}"#.to_owned(),
            },
        );
        assert!(begin().await.text().contains("for admins alone"), "{auth:?}");
        assert!(ok().await, "{auth:?}");
        // It has changed: with content the client has to begin again, without it is made again.
        registry.require(changed);
        set("changed");
        let refused = put().await;
        assert_eq!((refused.status, refused.header("retry-after")), (502, Some("1")), "{auth:?}");
        assert_eq!(put().await.status, 201, "{auth:?}");
        registry.require(auth.clone());
        set("right");
        assert_eq!(begin().await.status, 202, "{auth:?}");
        // It has died, and there is no other.
        registry.require(Auth::Forbidding { username: "robot".to_owned(), password: "unknown".to_owned() });
        registry.forget_requests();
        for _ in 0..5 {
            is_ours(&put().await);
            is_ours(&begin().await);
        }
        assert!(shown("right") <= 3 && !ok().await, "{auth:?}: {}", shown("right"));
    }
}

/// Clients take a 401 to a mount for the end of the push.
#[tokio::test]
async fn what_may_not_be_mounted_is_to_be_sent() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer { rights: vec![("", "team/app")], ..Bearer::default() }));
    let blob = registry.add_blob("team/secret", "content");
    let mirror = mirror_of(&registry).await;
    let mount = format!("/v2/team/app/blobs/uploads/?mount={blob}&from=team%2Fsecret");
    let begun = mirror.request(Method::POST, &mount, &[]).await;
    assert_eq!((begun.status, begun.header("location").is_some()), (202, true));
    let last = registry.requests().pop().unwrap();
    assert!(last.parameter("mount").is_empty() && last.parameter("from").is_empty(), "{last:?}");
    // Where nothing may be pushed, that is the answer.
    let refused = mirror.request(Method::POST, &mount.replace("team/app", "team/none"), &[]).await;
    assert_eq!(refused.status, 403);
}
