//! What comes from the process's environment: proxies, and helpers on the PATH.
//!
//! A test cannot change its own environment safely, so each of these runs itself once more in a
//! process of its own, with the environment it is about.

use std::{os::unix::fs::PermissionsExt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use forebay::upstream::{Config, CredentialSource, ErrorKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
    sync::mpsc::{Receiver, channel},
};

use crate::upstream::{Subject, config, config_of, kind};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Server},
    until::until,
};

/// Set in the second process, to the directory that the test is given.
const DIRECTORY: &str = "FOREBAY_TEST_DIRECTORY";

/// Runs `test` again with these variables; returns in the first process when that has passed.
async fn again(test: &str, directory: &Path, variables: &[(&str, &str)]) {
    // Test names lack the name of the crate.
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .env(DIRECTORY, directory)
        .envs(variables.iter().copied())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn is_second_process() -> bool {
    std::env::var_os(DIRECTORY).is_some()
}

fn script(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn registry() -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let users = vec![("me".to_owned(), "fake.example's".to_owned())];
    let refresh_token = Some("long".to_owned());
    registry.require(Auth::Bearer(Bearer { anonymous: false, users, refresh_token, ..Bearer::default() }));
    registry
}

async fn pull(credential: CredentialSource) -> Option<ErrorKind> {
    let registry = registry().await;
    let subject = Subject::new(&Config { credential, ..config(&registry) });
    kind(subject.manifest("team/app", "1").await)
}

#[tokio::test]
async fn a_helper_receives_the_name_of_the_upstream() {
    if !is_second_process() {
        let directory = tempfile::TempDir::new().unwrap();
        let answer = r#"name=$(cat); echo "{\"ServerURL\":\"$name\",\"Username\":\"me\",\"Secret\":\"$name's\"}""#;
        script(directory.path(), "docker-credential-good", &format!(r#"[ "$1" = get ] || exit 1; {answer}"#));
        let token = r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"long"}'"#;
        script(directory.path(), "docker-credential-token", token);
        script(directory.path(), "docker-credential-none", "echo 'credentials not found in native keychain'; exit 1");
        script(directory.path(), "docker-credential-broken", "echo 'it is locked'; exit 1");
        script(directory.path(), "docker-credential-nonsense", "echo 'hello'");
        script(directory.path(), "docker-credential-endless", "exec cat /dev/zero");
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        return again("a_helper_receives_the_name_of_the_upstream", directory.path(), &[("PATH", &path)]).await;
    }
    for (helper, expected) in [
        ("good", None),
        ("token", None),
        // Nothing there: asked anonymously, and this registry refuses the nameless.
        ("none", Some(ErrorKind::Unauthorized)),
        ("broken", Some(ErrorKind::Unavailable)),
        ("nonsense", Some(ErrorKind::Unavailable)),
        ("endless", Some(ErrorKind::Unavailable)),
        ("absent", Some(ErrorKind::Unavailable)),
    ] {
        assert_eq!(pull(CredentialSource::Helper(helper.into())).await, expected, "{helper}");
    }
    // The same by way of a docker config.json.
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("config.json");
    for text in [
        r#"{"credHelpers":{"fake.example":"good"},"credsStore":"broken"}"#,
        r#"{"auths":{"fake.example":{}},"credsStore":"good"}"#,
        r#"{"credsStore":"token"}"#,
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(pull(CredentialSource::DockerConfig(path.clone())).await, None, "{text}");
    }
    std::fs::write(&path, r#"{"credsStore":"../../bin/sh"}"#).unwrap();
    assert_eq!(pull(CredentialSource::DockerConfig(path)).await, Some(ErrorKind::Unavailable));
}

#[tokio::test]
async fn a_helper_that_hangs_is_given_up() {
    if !is_second_process() {
        let directory = tempfile::TempDir::new().unwrap();
        // It tells that it runs, by making a file, and then does not end.
        script(
            directory.path(),
            "docker-credential-hung",
            &format!("> {}/runs; exec sleep 600", directory.path().display()),
        );
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        return again("a_helper_that_hangs_is_given_up", directory.path(), &[("PATH", &path)]).await;
    }
    let pulling = tokio::spawn(pull(CredentialSource::Helper("hung".into())));
    let runs = Path::new(&std::env::var_os(DIRECTORY).unwrap()).join("runs");
    while !runs.exists() {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    assert_eq!(pulling.await.unwrap(), Some(ErrorKind::Unavailable));
}

/// Whether the process that wrote its number into a file has ended.
fn has_ended(file: &Path) -> bool {
    let id = std::fs::read_to_string(file).unwrap();
    let state = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
    // In a container no process may wait for an orphan.
    state.map_or(true, |state| state.contains(") Z "))
}

#[tokio::test]
async fn a_helper_that_hangs_takes_its_children_along() {
    if !is_second_process() {
        let directory = tempfile::TempDir::new().unwrap();
        let at = directory.path().display();
        script(
            directory.path(),
            "docker-credential-hung",
            &format!("sleep 600 & echo $! > {at}/child; mv {at}/child {at}/runs; wait"),
        );
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        return again("a_helper_that_hangs_takes_its_children_along", directory.path(), &[("PATH", &path)]).await;
    }
    let pulling = tokio::spawn(pull(CredentialSource::Helper("hung".into())));
    let runs = Path::new(&std::env::var_os(DIRECTORY).unwrap()).join("runs");
    while !runs.exists() {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    assert_eq!(pulling.await.unwrap(), Some(ErrorKind::Unavailable));
    tokio::time::resume();
    until("its child has ended", async || has_ended(&runs)).await;
}

/// Such as the agent of a keyring, which stays for the next time.
#[tokio::test]
async fn a_helper_that_answered_may_leave_a_child() {
    if !is_second_process() {
        let directory = tempfile::TempDir::new().unwrap();
        let answer = r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"long"}'"#;
        let at = directory.path().display();
        // The child answers when it is spoken to.
        let child = format!(
            "(echo > {at}/begun; until [ -e {at}/asked ] || [ ! -e {at}/begun ]; do sleep 0.01; done; echo > {at}/alive) &"
        );
        let begun = format!("until [ -e {at}/begun ]; do sleep 0.01; done");
        script(directory.path(), "docker-credential-leaves", &format!("{child}\n{begun}; {answer}"));
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        return again("a_helper_that_answered_may_leave_a_child", directory.path(), &[("PATH", &path)]).await;
    }
    assert_eq!(pull(CredentialSource::Helper("leaves".into())).await, None);
    let at = std::path::PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    std::fs::write(at.join("asked"), "").unwrap();
    until("the child of the helper answers", async || at.join("alive").exists()).await;
}

/// A proxy on loopback that answers clear requests itself and opens no tunnel; it tells what it was asked, each time
/// before it answers.
async fn proxy() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = channel(8);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "half a request");
            }
            let answer: &[u8] = if seen.starts_with(b"CONNECT ") {
                b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-length: 19\r\nconnection: close\r\n\r\n{\"schemaVersion\":2}"
            };
            tell.send(String::from_utf8_lossy(&seen).into_owned()).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    (port, told)
}

// In the tests below the upstream's name does not exist: only the proxy resolves it. That the proxy is on
// loopback, where no redirect may lead, is the operator's choice.

#[tokio::test]
async fn the_usual_variables_name_a_proxy() {
    if !is_second_process() {
        let (port, mut told) = proxy().await;
        let address = format!("http://user:pw@localhost:{port}");
        let directory = tempfile::TempDir::new().unwrap();
        let variables = [("HTTP_PROXY", &*address), ("http_proxy", &address), ("NO_PROXY", "127.0.0.1")];
        again("the_usual_variables_name_a_proxy", directory.path(), &variables).await;
        let asked = told.try_recv().unwrap();
        assert!(asked.starts_with("GET http://registry.invalid/v2/team/app/manifests/1 HTTP/1.1\r\n"), "{asked}");
        let authorization = format!("proxy-authorization: basic {}", STANDARD.encode("user:pw"));
        assert!(asked.to_lowercase().contains(&authorization.to_lowercase()), "{asked}");
        assert!(told.try_recv().is_err(), "what NO_PROXY names is asked directly");
        return;
    }
    let subject = Subject::new(&config_of([url::Url::parse("http://registry.invalid").unwrap()]));
    assert_eq!(subject.manifest("team/app", "1").await.unwrap(), b"{\"schemaVersion\":2}");
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    assert!(Subject::of(&registry).manifest("team/app", "1").await.is_ok());
    assert_eq!(registry.count(|request| request.server == Server::Api), 1);
}

#[tokio::test]
async fn https_goes_through_a_tunnel_of_the_proxy() {
    if !is_second_process() {
        let (port, mut told) = proxy().await;
        let address = format!("http://localhost:{port}");
        let directory = tempfile::TempDir::new().unwrap();
        let variables = [("HTTPS_PROXY", &*address), ("https_proxy", &address), ("NO_PROXY", "127.0.0.1")];
        again("https_goes_through_a_tunnel_of_the_proxy", directory.path(), &variables).await;
        let asked = told.try_recv().unwrap();
        assert!(asked.starts_with("CONNECT registry.invalid:443 HTTP/1.1\r\n"), "{asked}");
        return;
    }
    // A refused tunnel is an outage; forebay does not bypass the proxy.
    let subject = Subject::new(&config_of([url::Url::parse("https://registry.invalid").unwrap()]));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
}
