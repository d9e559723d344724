//! Which realms receive credentials: asserted on the requests that arrived there.

use forebay::upstream::{Config, CredentialSource, ErrorKind};
use tempfile::TempDir;

use crate::upstream::{Subject, config, has_credentials, kind};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Server, When},
    test_ca::TestCa,
};

/// A registry whose challenge names its own realm by another host's name.
async fn registry(anonymous: bool) -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let realm = Some(registry.realm_at("localhost"));
    let users = vec![("me".to_owned(), "pw".to_owned())];
    registry.require(Auth::Bearer(Bearer { realm, users, anonymous, ..Bearer::default() }));
    registry
}

fn with_password(registry: &FakeRegistry, directory: &TempDir, realms: &[&str]) -> Config {
    let password_file = directory.path().join("password");
    std::fs::write(&password_file, "pw").unwrap();
    let credential = CredentialSource::Password { username: "me".into(), password_file };
    Config { credential, realms: realms.iter().map(|&realm| realm.to_owned()).collect(), ..config(registry) }
}

fn shown_to_realm(registry: &FakeRegistry) -> usize {
    registry.count(|request| request.server == Server::Realm && has_credentials(request))
}

#[tokio::test]
async fn a_realm_on_another_host_gets_no_credentials() {
    let registry = registry(true).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, &[]));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let asked: Vec<_> = registry.requests().into_iter().filter(|request| request.server == Server::Realm).collect();
    assert_eq!((asked.len(), shown_to_realm(&registry)), (1, 0));
    assert!(asked[0].parameter("account").is_empty());
}

#[tokio::test]
async fn a_realm_that_may_not_see_the_credentials_says_why_it_refused() {
    let registry = registry(false).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, &[]));
    let error = subject.manifest("team/app", "1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(error.to_string().contains("`realms`"), "{error}");
    assert_eq!(shown_to_realm(&registry), 0);
}

#[tokio::test]
async fn a_ping_tells_that_the_credentials_were_not_used() {
    let directory = TempDir::new().unwrap();
    let registry = registry(true).await;
    let said = async |config: Config| Subject::new(&config).upstream.ping().await.map_err(|error| error.to_string());
    // The realm would give anyone a token.
    let error = said(with_password(&registry, &directory, &[])).await.unwrap_err();
    assert!(error.contains("realm localhost is not trusted, list it in `realms`"), "{error}");
    assert_eq!(said(with_password(&registry, &directory, &["localhost"])).await, Ok(()));
    assert_eq!(said(config(&registry)).await, Ok(()));
    let file = directory.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"another.example":{"auth":"bWU6cHc="}}}"#).unwrap();
    let credential = CredentialSource::DockerConfig(file);
    let error = said(Config { credential, ..with_password(&registry, &directory, &["localhost"]) }).await.unwrap_err();
    assert!(error.contains("no entry for this upstream"), "{error}");
}

/// Where the log goes in a test.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn credentials_that_are_not_used_are_warned_of_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let directory = TempDir::new().unwrap();
    let registry = registry(true).await;
    for (config, warned) in [
        (with_password(&registry, &directory, &["localhost"]), 0),
        (config(&registry), 0),
        (with_password(&registry, &directory, &[]), 1),
    ] {
        let subject = Subject::new(&config);
        for _ in 0..3 {
            assert!(subject.manifest("team/app", "1").await.is_ok());
        }
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("credentials are configured but were not used").count(), warned, "{text}");
    }
}

#[tokio::test]
async fn a_listed_realm_sees_the_credentials() {
    let directory = TempDir::new().unwrap();
    for with_port in [false, true] {
        let registry = registry(false).await;
        let listed =
            if with_port { format!("localhost:{}", registry.url().port().unwrap()) } else { "LOCALHOST".into() };
        let subject = Subject::new(&with_password(&registry, &directory, &[&listed]));
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{listed}");
        assert_eq!(shown_to_realm(&registry), 1);
    }
    let registry = registry(false).await;
    let subject = Subject::new(&with_password(&registry, &directory, &["localhost:1", "host", "xlocalhost"]));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unauthorized));
    assert_eq!(shown_to_realm(&registry), 0);
}

/// The password is not read anew but where it was refused.
#[tokio::test]
async fn a_failing_realm_gets_one_request_per_client_request() {
    let (registry, directory) = (registry(false).await, TempDir::new().unwrap());
    let subject = Subject::new(&with_password(&registry, &directory, &["localhost"]));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.fault(When::tokens(), Fault::Code(503));
    registry.forget_requests();
    let error = subject.manifest("team/other", "1").await.unwrap_err();
    assert!(error.kind.is_outage() && !error.to_string().contains("anonymously"), "{error}");
    assert_eq!(registry.count(|request| request.server == Server::Realm), 1);
}

#[tokio::test]
async fn a_realm_that_redirects_elsewhere_takes_no_credentials_along() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let users = vec![("me".to_owned(), "pw".to_owned())];
    registry.require(Auth::Bearer(Bearer { users, anonymous: false, ..Bearer::default() }));
    let elsewhere = FakeRegistry::start().await;
    let location = elsewhere.realm_at("127.0.0.1");
    let moved = Fault::Answer { status: 307, headers: vec![("location", location)], body: String::new() };
    registry.fault(When::tokens(), moved);
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, &[]));
    assert!(subject.manifest("team/app", "1").await.is_err());
    assert_eq!(shown_to_realm(&registry), 1);
    assert_eq!((elsewhere.requests().len(), shown_to_realm(&elsewhere)), (1, 0));
}

#[tokio::test]
async fn a_realm_in_the_clouds_metadata_service_is_not_asked() {
    let registry = FakeRegistry::start().await;
    registry.fault(When::any(), Fault::challenge(r#"Bearer realm="http://169.254.169.254/token""#));
    let subject = Subject::of(&registry);
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Protocol));
}

#[tokio::test]
async fn a_realm_over_http_of_an_upstream_over_https_is_not_asked() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    let clear = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    registry.require(Auth::Bearer(Bearer { realm: Some(clear.realm_at("127.0.0.1")), ..Bearer::default() }));
    let subject = Subject::new(&Config { ca: Some(ca.path()), ..config(&registry) });
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Protocol));
    assert!(clear.requests().is_empty());
}

#[tokio::test]
async fn a_clear_realm_of_a_tls_registry_is_requested_over_tls() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    registry.add_image("team/app", "1", &[]);
    let realm = Some(registry.realm_at("127.0.0.1").replace("https:", "http:"));
    registry.require(Auth::Bearer(Bearer { realm, ..Bearer::default() }));
    let subject = Subject::new(&Config { ca: Some(ca.path()), ..config(&registry) });
    assert!(subject.manifest("team/app", "1").await.is_ok());
}
