//! Credentials: where they come from, in which dialect they are shown, and that they can change.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use forebay::upstream::{Config, CredentialSource, ErrorKind};
use http::Method;
use tempfile::TempDir;

use crate::upstream::{MANIFEST, Subject, WHOLE, accept, config, has_credentials, kind, name, reference_of};
use forebay_test_support::fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Record, Server, To, When};
use forebay_test_support::users::basic;

fn users() -> Vec<(String, String)> {
    vec![("me".to_owned(), "se:cret".to_owned())]
}

/// Only users get a token.
fn bearer() -> Bearer {
    Bearer { anonymous: false, users: users(), ..Bearer::default() }
}

fn asked_realm(request: &Record) -> bool {
    request.server == Server::Realm
}

fn asks(registry: &FakeRegistry) -> Vec<Record> {
    registry.requests().into_iter().filter(asked_realm).collect()
}

async fn registry(auth: Auth) -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    registry.require(auth);
    registry
}

/// A file, in a directory that lives as long as the test wants.
fn file(directory: &TempDir, content: &str) -> PathBuf {
    let path = directory.path().join("secret");
    std::fs::write(&path, content).unwrap();
    path
}

fn with_password(registry: &FakeRegistry, directory: &TempDir, password: &str) -> Config {
    let credential = CredentialSource::Password { username: "me".into(), password_file: file(directory, password) };
    Config { credential, ..config(registry) }
}

fn with_identity_token(registry: &FakeRegistry, directory: &TempDir, token: &str) -> Config {
    let host = registry.url().to_string().replace("http://", "").replace('/', "");
    let text = format!(r#"{{"auths":{{"{host}":{{"auth":"{}","identitytoken":"{token}"}}}}}}"#, STANDARD.encode("me:"));
    Config { credential: CredentialSource::DockerConfig(file(directory, &text)), ..config(registry) }
}

#[tokio::test]
async fn a_password_is_shown_to_the_realm_alone() {
    let registry = registry(Auth::Bearer(bearer())).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret\n"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let asked = asks(&registry);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), Some(basic("me", "se:cret").as_str()));
    assert_eq!(asked[0].parameter("account"), ["me"]);
    let shown_elsewhere =
        |request: &Record| request.header("authorization").is_some_and(|shown| shown.starts_with("Basic"));
    assert_eq!(registry.count(|request| request.server != Server::Realm && shown_elsewhere(request)), 0);
}

#[tokio::test]
async fn a_realm_that_knows_only_post_gets_the_password_by_post() {
    for status in [404, 405] {
        let registry = registry(Auth::Bearer(Bearer { refuse_get: Some(status), ..bearer() })).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{status}");
        let posted = asks(&registry).pop().unwrap();
        assert_eq!(posted.method, Method::POST);
        for (name, value) in [
            ("grant_type", "password"),
            ("username", "me"),
            ("password", "se:cret"),
            ("client_id", "forebay"),
            ("service", "fake.registry"),
            ("scope", "repository:team/app:pull"),
        ] {
            assert_eq!(posted.parameter(name), [value]);
        }
        assert!(!has_credentials(&posted) && posted.query.is_empty());
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let registry = registry(Auth::Bearer(Bearer { refresh_token: Some("long".into()), ..bearer() })).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_identity_token(&registry, &directory, "long"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let asked = asks(&registry);
    assert_eq!((asked.len(), &asked[0].method), (1, &Method::POST));
    assert_eq!(asked[0].parameter("grant_type"), ["refresh_token"]);
    assert_eq!(asked[0].parameter("refresh_token"), ["long"]);
    assert_eq!(asked[0].parameter("client_id"), ["forebay"]);
    assert_eq!(asked[0].parameter("scope"), ["repository:team/app:pull"]);
}

#[tokio::test]
async fn a_realm_without_post_gets_the_identity_token_by_get() {
    for status in [400, 401, 404, 405, 307] {
        let users = vec![("me".to_owned(), "long".to_owned())];
        let registry = registry(Auth::Bearer(Bearer { refuse_post: Some(status), users, ..bearer() })).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_identity_token(&registry, &directory, "long"));
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{status}");
        let asked = asks(&registry);
        assert_eq!((&asked[0].method, &asked[1].method), (&Method::POST, &Method::GET));
        assert_eq!(asked[1].header("authorization"), Some(basic("me", "long").as_str()));
    }
    let registry = registry(Auth::Bearer(Bearer { refuse_post: Some(503), ..bearer() })).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_identity_token(&registry, &directory, "long"));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    assert_eq!(registry.count(asked_realm), 1);
}

#[tokio::test]
async fn a_wrong_password_is_a_refusal_and_is_read_again() {
    let registry = registry(Auth::Bearer(bearer())).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials));
    // For the repository, and for none.
    assert_eq!(registry.count(asked_realm), 2);
    let refused = r#"forebay_tokens_total{result="refused",upstream="fake.example"}"#;
    assert_eq!(subject.metric(refused), 2);
    file(&directory, "se:cret");
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn a_password_that_was_rotated_works_at_once() {
    let registry = registry(Auth::Bearer(bearer())).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let users = vec![("me".to_owned(), "new".to_owned())];
    registry.require(Auth::Bearer(Bearer { users, ..bearer() }));
    registry.revoke_tokens();
    registry.forget_requests();
    file(&directory, "new");
    assert!(subject.manifest("team/app", "1").await.is_ok());
    // The old password for the repository and for none, the new one once.
    assert_eq!(registry.count(asked_realm), 3);
}

fn basic_auth(password: &str) -> Auth {
    Auth::Basic { username: "me".into(), password: password.into() }
}

#[tokio::test]
async fn basic_goes_to_the_registry_and_not_to_its_blob_host() {
    let registry = registry(basic_auth("se:cret")).await;
    let layer = registry.add_blob("team/app", &b"layer"[..]);
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(subject.blob("team/app", &layer, WHOLE).await.unwrap(), b"layer");
    assert!(subject.upstream.ping().await.is_ok());
    assert_eq!(registry.count(|request| request.server == Server::Cdn && has_credentials(request)), 0);
    // After the first challenge it is sent without another, as far as the ping is not concerned.
    let challenged = r#"forebay_upstream_requests_total{operation="manifest",status="401",upstream="fake.example"}"#;
    assert_eq!(subject.metric(challenged), 1);
    let challenged = r#"forebay_upstream_requests_total{operation="blob",status="401",upstream="fake.example"}"#;
    assert_eq!(subject.metric(challenged), 0);
}

#[tokio::test]
async fn a_wrong_basic_is_a_refusal_and_a_rotated_one_works_at_once() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials));
    assert_eq!(kind(subject.upstream.ping().await), Some(ErrorKind::OurCredentials));
    file(&directory, "se:cret");
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.require(basic_auth("new"));
    file(&directory, "new");
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

/// How often a password was shown.
fn shown(registry: &FakeRegistry) -> usize {
    registry.count(|request| request.header("authorization").is_some_and(|shown| shown.starts_with("Basic")))
}

/// As ECR and GHCR do, which say 403 to a wrong password.
fn forbidding(password: &str) -> [Auth; 2] {
    let users = vec![("me".to_owned(), password.to_owned())];
    [
        Auth::Forbidding { username: "me".into(), password: password.into() },
        Auth::Bearer(Bearer { wrong: 403, users, ..bearer() }),
    ]
}

/// 403, in the registry's words.
fn denied() -> Fault {
    Fault::Answer {
        status: 403,
        headers: vec![("content-type", "application/json".to_owned())],
        body: r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}"#.to_owned(),
    }
}

#[tokio::test]
async fn a_refused_password_is_not_shown_for_every_request() {
    let [basic_403, bearer_403] = forbidding("se:cret");
    for auth in [Auth::Bearer(bearer()), basic_auth("se:cret"), basic_403, bearer_403] {
        let registry = registry(auth.clone()).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
        let repositories: Vec<String> = (0..40).map(|number| format!("team/app{number}")).collect();
        let at_once = repositories.iter().map(|repository| subject.manifest(repository, "1"));
        for refused in futures_util::future::join_all(at_once).await {
            assert_eq!(kind(refused), Some(ErrorKind::OurCredentials), "{auth:?}");
        }
        for repository in &repositories {
            assert_eq!(kind(subject.manifest(repository, "1").await), Some(ErrorKind::OurCredentials), "{auth:?}");
        }
        // It may be about the request: the base, or the realm, is asked about the password.
        assert_eq!(shown(&registry), 2, "{auth:?}");
        assert!(subject.metrics.encode().unwrap().contains(&format!("{CREDENTIALS_OK} 0\n")), "{auth:?}");
        assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1, "it answers");
        // Another one is shown at once, and only it.
        file(&directory, "se:cret");
        registry.forget_requests();
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{auth:?}");
        assert_eq!(subject.metric(CREDENTIALS_OK), 1);
        assert!(
            registry
                .requests()
                .iter()
                .filter(|request| has_credentials(request))
                .all(|request| { request.header("authorization") != Some(&basic("me", "wrong")) })
        );
    }
}

const CREDENTIALS_OK: &str = r#"forebay_upstream_credentials_ok{upstream="fake.example"}"#;

#[tokio::test]
async fn a_password_that_was_taken_and_then_refused_is_shown_once() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.require(basic_auth("new"));
    registry.forget_requests();
    for _ in 0..20 {
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials));
    }
    // The base was asked whether it still takes it.
    assert_eq!(shown(&registry), 2);
    // The pause is over: the same once more, and no more than that.
    pass(11).await;
    for _ in 0..20 {
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials));
    }
    assert_eq!(shown(&registry), 4);
    registry.require(basic_auth("se:cret"));
    pass(11).await;
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials), "it grows");
    pass(11).await;
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

/// Asks for so many manifests at once, and gives what becomes of them as it comes.
fn at_once(subject: &Subject, number: usize) -> tokio::task::JoinSet<Option<ErrorKind>> {
    (0..number)
        .map(|number| {
            let upstream = subject.upstream.clone();
            async move {
                let (repository, accept) = (name(&format!("team/app{number}")), accept(&[MANIFEST]));
                kind(upstream.get_manifest(&repository, &reference_of("1"), &accept).await)
            }
        })
        .collect()
}

/// LDAP behind a realm may take its time, and locks an account after a few wrong passwords.
#[tokio::test]
async fn a_password_that_is_refused_slowly_is_shown_once() {
    for (auth, when) in [(Auth::Bearer(bearer()), When::tokens()), (basic_auth("se:cret"), When::any().authorized())] {
        let registry = registry(auth.clone()).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
        for (round, at_the_gate) in [(1, 0), (2, 39)] {
            let gate = Gate::new();
            registry.heal();
            registry.fault(when.clone(), Fault::HoldHead(gate.clone()));
            let mut asking = at_once(&subject, 40);
            gate.reached().await;
            pass(3).await;
            // Where it was refused before, what it was told is told meanwhile.
            for _ in 0..at_the_gate {
                assert_eq!(asking.join_next().await.unwrap().unwrap(), Some(ErrorKind::OurCredentials), "{auth:?}");
            }
            assert_eq!(shown(&registry), 2 * round - 1, "{auth:?}");
            gate.open();
            for told in asking.join_all().await {
                assert_eq!(told, Some(ErrorKind::OurCredentials), "{auth:?}");
            }
            // The base, or the realm without a scope, has said so, too.
            assert_eq!(shown(&registry), 2 * round, "{auth:?}");
            pass(11).await;
        }
    }
}

/// Those that waited for the verdict do not go one after the other.
#[tokio::test]
async fn once_a_password_is_taken_all_go_on_at_once() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    let (first, rest) = (Gate::new(), Gate::new());
    registry.fault_times(1, When::manifests().authorized(), Fault::HoldHead(first.clone()));
    let mut asking = at_once(&subject, 1);
    first.reached().await;
    registry.fault(When::manifests().authorized(), Fault::HoldHead(rest.clone()));
    let waiting = at_once(&subject, 10);
    first.open();
    assert_eq!(asking.join_next().await.unwrap().unwrap(), Some(ErrorKind::NotFound));
    rest.reached_by(10).await;
    rest.open();
    assert!(waiting.join_all().await.iter().all(|told| *told == Some(ErrorKind::NotFound)));
}

#[tokio::test]
async fn a_changed_password_that_is_wrong_is_shown_once() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.require(basic_auth("new"));
    file(&directory, "wrong");
    registry.forget_requests();
    for told in at_once(&subject, 40).join_all().await {
        assert_eq!(told, Some(ErrorKind::OurCredentials));
    }
    // Of those that were on their way with the old one, one asks the base, as does the first with the new one.
    assert_eq!(registry.count(|request| request.path == "/v2/"), 2);
    let changed = basic("me", "wrong");
    assert_eq!(registry.count(|request| request.header("authorization") == Some(&changed)), 2);
}

/// Lets time pass for what counts it by the runtime's clock.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_401_to_what_is_not_for_us_is_none_to_the_password() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.fault(When::path_of("/private/"), Fault::challenge(r#"Basic realm="x""#));
    for _ in 0..3 {
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Unauthorized));
        assert!(subject.manifest("team/app", "1").await.is_ok());
    }
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
}

/// The first request after a start may be for what is not for us.
#[tokio::test]
async fn a_401_is_none_to_a_password_that_the_base_takes() {
    let bases = [Fault::status(200), Fault::status(404), Fault::no_backend()];
    for base in bases {
        let registry = registry(basic_auth("se:cret")).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
        registry.fault(When::base().authorized(), base.clone());
        registry.fault(When::path_of("/private/"), Fault::challenge(r#"Basic realm="x""#));
        for _ in 0..2 {
            assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Unauthorized), "{base:?}");
            assert_eq!(subject.metric(CREDENTIALS_OK), 1, "{base:?}");
        }
        // What the base has taken was taken: no other one has to wait for its turn.
        assert_eq!(shown(&registry), 4, "{base:?}");
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{base:?}");
    }
}

#[tokio::test]
async fn a_base_that_refuses_a_password_gets_one_request() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
    assert_eq!(kind(subject.upstream.ping().await), Some(ErrorKind::OurCredentials));
    assert_eq!(shown(&registry), 1);
}

#[tokio::test]
async fn of_requests_refused_together_not_each_asks_the_base() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::challenge(r#"Basic realm="x""#));
    registry.fault(When::base().authorized(), Fault::HoldHead(gate.clone()));
    let asking = at_once(&subject, 10);
    gate.reached().await;
    // The first challenge, and the ten.
    let refused = r#"forebay_upstream_requests_total{operation="manifest",status="401",upstream="fake.example"}"#;
    while subject.metric(refused) < 11 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert!(asking.join_all().await.iter().all(|told| *told == Some(ErrorKind::Unauthorized)));
    assert!(registry.count(|request| request.path == "/v2/" && has_credentials(request)) < 10);
}

/// A base that answers everybody says nothing of a password.
#[tokio::test]
async fn a_401_at_one_repository_leaves_a_try_to_another() {
    let registry = registry(basic_auth("se:cret")).await;
    registry.fault(When::base(), Fault::status(200));
    registry.fault(When::path_of("/private/"), Fault::challenge(r#"Basic realm="x""#));
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
    for repository in ["private/app", "private/app", "team/app", "team/app", "team/other", "private/app"] {
        assert_eq!(kind(subject.manifest(repository, "1").await), Some(ErrorKind::OurCredentials));
    }
    assert_eq!(registry.count(|request| request.path.contains("/manifests/") && has_credentials(request)), 2);
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    for _ in 0..3 {
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::OurCredentials));
    }
    for _ in 0..3 {
        assert!(subject.manifest("team/app", "1").await.is_ok());
        assert_eq!(
            kind(subject.manifest("private/app", "1").await),
            Some(ErrorKind::Unauthorized),
            "once it was taken"
        );
    }
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
}

/// As ACR says to what is not for the user.
#[tokio::test]
async fn a_realms_401_to_a_scope_is_none_to_the_password() {
    let registry = registry(Auth::Bearer(Bearer { refuse_scope: Some("private/"), ..bearer() })).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    for _ in 0..3 {
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Unauthorized));
        assert_eq!(subject.metric(CREDENTIALS_OK), 1);
    }
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn a_password_that_is_answered_by_403_is_read_anew() {
    for (old, new) in forbidding("se:cret").into_iter().zip(forbidding("new")) {
        let registry = registry(old.clone()).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
        assert!(subject.manifest("team/app", "1").await.is_ok());
        registry.require(new);
        registry.revoke_tokens();
        file(&directory, "new");
        registry.forget_requests();
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{old:?}");
        assert_eq!(subject.metric(CREDENTIALS_OK), 1, "{old:?}");
        // It has died, and there is no other one.
        registry.require(old.clone());
        registry.revoke_tokens();
        registry.forget_requests();
        for _ in 0..10 {
            assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials), "{old:?}");
        }
        assert!(shown(&registry) <= 3, "{old:?}: {}", shown(&registry));
        assert!(subject.metrics.encode().unwrap().contains(&format!("{CREDENTIALS_OK} 0\n")), "{old:?}");
    }
}

/// Whatever the base says, to all or to this user: a password for which something is given is right.
#[tokio::test]
async fn a_403_for_lack_of_rights_is_none_to_the_password() {
    let [basic_403, bearer_403] = forbidding("se:cret");
    for base in [None, Some(When::base()), Some(When::base().authorized())] {
        for auth in [basic_403.clone(), basic_auth("se:cret"), bearer_403.clone()] {
            let registry = registry(auth.clone()).await;
            let directory = TempDir::new().unwrap();
            let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
            assert!(subject.manifest("team/app", "1").await.is_ok(), "{auth:?}");
            registry.fault(When::path_of("/private/"), denied());
            if let Some(base) = &base {
                registry.fault(base.clone(), denied());
            }
            for _ in 0..3 {
                assert_eq!(
                    kind(subject.manifest("private/app", "1").await),
                    Some(ErrorKind::Denied),
                    "{base:?} {auth:?}"
                );
                assert!(subject.manifest("team/app", "1").await.is_ok(), "{base:?} {auth:?}");
            }
            assert_eq!(subject.metric(CREDENTIALS_OK), 1, "{base:?} {auth:?}");
        }
    }
}

/// GHCR says so to a wrong password, others to what is not for the user.
#[tokio::test]
async fn a_realm_that_denies_a_scope_may_know_the_password() {
    let registry = registry(Auth::Bearer(bearer())).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    for _ in 0..3 {
        registry.fault_times(1, When::tokens(), denied());
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Denied));
    }
    let scopes: Vec<_> = asks(&registry).iter().map(|asked| asked.parameter("scope").concat()).collect();
    assert_eq!(scopes, ["repository:private/app:pull", ""].repeat(3));
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
    // A page is no word on the password, nor is an outage.
    let blocked = Fault::Answer { status: 403, headers: vec![], body: "blocked".to_owned() };
    registry.fault(When::tokens(), blocked);
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    registry.heal();
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn an_unreachable_base_refuses_no_password() {
    for auth in [basic_auth("se:cret"), forbidding("se:cret")[0].clone()] {
        for outage in [Fault::Disconnect, Fault::status(503), Fault::too_many("5")] {
            let registry = registry(auth.clone()).await;
            let directory = TempDir::new().unwrap();
            let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
            assert!(subject.manifest("team/app", "1").await.is_ok());
            registry.fault(
                When::manifests(),
                if matches!(auth, Auth::Basic { .. }) { Fault::challenge(r#"Basic realm="x""#) } else { denied() },
            );
            registry.fault(When::base(), outage.clone());
            let told = kind(subject.manifest("team/app", "1").await).unwrap();
            assert!(told.is_outage() && told != ErrorKind::OurCredentials, "{told:?} {outage:?} {auth:?}");
            assert_eq!(subject.metric(CREDENTIALS_OK), 1);
            registry.heal();
            assert!(subject.manifest("team/app", "1").await.is_ok(), "{outage:?} {auth:?}");
        }
    }
}

/// What is pushed to is asked what it has, and says that it has not.
#[tokio::test]
async fn what_an_upstream_has_not_is_an_answer_to_the_password() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&Config { push: true, ..with_password(&registry, &directory, "se:cret") });
    let unknown = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    assert_eq!(kind(subject.upstream.head_blob(&name("team/app"), &unknown).await), Some(ErrorKind::NotFound));
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
    // What answers in its place has not seen the password.
    let other = Subject::new(&with_password(&registry, &directory, "se:cret"));
    registry.fault(When::manifests().authorized(), Fault::status(503));
    assert_eq!(kind(other.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    registry.heal();
    registry.fault(When::manifests().authorized(), Fault::no_backend());
    assert_eq!(kind(other.manifest("team/app", "1").await), Some(ErrorKind::Foreign { status: 404 }));
    assert_eq!(other.metric(CREDENTIALS_OK), 0);
}

#[tokio::test]
async fn a_source_without_an_entry_is_no_clients_fault() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let credential = CredentialSource::DockerConfig(file(&directory, r#"{"auths":{}}"#));
    let subject = Subject::new(&Config { credential, ..config(&registry) });
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials));
}

/// Some registries say so to a token that has died.
#[tokio::test]
async fn a_403_to_an_old_token_renews_it_once_a_minute() {
    let registry = registry(Auth::Bearer(Bearer { expires_in: Some(43_200), ..bearer() })).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let asked = || registry.count(asked_realm);
    registry.fault_times(1, When::manifests(), denied());
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Denied));
    assert_eq!(asked(), 1, "the token is new");
    pass(61).await;
    registry.fault_times(1, When::manifests(), denied());
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(asked(), 2);
    // What is refused with a new one as well is refused, and that is not tried for every request.
    pass(61).await;
    registry.fault(When::manifests(), denied());
    for _ in 0..3 {
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Denied));
    }
    assert_eq!(asked(), 3);
}

/// Of the upstream, whatever the tokens are for.
#[tokio::test]
async fn one_of_two_old_tokens_is_renewed_in_a_minute() {
    let registry = registry(Auth::Bearer(Bearer { expires_in: Some(43_200), ..bearer() })).await;
    registry.add_image("team/other", "1", &[b"layer"]);
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    for repository in ["team/app", "team/other"] {
        assert!(subject.manifest(repository, "1").await.is_ok());
    }
    pass(61).await;
    registry.fault(When::manifests(), Fault::status(403));
    for repository in ["team/app", "team/other", "team/app"] {
        assert_eq!(kind(subject.manifest(repository, "1").await), Some(ErrorKind::Denied));
    }
    assert_eq!(registry.count(asked_realm), 3);
    pass(61).await;
    assert_eq!(kind(subject.manifest("team/other", "1").await), Some(ErrorKind::Denied));
    assert_eq!(registry.count(asked_realm), 4);
}

#[tokio::test]
async fn no_credentials_where_they_are_wanted_is_a_denied() {
    let registry = registry(basic_auth("se:cret")).await;
    let subject = Subject::of(&registry);
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unauthorized));
    registry.require(Auth::Bearer(bearer()));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unauthorized));
    assert_eq!(registry.count(has_credentials), 0);
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_an_outage() {
    let registry = registry(Auth::Bearer(bearer())).await;
    let directory = TempDir::new().unwrap();
    let config = with_password(&registry, &directory, "se:cret");
    std::fs::remove_file(directory.path().join("secret")).unwrap();
    let subject = Subject::new(&config);
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    file(&directory, "se:cret");
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn what_docker_login_wrote_is_used() {
    let registry = registry(Auth::Bearer(bearer())).await;
    let directory = TempDir::new().unwrap();
    let text = format!(r#"{{"auths":{{"fake.example":{{"auth":"{}"}}}}}}"#, STANDARD.encode("me:se:cret"));
    let credential = CredentialSource::DockerConfig(file(&directory, &text));
    let subject = Subject::new(&Config { credential, ..config(&registry) });
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(asks(&registry)[0].header("authorization"), Some(basic("me", "se:cret").as_str()));
}
