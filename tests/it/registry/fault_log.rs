//! What the log of the real program says under faults: each thing once, with the whole chain of causes and a count.

use std::{fs, time::Instant};

use forebay_test_support::{
    blob,
    fake_registry::{FakeRegistry, Fault, Server, When},
    program::Program,
    test_ca::TestCa,
    until::until,
    users::{basic, with_users},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// A program with this upstream, whose tags are never fresh, and these lines of configuration in front.
async fn serve(directory: TempDir, url: &str, more: &str) -> Program {
    serve_at("info", directory, url, more).await
}

async fn serve_at(level: &str, directory: TempDir, url: &str, more: &str) -> Program {
    let text = format!(
        "{more}\n[cache]\nmin_free = \"0\"\ntag_ttl = \"0s\"\n[[upstream]]\nname = \"fake.example\"\nurls = [\"{url}\"]\ndefault = true\n"
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    Program::serve(directory, level).await
}

fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The lines with this message.
fn lines(program: &Program, message: &str) -> Vec<Value> {
    let log = program.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

/// The same, once there is one: a thread of its own writes the log.
async fn some_lines(program: &Program, message: &str) -> Vec<Value> {
    until(message, async || Some(lines(program, message)).filter(|lines| !lines.is_empty())).await
}

/// The line of the request with this id.
async fn request_line(program: &Program, id: &Value) -> Value {
    let named = async || lines(program, "request").into_iter().find(|line| line["id"] == *id);
    until("the request is logged", named).await
}

/// Lines that an operator should look at.
fn warnings(program: &Program) -> Vec<Value> {
    let log = program.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| matches!(line["level"].as_str(), Some("WARN" | "ERROR"))).collect()
}

/// At most one of a minute: the test may take longer than one.
fn assert_once_a_minute(lines: &[Value], since: Instant) {
    let minutes = usize::try_from(since.elapsed().as_secs() / 60).unwrap() + 1;
    assert!((1..=minutes).contains(&lines.len()), "{lines:#?}");
}

async fn metric(program: &Program, line: &str) -> f64 {
    let metrics = program.metrics().await;
    let line = metrics.lines().find(|known| known.starts_with(line)).unwrap_or_else(|| panic!("{line}: {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_one_line_and_one_when_it_is_over() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let program = serve(empty(), registry.url().as_str(), "").await;
    assert_eq!(program.get("/v2/team/app/manifests/1").await.0, 200);
    registry.take_down(Server::Api).await;
    let since = Instant::now();
    for number in 0..30 {
        assert_eq!(program.get("/v2/team/app/manifests/1").await.0, 200, "what is cached is served");
        assert!(program.get(&format!("/v2/team/app/manifests/none{number}")).await.0 >= 502);
        assert!(program.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await.0 >= 502);
    }
    let down = some_lines(&program, "the upstream could not answer").await;
    assert_once_a_minute(&down, since);
    assert_eq!((&down[0]["level"], &down[0]["cause"]), (&"WARN".into(), &"refused".into()));
    // The whole chain, down to the system's words.
    let chain = down[0]["error"].as_str().unwrap();
    assert!(chain.contains(registry.url().authority()) && chain.contains("onnection refused"), "{chain}");
    // Each upstream's failure has its line; downloads have one more.
    let downloads = some_lines(&program, "a download failed").await;
    assert_once_a_minute(&downloads, since);
    let named = request_line(&program, &downloads[0]["requests"]).await;
    assert!(named["path"].as_str().unwrap().contains("/blobs/"), "{named}");
    assert!(warnings(&program).iter().all(|line| line["level"] == "WARN"), "{:#?}", warnings(&program));
    assert!(metric(&program, "forebay_upstream_errors_total{cause=\"refused\"").await >= 10.0);

    registry.bring_up(Server::Api).await;
    // The circuit of its host may be open for some seconds.
    let again = async || {
        program.get("/v2/team/app/manifests/1").await;
        !lines(&program, "the upstream answers again").is_empty()
    };
    until("the upstream is back", again).await;
    for _ in 0..10 {
        program.get("/v2/team/app/manifests/1").await;
    }
    let back = lines(&program, "the upstream answers again");
    assert_eq!((back.len(), &back[0]["upstream"]), (1, &"fake.example".into()), "{back:#?}");
    assert!(back[0]["requests"].as_u64().unwrap() > 0, "{back:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_debug_each_of_many_equal_failures_has_a_line() {
    let registry = FakeRegistry::start().await;
    registry.fault(When::any(), Fault::status(500));
    let keys = "[access]\nhtpasswd = \"htpasswd\"";
    let program = serve_at("forebay=debug", with_users(), registry.url().as_str(), keys).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for number in 0..3 {
        let path = format!("/v2/team/app/manifests/{number}");
        assert_eq!(program.get(&path).await.0, 502);
        let request = client.get(format!("http://{}{path}", program.registry));
        assert_eq!(request.header("authorization", basic("ann", "wrong")).send().await.unwrap().status(), 401);
    }
    for message in ["the upstream could not answer", "a login failed"] {
        let all = async || Some(lines(&program, message)).filter(|lines| lines.len() >= 3);
        let lines = until(message, all).await;
        let warned = lines.iter().filter(|line| line["level"] == "WARN").count();
        assert!(
            warned >= 1 && lines.iter().all(|line| line["level"] == "WARN" || line["level"] == "DEBUG"),
            "{lines:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_content_are_no_warnings() {
    let registry = FakeRegistry::start().await;
    let (digest, _) = blob::add(&registry, 100, 1);
    registry.fault(When::blobs(), Fault::status(404));
    let program = serve(empty(), registry.url().as_str(), "").await;
    for _ in 0..5 {
        assert_eq!(program.get(&format!("/v2/team/app/blobs/{digest}")).await.0, 404);
        assert_eq!(program.get("/v2/team/app/manifests/1").await.0, 404);
    }
    // It may have to lower the number of connections at its start.
    let of_upstream = |line: &&Value| line["upstream"].is_string() || line["level"] == "ERROR";
    assert_eq!(warnings(&program).iter().filter(of_upstream).count(), 0, "{:#?}", warnings(&program));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_a_warning_with_the_request() {
    let registry = FakeRegistry::start().await;
    let (digest, _) = blob::add(&registry, 1000, 1);
    registry.fault(When::blobs(), Fault::Corrupt { at: 700 });
    let program = serve(empty(), registry.url().as_str(), "").await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let since = Instant::now();
    for _ in 0..5 {
        assert_eq!(program.get(&path).await.0, 502);
    }
    let failed = some_lines(&program, "a download failed").await;
    assert_once_a_minute(&failed, since);
    assert_eq!(failed[0]["level"], "WARN", "{failed:#?}");
    assert_eq!(request_line(&program, &failed[0]["requests"]).await["path"], path);
    assert_eq!(metric(&program, "forebay_digest_mismatches_total{").await, 5.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_logins_are_one_line_and_a_count() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let program = serve(with_users(), registry.url().as_str(), "[access]\nhtpasswd = \"htpasswd\"").await;
    let since = Instant::now();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for number in 0..6 {
        let request = client.get(format!("http://{}/v2/team/app/manifests/1", program.registry));
        let request = request.header("authorization", basic("pa55-user", &format!("pa55-{number}")));
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    let failed = some_lines(&program, "a login failed").await;
    assert_once_a_minute(&failed, since);
    assert_eq!((&failed[0]["level"], &failed[0]["reason"]), (&"WARN".into(), &"wrong".into()));
    assert!(failed[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{failed:#?}");
    assert!(!program.log().contains("pa55"), "{}", program.log());
    assert_eq!(metric(&program, "forebay_auth_failures_total{reason=\"wrong\"}").await, 6.0);
    // That a login begins without credentials is no failure.
    assert_eq!(metric(&program, "forebay_auth_failures_total{reason=\"malformed\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_handshakes_are_one_line_and_a_count() {
    let (registry, ca, directory) = (FakeRegistry::start().await, TestCa::new(), empty());
    let (certificate, key) = ca.issue(&["127.0.0.1"]);
    fs::write(directory.path().join("tls.crt"), certificate.pem()).unwrap();
    fs::write(directory.path().join("tls.key"), key.serialize_pem()).unwrap();
    let keys = "[server.tls]\ncertificate = \"tls.crt\"\nkey = \"tls.key\"";
    let program = serve(directory, registry.url().as_str(), keys).await;
    let since = Instant::now();
    // A client that does not know the CA.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..4 {
        let url = format!("https://{}/v2/", program.registry);
        assert!(client.get(url).send().await.unwrap_err().is_connect());
    }
    let counted =
        async || metric(&program, "forebay_tls_handshake_failures_total{reason=\"certificate\"}").await == 4.0;
    until("the handshakes are counted", counted).await;
    let failed = some_lines(&program, "a TLS handshake failed").await;
    assert_once_a_minute(&failed, since);
    assert_eq!((&failed[0]["level"], &failed[0]["reason"]), (&"WARN".into(), &"certificate".into()));
}

/// As a Docker daemon with `insecure-registries` does on each pull.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_where_none_is_served_is_no_line_on_every_pull() {
    let registry = FakeRegistry::start().await;
    let program = serve(empty(), registry.url().as_str(), "").await;
    for number in 1..=5 {
        let mut client = TcpStream::connect(program.registry).await.unwrap();
        client.write_all(&[0x16, 3, 1, 0, 0]).await.unwrap();
        let reason = "forebay_tls_handshake_failures_total{reason=\"not_served\"}";
        until("it is counted", async || metric(&program, reason).await == f64::from(number)).await;
    }
    assert_eq!(some_lines(&program, "a client was sent away").await.len(), 1, "{}", program.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_not_configured_is_named_in_the_log() {
    let registry = FakeRegistry::start().await;
    let program = serve(empty(), registry.url().as_str(), "").await;
    for _ in 0..3 {
        for name in ["ghcr.io", "GHCR.io", "quay.io"] {
            assert_eq!(program.get(&format!("/v2/team/app/manifests/1?ns={name}")).await.0, 404);
        }
    }
    let message = "clients request an upstream that is not configured";
    let both = async || Some(lines(&program, message)).filter(|lines| lines.len() > 1);
    let named = until("both names are logged", both).await;
    let names: Vec<_> = named.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ghcr.io", "quay.io"], "{named:#?}");
    assert_eq!(metric(&program, "forebay_unconfigured_upstream_requests_total ").await, 9.0);
    assert!(!program.metrics().await.contains("ghcr"), "a name is no label");
}
