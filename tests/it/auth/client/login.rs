//! `docker login` asks `/v2/`: it succeeds when the upstream takes what was said.

use super::*;
use forebay_test_support::fake_registry::{Fault, Server, When};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_succeeds_exactly_when_the_upstream_takes_it() {
    let world = World::new().await;
    for auth in [Auth::Bearer(World::rules()), Auth::Basic { username: ANN.0.to_owned(), password: ANN.1.to_owned() }] {
        world.registry.require(auth);
        let mirror = world.mirror("").start().await;
        let nobody = mirror.get("/v2/").await;
        assert_eq!((nobody.status, &*nobody.error_code()), (401, "UNAUTHORIZED"));
        assert!(nobody.header("www-authenticate").unwrap().starts_with("Basic realm=\"forebay\""));
        for (who, status) in [(ANN, 200), ((ANN.0, "wrong"), 401), (("eve", ANN.1), 401), (("", ""), 401)] {
            let answer = get_as(&mirror, who, "/v2/").await;
            assert_eq!(answer.status, status, "{who:?}");
            assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        }
        for nonsense in ["Bearer token", "Basic !", "Basic"] {
            assert_eq!(mirror.get_with("/v2/", &[("authorization", nonsense)]).await.status, 401);
        }
        // Asked again and again, as docker does, it is the upstream's word of a moment ago.
        world.registry.forget_requests();
        assert_eq!(get_as(&mirror, ANN, "/v2/").await.status, 200);
        assert!(world.registry.requests().is_empty());
        // And in an outage.
        world.registry.take_down(Server::Api).await;
        assert_eq!(get_as(&mirror, ANN, "/v2/").await.status, 200);
        assert_eq!(get_as(&mirror, BOB, "/v2/").await.status, 502);
        world.registry.bring_up(Server::Api).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_hosts_of_client_upstreams_challenge() {
    let (world, hub) = (World::new().await, FakeRegistry::start().await);
    hub.add_image("library/app", "1", &[b"layer"]);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"hub.example\"\nurls = [\"{}\"]\ndefault = true\n\
         [[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\nhosts = [\"private.lan\"]\naccess = \"client\"\n",
        hub.url(),
        world.registry.url()
    ))
    .start()
    .await;
    for (path, host, status) in [
        ("/v2/", "mirror.lan", 200),
        ("/v2/library/app/manifests/1", "mirror.lan", 200),
        ("/v2/", "private.lan", 401),
        ("/v2/?ns=private.example", "mirror.lan", 401),
        ("/v2/?ns=hub.example", "private.lan", 200),
        ("/v2/team/a/manifests/1", "private.lan", 401),
        ("/v2/private.example/team/a/manifests/1", "mirror.lan", 401),
        ("/v2/team/open/manifests/1", "private.lan", 200),
    ] {
        let answer = mirror.get_with(path, &[("host", host)]).await;
        let challenges = answer.header("www-authenticate").is_some();
        assert_eq!((answer.status, challenges), (status, status == 401), "{path} at {host}");
    }
    // What is shown at the other, which has no users, is ignored: it goes nowhere.
    let ann = basic(ANN.0, ANN.1);
    let as_ann = [("host", "mirror.lan"), ("authorization", &*ann)];
    for path in ["/v2/", "/v2/library/app/manifests/1", "/v2/library/app/tags/list"] {
        assert_eq!(mirror.get_with(path, &as_ann).await.status, 200, "{path}");
    }
    assert!(hub.requests().iter().all(|request| request.header("authorization").is_none()));
}

/// `docker login mirror.lan` was for one of them; a path may name any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_at_one_upstreams_host_is_shown_to_no_other() {
    let (world, other) = (World::new().await, FakeRegistry::start().await);
    other.add_image("team/app", "1", &[b"layer"]);
    let text = |first: &str| {
        format!(
            "[[upstream]]\nname = \"first.example\"\nurls = [\"{}\"]\ndefault = true\n{first}\n\
             [[upstream]]\nname = \"other.example\"\nurls = [\"{}\"]\nhosts = [\"other.lan\"]\naccess = \"client\"\n",
            world.registry.url(),
            other.url()
        )
    };
    let (ann, path) = (basic(ANN.0, ANN.1), "/v2/other.example/team/app/manifests/1");
    other.require(Auth::Basic { username: ANN.0.to_owned(), password: ANN.1.to_owned() });

    let mirror = Mirror::parse(&text("access = \"client\"")).start().await;
    let refused = mirror.get_with(path, &[("authorization", &ann)]).await;
    assert_eq!((refused.status, &*refused.error_code()), (403, "DENIED"));
    assert!(refused.text().contains("upstream.hosts"), "{}", refused.text());
    assert!(other.requests().is_empty());
    assert_eq!(mirror.metric("forebay_auth_failures_total", &[("reason", "elsewhere")]).await, 1.0);
    for (path, host) in [("/v2/team/app/manifests/1", "other.lan"), ("/v2/team/app/manifests/1?ns=other.example", "x")]
    {
        let answer = mirror.get_with(path, &[("host", host), ("authorization", &ann)]).await;
        assert_eq!(answer.status, 200, "{path} at {host}");
    }
    // A path may name the upstream that a login is for.
    for first in ["", "push = true"] {
        let mirror = Mirror::parse(&text(first)).start().await;
        assert_eq!(mirror.get_with(path, &[("authorization", &ann)]).await.status, 200, "{first}");
    }
    let no_default = text("").replace("default = true", "");
    let mirror = Mirror::parse(&no_default).start().await;
    assert_eq!(mirror.get_with(path, &[("authorization", &ann)]).await.status, 200);
    // Not where it may be one of ours.
    let users = forebay_test_support::users::with_users();
    let htpasswd = users.path().join("htpasswd");
    for keys in [text(""), no_default] {
        let htpasswd = htpasswd.clone();
        let mirror = Mirror::parse(&keys).config(|config| config.access.htpasswd = Some(htpasswd)).start().await;
        other.forget_requests();
        assert_eq!(mirror.get_with(path, &[("authorization", &ann)]).await.status, 403);
        assert!(other.requests().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anonymous_pulls_upstream_users_may_pull() {
    let world = World::new().await;
    let mirror =
        world.mirror("").config(|config| config.access.anonymous = forebay::auth::Anonymous::None).start().await;
    let (open, private) = (layer("team/open", &world.open), layer("team/a", &world.of_ann));
    assert_eq!(mirror.get(&open).await.status, 401);
    assert!(world.registry.requests().is_empty());
    assert_eq!(get_as(&mirror, BOB, &open).await.status, 200);
    assert_eq!(get_as(&mirror, ANN, &private).await.status, 200);
    world.registry.fault(When::tokens(), Fault::status(503));
    assert_eq!(get_as(&mirror, ("carol", "x"), &private).await.status, 502);
}

/// What is shown with it is not for us to judge, so it is what was asked for that is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_digest_is_reported_to_every_client() {
    let world = World::new().await;
    let (open, closed) = (forebay::auth::Anonymous::Pull, forebay::auth::Anonymous::None);
    for (anonymous, who, status, code) in [
        (open, Some(ANN), 400, "DIGEST_INVALID"),
        (open, None, 400, "DIGEST_INVALID"),
        (closed, Some(ANN), 400, "DIGEST_INVALID"),
        (closed, Some((ANN.0, "wrong")), 401, "UNAUTHORIZED"),
        (closed, None, 401, "UNAUTHORIZED"),
    ] {
        let mirror = world.mirror("push = true").config(|config| config.access.anonymous = anonymous).start().await;
        let path = "/v2/team/a/manifests/sha256:baddigeststring";
        for method in [Method::GET, Method::PUT] {
            let answer = match who {
                Some(who) => request_as(&mirror, who, method.clone(), path).await,
                None => mirror.request(method.clone(), path, &[]).await,
            };
            assert_eq!((answer.status, &*answer.error_code()), (status, code), "{anonymous:?} {who:?} {method}");
        }
    }
    assert_eq!(world.registry.count(|request| request.path.starts_with("/v2/team")), 0);
}

/// A proxy with a single sign-on answers each request with 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_needs_the_answer_of_a_registry() {
    let world = World::new().await;
    let version = |value: &str| vec![("docker-distribution-api-version", value.to_owned())];
    for (headers, body, status) in [
        (vec![("content-type", "application/json".to_owned())], r#"{"login":"https://sso.example/"}"#, 502),
        (vec![], "", 502),
        (vec![], "[]", 502),
        (version("sso/1.0"), "", 502),
        (vec![("content-type", "text/html".to_owned())], "{}", 502),
        (version("registry/2.0"), "", 200),
        (vec![("content-type", "application/json".to_owned())], " {}\n", 200),
    ] {
        let mirror = world.mirror("").start().await;
        let answer = Fault::Answer { status: 200, headers: headers.clone(), body: body.to_owned() };
        world.registry.fault(When::base(), answer);
        assert_eq!(get_as(&mirror, BOB, "/v2/").await.status, status, "{headers:?} {body}");
        world.registry.heal();
        let later = get_as(&mirror, (BOB.0, "wrong"), "/v2/").await;
        assert_eq!(later.status, 401, "nothing was noted for another password: {headers:?} {body}");
    }
}

/// A host that the registry sends clients to does not know whom the registry takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_another_host_answers_is_none() {
    let (world, other) = (World::new().await, FakeRegistry::start().await);
    let mirror = world.mirror("").start().await;
    let headers = vec![("location", other.url().join("/v2/").unwrap().to_string())];
    world.registry.fault(When::base(), Fault::Answer { status: 302, headers, body: String::new() });
    assert_eq!(get_as(&mirror, BOB, "/v2/").await.status, 502);
    assert!(!other.requests().is_empty(), "it was asked, and would have answered 200");
    assert_eq!(other.count(|request| request.header("authorization").is_some()), 0);
    world.registry.heal();
    assert_eq!(get_as(&mirror, (BOB.0, "wrong"), "/v2/").await.status, 401);
}

/// The word that counts is the last one, also when the upstream cannot be asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_holds_in_an_outage() {
    for refusal in [401, 403] {
        let world = World::new().await;
        let mirror = world
            .mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"")
            .config(|config| config.cache.negative_ttl = std::time::Duration::ZERO)
            .start()
            .await;
        assert_eq!(get_as(&mirror, ANN, "/v2/").await.status, 200);
        world.registry.fault(When::base(), Fault::status(refusal));
        assert_eq!(get_as(&mirror, ANN, "/v2/").await.status, refusal);
        world.registry.take_down(Server::Api).await;
        assert_eq!(get_as(&mirror, ANN, "/v2/").await.status, 502, "{refusal}");
    }
}
