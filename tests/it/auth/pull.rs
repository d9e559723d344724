//! Access to pulls, as a client sees it; and no client sees credentials of an upstream.

use std::fs;

use forebay::auth::Anonymous;
use http::Method;

use forebay_test_support::manifest::manifest;
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Server},
    mirror::Mirror,
    program::Program,
    users::{basic, configuration, with_users},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_needs_the_right_password() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::parse(&configuration(&registry, &users, "none")).start().await;
    let paths = [
        "/v2/".to_owned(),
        manifest(1),
        manifest(&image.manifest),
        format!("/v2/team/app/blobs/{}", image.layers[0]),
        "/v2/team/app/tags/list".to_owned(),
    ];
    let wrong = [basic("ann", "wrong"), basic("eve", "secret"), "Bearer secret".to_owned(), "Basic !".to_owned()];
    // Before and after it is cached: what is at hand is guarded as well.
    for round in 0..2 {
        registry.forget_requests();
        for path in &paths {
            for method in [Method::GET, Method::HEAD] {
                let mut refused = vec![mirror.request(method.clone(), path, &[]).await];
                for wrong in &wrong {
                    refused.push(mirror.request(method.clone(), path, &[("authorization", wrong)]).await);
                }
                for refused in refused {
                    assert_eq!(refused.status, 401, "{method} {path}");
                    let challenge = refused.header("www-authenticate").unwrap();
                    assert!(challenge.starts_with("Basic realm=\"forebay\""), "{challenge}");
                    if method == Method::GET {
                        assert_eq!(refused.error_code(), "UNAUTHORIZED", "{path}");
                    }
                }
            }
        }
        assert!(registry.requests().is_empty(), "round {round}");
        for path in &paths {
            let right = mirror.get_with(path, &[("authorization", &basic("ann", "secret"))]).await;
            assert_eq!(right.status, 200, "{path}");
        }
    }
    for request in registry.requests() {
        assert_eq!(request.header("authorization"), None, "the client's password went to the upstream: {request:?}");
    }
    assert_eq!(mirror.request(Method::POST, "/v2/team/app/blobs/uploads/", &[]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_wrong_where_none_are_needed() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::parse(&configuration(&registry, &users, "pull")).start().await;
    for path in ["/v2/".to_owned(), manifest(1)] {
        assert_eq!(mirror.get(&path).await.status, 200);
        for (password, status) in [("secret", 200), ("wrong", 401), ("", 401)] {
            let answer = mirror.get_with(&path, &[("authorization", &basic("ann", password))]).await;
            assert_eq!(answer.status, status, "{path}: {password}");
        }
        assert_eq!(mirror.get_with(&path, &[("authorization", "Bearer x")]).await.status, 401);
    }
    for (reason, count) in [("wrong", 4.0), ("malformed", 2.0)] {
        assert_eq!(mirror.metric("forebay_auth_failures_total", &[("reason", reason)]).await, count, "{reason}");
    }
}

/// A header in containerd's hosts.toml, an old login file, a token for another host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_mirror_without_users_ignores_credentials() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let paths = [
        "/v2/".to_owned(),
        manifest(1),
        manifest(&image.manifest),
        format!("/v2/team/app/blobs/{}", image.layers[0]),
        "/v2/team/app/tags/list".to_owned(),
    ];
    let shown = [
        basic("ann", "secret"),
        "Bearer secret".to_owned(),
        "Basic !".to_owned(),
        format!("Bearer {}", "x".repeat(24_000)),
    ];
    // Before and after it is cached.
    for _ in 0..2 {
        for (path, shown) in paths.iter().flat_map(|path| shown.iter().map(move |shown| (path, shown))) {
            for method in [Method::GET, Method::HEAD] {
                let answer = mirror.request(method.clone(), path, &[("authorization", shown)]).await;
                assert_eq!(answer.status, 200, "{method} {path}");
                assert_eq!(answer.header("www-authenticate"), None, "{method} {path}");
            }
        }
    }
    // What is refused is refused for what it is.
    let shown = [("authorization", &*shown[0])];
    assert_eq!(mirror.get_with("/v2/team/app/manifests/2", &shown).await.status, 404);
    assert_eq!(mirror.get_with("/v2/?ns=other.example", &shown).await.status, 404);
    assert_eq!(mirror.request(Method::POST, "/v2/team/app/blobs/uploads/", &shown).await.status, 405);
    assert_eq!(registry.count(|request| request.header("authorization").is_some()), 0, "they are passed on nowhere");
    // Not where only those may pull who can say who they are.
    let closed = Mirror::build(&registry).config(|config| config.access.anonymous = Anonymous::None).start().await;
    for path in &paths {
        assert_eq!(closed.get_with(path, &shown).await.status, 401, "{path}");
    }
}

/// In each process, whatever clients show, and how often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_credentials_are_ignored_is_logged_once() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = \"1 B\"\n[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n",
        registry.url()
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let program = Program::serve(directory, "info").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for n in 0..5 {
        let request = client.get(format!("http://{}{}", program.registry, manifest(1)));
        let answer = request.header("authorization", basic("ann", &format!("pa55-{n}"))).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let log = program.log();
    assert_eq!(log.matches("shows credentials").count(), 1, "{log}");
    assert!(!log.contains("pa55") && !log.contains(&basic("ann", "pa55")["Basic ".len()..][..8]), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_forebay_shows_the_upstream_is_shown_to_no_client() {
    let registry = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("password"), "up-secret\n").unwrap();
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let users = vec![("robot".to_owned(), "up-secret".to_owned())];
    registry.require(Auth::Bearer(Bearer { anonymous: false, users, ..Bearer::default() }));
    let text = format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\nusername = \"robot\"\npassword_file = \"{}\"\n",
        registry.url(),
        directory.path().join("password").display()
    );
    let mirror = Mirror::parse(&text).start().await;
    let paths = [
        manifest(1),
        format!("/v2/team/app/blobs/{}", image.layers[0]),
        "/v2/team/app/tags/list".to_owned(),
        manifest(2),
        "/v2/".to_owned(),
    ];
    let new = "/v2/team/app/tags/list?n=9".to_owned();
    let secrets = ["token-", "up-secret", "robot", &basic("robot", "up-secret")["Basic ".len()..]];
    for refusing in [false, true] {
        for path in paths.iter().chain(refusing.then_some(&new)) {
            let answer = mirror.get(path).await;
            if refusing && path.ends_with("list") {
                assert_eq!(answer.status, 200, "the credentials are not the client's: what is known goes on");
            }
            if path == &new {
                assert_eq!((answer.status, &*answer.error_code()), (403, "UNAVAILABLE"));
            }
            let shown = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
            for secret in secrets {
                assert!(!shown.contains(secret), "{path} shows {secret}: {shown}");
            }
            assert_eq!(answer.header("www-authenticate"), None, "{path}");
        }
        // The password is changed upstream, and forebay does not know it.
        registry.require(Auth::Bearer(Bearer { anonymous: false, ..Bearer::default() }));
        registry.revoke_tokens();
    }
    assert!(registry.count(|request| request.server == Server::Realm) > 0);
    assert!(registry.count(|request| request.header("authorization").is_some_and(|it| it.starts_with("Bearer "))) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guesser_is_stopped_and_the_owner_is_not() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::parse(&configuration(&registry, &users, "none")).start().await;
    let right = basic("ann", "secret");
    let as_ann = [("authorization", &*right)];
    let mut judged = 0;
    for n in 0..300 {
        let guess = basic("ann", &format!("guess {n}"));
        let answer = mirror.get_with(&manifest(1), &[("authorization", &guess)]).await;
        judged += usize::from(answer.status == 401);
        if answer.status != 401 {
            assert_eq!((answer.status, &*answer.error_code()), (429, "TOOMANYREQUESTS"));
            assert!((1..=30).contains(&answer.header("retry-after").unwrap().parse::<u64>().unwrap()));
        }
    }
    assert!((20..=25).contains(&judged), "{judged}");
    // It was never shown before, so at this address it is one more guess; not at another one.
    assert_eq!(mirror.get_with("/v2/", &as_ann).await.status, 429);
    let elsewhere =
        reqwest::Client::builder().no_proxy().local_address("127.0.0.2".parse::<std::net::IpAddr>().unwrap());
    let request = elsewhere.build().unwrap().get(format!("{}{}", mirror.url(), manifest(1)));
    assert_eq!(request.header("authorization", &right).send().await.unwrap().status(), 200);
    // Then it is known to be right, here too, and after a reload that changes nothing of it.
    assert_eq!(mirror.get_with("/v2/", &as_ann).await.status, 200);
    mirror.app().reload(mirror.config().clone()).unwrap();
    assert_eq!(mirror.get_with("/v2/", &[("authorization", &basic("ann", "guess"))]).await.status, 429);
}
