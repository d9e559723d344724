//! Credentials of forebay's own that its upstream refuses: no client is at fault, and what is cached goes on.

use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, When},
    program::Program,
};

/// How registries refuse a wrong password: with 401 or 403, themselves or at their realm.
fn auths(password: &str) -> [Auth; 4] {
    let (username, password) = ("robot".to_owned(), password.to_owned());
    let users = vec![(username.clone(), password.clone())];
    let bearer = Bearer { anonymous: false, users, ..Bearer::default() };
    [
        Auth::Basic { username: username.clone(), password: password.clone() },
        Auth::Forbidding { username, password },
        Auth::Bearer(bearer.clone()),
        Auth::Bearer(Bearer { wrong: 403, ..bearer }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cached_is_served_while_own_credentials_are_refused() {
    for (right, other) in auths("right").into_iter().zip(auths("other")) {
        is_served_while_credentials_are_refused(right, other).await;
    }
}

/// With the password `right`.
async fn serve(registry: &FakeRegistry) -> Program {
    let directory = tempfile::tempdir().unwrap();
    let configuration = format!(
        "[cache]\nmin_free = \"0\"\ntag_ttl = \"0\"\n[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n\
         username = \"robot\"\npassword_file = \"password\"\n",
        registry.url()
    );
    std::fs::write(directory.path().join("forebay.toml"), configuration).unwrap();
    std::fs::write(directory.path().join("password"), "right").unwrap();
    Program::serve(directory, "info").await
}

/// The line that tells whether the credentials are taken.
fn ok(metrics: String) -> String {
    let line = metrics.lines().find(|line| line.starts_with("forebay_upstream_credentials_ok{")).map(str::to_owned);
    line.unwrap_or_default()
}

/// Whatever the upstream says to it: with a base that tells whether a password is right, with one that does not, and at a realm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_a_forbidden_image_stops_no_other_pull() {
    let [basic, _, bearer, _] = auths("right");
    let Auth::Bearer(bearer) = bearer else { panic!("{bearer:?}") };
    let acr = Auth::Bearer(Bearer { refuse_scope: Some("private/"), ..bearer });
    let challenge = || Fault::challenge(r#"Basic realm="x""#);
    let private = || (When::path_of("/private/"), challenge());
    let open = (When::base(), Fault::status(200));
    for (auth, faults) in [(basic.clone(), vec![private()]), (basic, vec![private(), open]), (acr, vec![])] {
        let registry = FakeRegistry::start().await;
        for repository in ["team/app", "team/next"] {
            registry.add_image(repository, "1", &[b"layer"]);
        }
        registry.require(auth);
        for (when, fault) in &faults {
            registry.fault(when.clone(), fault.clone());
        }
        let program = serve(&registry).await;
        for poll in 0..50 {
            let (status, said) = program.get("/v2/private/app/manifests/1").await;
            assert!(matches!(status, 401 | 403), "{faults:?} {status} {said}");
            if let Some(repository) = match poll {
                20 => Some("team/app"),
                40 => Some("team/next"),
                _ => None,
            } {
                let (status, said) = program.get(&format!("/v2/{repository}/manifests/1")).await;
                assert_eq!(status, 200, "{faults:?} {repository} {said}");
            }
        }
        assert!(ok(program.metrics().await).ends_with(" 1"), "{faults:?}");
    }
}

async fn is_served_while_credentials_are_refused(right: Auth, other: Auth) {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    registry.require(right);
    let program = serve(&registry).await;
    let tags = "/v2/team/app/tags/list";
    let manifest = std::str::from_utf8(&image.manifest_bytes).unwrap().to_owned();
    assert_eq!(program.get("/v2/team/app/manifests/1").await, (200, manifest.clone()));
    let list = program.get(tags).await;
    assert_eq!(list.0, 200);
    assert!(ok(program.metrics().await).ends_with(" 1"));

    registry.require(other);
    registry.revoke_tokens();
    assert_eq!(program.get("/v2/team/app/manifests/1").await, (200, manifest));
    assert_eq!(program.get(tags).await, list);
    assert!(ok(program.metrics().await).ends_with(" 0"));
    // What is not cached is refused, and the client knows that it is not to log in.
    for path in ["/v2/team/app/manifests/2", &format!("/v2/team/app/blobs/{}", image.layers[0])] {
        let (status, said) = program.get(path).await;
        assert_eq!(status, 403, "{path}: {said}");
        assert!(said.contains("the credentials of this mirror, which are not yours"), "{said}");
    }
    let log = program.log();
    // Once a minute, should the test take as long.
    let told = log.matches("the upstream refuses forebay's own credentials: what is cached").count();
    assert!((1..=3).contains(&told), "{log}");

    std::fs::write(program.directory().join("password"), "other").unwrap();
    assert_eq!(program.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await.0, 200);
    assert!(ok(program.metrics().await).ends_with(" 1"));
}
