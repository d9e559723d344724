//! Only an authenticated client pushes with forebay's own credentials.

use std::fs;

use http::Method;
use rcgen::ExtendedKeyUsagePurpose;

use super::{UPLOADS, build, mirror_of};
use forebay_test_support::users::{basic, with_users, write_users};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry},
    mirror::Mirror,
    test_server::Certificates,
};

fn changes() -> Vec<(Method, String)> {
    let digest = super::digest(b"");
    vec![
        (Method::POST, UPLOADS.to_owned()),
        (Method::POST, format!("{UPLOADS}?mount={digest}&from=team/other")),
        (Method::GET, format!("{UPLOADS}1?_state=x")),
        (Method::PATCH, format!("{UPLOADS}1?_state=x")),
        (Method::PUT, "/v2/team/app/manifests/1".to_owned()),
        (Method::DELETE, "/v2/team/app/manifests/1".to_owned()),
        (Method::DELETE, format!("/v2/team/app/manifests/{digest}")),
        (Method::DELETE, format!("/v2/team/app/blobs/{digest}")),
    ]
}

/// With credentials, and with users of its own.
fn text(registry: &FakeRegistry, access: &str, password: &std::path::Path) -> String {
    format!(
        "[access]\n{access}\n[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\npush = true\n\
         username = \"robot\"\npassword_file = \"{}\"\n",
        registry.url(),
        password.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_forebay_has_credentials_a_change_needs_a_user() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let password = users.path().join("password");
    fs::write(&password, "up-secret").unwrap();
    let robot = vec![("robot".to_owned(), "up-secret".to_owned())];
    registry.require(Auth::Bearer(Bearer { anonymous: false, users: robot, ..Bearer::default() }));
    registry.add_image("team/app", "1", &[b"layer"]);
    let htpasswd = format!("htpasswd = \"{}\"", users.path().join("htpasswd").display());

    let mirror = Mirror::parse(&text(&registry, &htpasswd, &password)).start().await;
    for (method, path) in changes() {
        let refused = mirror.send(method.clone(), &path, &[], "").await;
        assert_eq!((refused.status, &*refused.error_code()), (401, "UNAUTHORIZED"), "{method} {path}");
        assert!(refused.header("www-authenticate").unwrap().starts_with("Basic realm=\"forebay\""));
        let wrong = mirror.send(method.clone(), &path, &[("authorization", &basic("ann", "wrong"))], "").await;
        assert_eq!(wrong.status, 401, "{method} {path}");
    }
    // Docker sends what it has only where it was asked when it came.
    let base = mirror.get("/v2/").await;
    assert_eq!((base.status, base.header("www-authenticate").is_some()), (401, true));
    assert!(registry.requests().is_empty());
    let ann = basic("ann", "secret");
    assert_eq!(mirror.get_with("/v2/", &[("authorization", &ann)]).await.status, 200);
    assert_eq!(mirror.request(Method::POST, UPLOADS, &[("authorization", &ann)]).await.status, 202);
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200, "a pull needs no user");

    // Without users no client can be one.
    let mirror = Mirror::parse(&text(&registry, "", &password)).start().await;
    registry.forget_requests();
    for (method, path) in changes() {
        let refused = mirror.send(method.clone(), &path, &[], "").await;
        assert_eq!((refused.status, &*refused.error_code()), (403, "DENIED"), "{method} {path}");
        assert!(refused.text().contains("access.htpasswd"), "it says what is missing: {}", refused.text());
    }
    assert_eq!(mirror.get("/v2/").await.status, 200);
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn where_forebay_has_none_the_upstream_decides() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    assert_eq!(mirror.get("/v2/").await.status, 200);
    assert_eq!(mirror.request(Method::POST, UPLOADS, &[]).await.status, 202);
    registry.require(Auth::Bearer(Bearer { anonymous: false, ..Bearer::default() }));
    for (method, path) in [(Method::POST, UPLOADS), (Method::DELETE, "/v2/team/app/manifests/1")] {
        let refused = mirror.request(method, path, &[]).await;
        assert_eq!((refused.status, &*refused.error_code()), (403, "DENIED"));
        assert_eq!(refused.header("www-authenticate"), None);
    }
    // The upstream does not know a user of forebay.
    let users = with_users();
    let htpasswd = users.path().join("htpasswd");
    let mirror = build(&registry).config(|config| config.access.htpasswd = Some(htpasswd)).start().await;
    assert_eq!(mirror.get("/v2/").await.status, 200);
    let ann = basic("ann", "secret");
    assert_eq!(mirror.request(Method::POST, UPLOADS, &[("authorization", &ann)]).await.status, 403);
    assert!(registry.requests().iter().all(|request| request.header("authorization") != Some(&ann)));
}

#[tokio::test]
async fn one_upstream_takes_pushes_and_the_other_does_not() {
    let (hub, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"hub.example\"\nurls = [\"{}\"]\ndefault = true\n\
         [[upstream]]\nname = \"other.example\"\nurls = [\"{}\"]\npush = true\n",
        hub.url(),
        other.url()
    ))
    .start()
    .await;
    for (method, path) in changes() {
        let refused = mirror.send(method.clone(), &path, &[], "").await;
        assert_eq!((refused.status, &*refused.error_code()), (405, "UNSUPPORTED"), "{method} {path}");
    }
    let begun = mirror.request(Method::POST, &UPLOADS.replace("team/", "other.example/team/"), &[]).await;
    assert_eq!(begun.status, 202);
    assert!(hub.requests().is_empty());
}

/// A daemon that uses forebay as its mirror must not be made to send what it has for Docker Hub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pushes_that_need_a_user_challenge() {
    let (hub, other, users) = (FakeRegistry::start().await, FakeRegistry::start().await, with_users());
    let password = users.path().join("password");
    fs::write(&password, "up-secret").unwrap();
    let credentials = format!("username = \"robot\"\npassword_file = \"{}\"\n", password.display());
    let mirror = Mirror::parse(&format!(
        "[access]\nhtpasswd = \"{}\"\n\
         [[upstream]]\nname = \"hub.example\"\nurls = [\"{}\"]\ndefault = true\n{credentials}\
         [[upstream]]\nname = \"other.example\"\nurls = [\"{}\"]\nhosts = [\"push.lan\"]\npush = true\n{credentials}",
        users.path().join("htpasswd").display(),
        hub.url(),
        other.url()
    ))
    .start()
    .await;
    for (path, host, status) in [
        ("/v2/", "mirror.lan", 200),
        ("/v2/", "push.lan", 401),
        ("/v2/?ns=other.example", "mirror.lan", 401),
        ("/v2/?ns=hub.example", "push.lan", 200),
    ] {
        let answer = mirror.get_with(path, &[("host", host)]).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate").is_some()),
            (status, status == 401),
            "{path} {host}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_listed_users_may_push() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    write_users(&users, &[("ann", "secret"), ("ci", "machine")]);
    let password = users.path().join("password");
    fs::write(&password, "up-secret").unwrap();
    let access = format!("htpasswd = \"{}\"\npush_users = [\"ci\"]", users.path().join("htpasswd").display());
    let with_credentials = text(&registry, &access, &password);
    let without = with_credentials.split("username").next().unwrap().to_owned();
    let [ann, ci] = [basic("ann", "secret"), basic("ci", "machine")];
    for text in [with_credentials, without] {
        registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = Mirror::parse(&text).start().await;
        registry.forget_requests();
        for (method, path) in changes() {
            let refused = mirror.send(method.clone(), &path, &[("authorization", &ann)], "").await;
            assert_eq!((refused.status, &*refused.error_code()), (403, "DENIED"), "{method} {path}");
            assert!(refused.text().contains("access.push_users"), "it says what to do: {}", refused.text());
            assert_eq!(mirror.send(method.clone(), &path, &[], "").await.status, 401, "{method} {path}");
        }
        assert_eq!(mirror.get("/v2/").await.status, 401, "docker sends a name only where it was asked for one");
        assert!(registry.requests().is_empty());
        // All of them may pull.
        for who in [&[][..], &[("authorization", &*ann)], &[("authorization", &*ci)]] {
            assert_eq!(mirror.get_with("/v2/team/app/manifests/1", who).await.status, 200);
        }
        assert_eq!(mirror.request(Method::POST, UPLOADS, &[("authorization", &ci)]).await.status, 202);
        for (method, path) in changes() {
            let passed = mirror.send(method.clone(), &path, &[("authorization", &ci)], "").await;
            assert!(!matches!(passed.status, 401 | 403), "{method} {path}: {}", passed.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_pushes_only_where_it_is_named() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let password = users.path().join("password");
    fs::write(&password, "up-secret").unwrap();
    let clients = Certificates::new();
    let certificates = Certificates::new().with_client_ca(&clients);
    let (certificate, key) = clients.issue(ExtendedKeyUsagePurpose::ClientAuth);
    let identity = reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap();
    let client = certificates.client().identity(identity).build().unwrap();
    let htpasswd = format!("htpasswd = \"{}\"", users.path().join("htpasswd").display());
    for (named, may_push) in [
        ("", false),
        ("push_users = []", false),
        ("push_users = [\"ann\"]", false),
        ("push_users = [\"ann\", \"certificate:*\"]", true),
    ] {
        let tls = format!(
            "[server.tls]\ncertificate = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
            certificates.config.certificate.display(),
            certificates.config.key.display(),
            certificates.path("clients.crt").display()
        );
        let access = format!("anonymous = \"none\"\n{htpasswd}\n{named}");
        let mirror = Mirror::parse(&format!("{tls}{}", text(&registry, &access, &password))).start().await;
        let url = |path: &str| format!("https://localhost:{}{path}", mirror.address().port());
        for path in ["/v2/".to_owned(), format!("/v2/team/app/manifests/{}", image.manifest)] {
            assert_eq!(client.get(url(&path)).send().await.unwrap().status(), 200, "{named} {path}");
        }
        let begun = client.post(url(UPLOADS)).send().await.unwrap();
        assert_eq!(begun.status(), if may_push { 202 } else { 403 }, "{named}");
        if !may_push {
            let body = begun.text().await.unwrap();
            assert!(body.contains("DENIED") && body.contains("access.push_users"), "{body}");
        }
    }
}

/// There, a name that a client gives itself is none of `access.htpasswd`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_decides_by_its_clients_decides_of_pushes() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    registry.add_image("team/app", "1", &[b"layer"]);
    let bob = vec![("bob".to_owned(), "bobs".to_owned())];
    registry.require(Auth::Bearer(Bearer { anonymous: false, users: bob, ..Bearer::default() }));
    let text = format!(
        "[access]\nhtpasswd = \"{}\"\npush_users = [\"ann\"]\n\
         [[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\npush = true\n",
        users.path().join("htpasswd").display(),
        registry.url()
    );
    let mirror = Mirror::parse(&text).start().await;
    for ((user, password), status) in [(("bob", "bobs"), 202), (("ann", "secret"), 401)] {
        let begun = mirror.request(Method::POST, UPLOADS, &[("authorization", &basic(user, password))]).await;
        assert_eq!(begun.status, status, "{user}");
    }
}
