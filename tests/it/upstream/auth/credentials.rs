//! Credentials: where they come from, in which dialect they are shown, and that they can change.

use std::{path::PathBuf, time::Duration};

pub mod other_refusal;
pub mod refused_password;

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

const CREDENTIALS_OK: &str = r#"forebay_upstream_credentials_ok{upstream="fake.example"}"#;

/// Lets time pass for what counts it by the runtime's clock.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
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
