//! What a client is told of an outage: which upstream, why in one word, and the id of its request; never where it is.

use forebay_test_support::{
    blob::{self, path},
    fake_registry::{Auth, FakeRegistry, Fault, When},
    manifest::manifest,
    mirror::{Answer, Mirror, UPSTREAM},
    test_ca::TestCa,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A mirror of what answers at this URL.
async fn mirror_at(url: &str, keys: &str) -> Mirror {
    let text = format!("[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{url}\"]\ndefault = true\n{keys}");
    Mirror::parse(&text).start().await
}

/// A socket that does not listen, so that no other test gets its port, and its URL.
fn closed() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

fn told(answer: &Answer) -> Value {
    let mut json: Value = serde_json::from_slice(&answer.body).unwrap();
    json["errors"][0].take()
}

/// That an answer tells of this outage, and of nothing private.
fn assert_outage(answer: &Answer, status: u16, cause: &str, private: &[&str]) {
    assert_eq!(answer.status, status, "{cause}: {}", answer.text());
    let (told, id) = (told(answer), answer.header("x-request-id").unwrap());
    let detail = json!({ "upstream": UPSTREAM, "cause": cause, "stale": false, "request_id": id });
    assert_eq!(told["detail"], detail, "{told}");
    let message = told["message"].as_str().unwrap();
    for part in [UPSTREAM, &format!("({cause})"), "nothing is cached", id] {
        assert!(message.contains(part), "{part}: {message}");
    }
    for secret in private.iter().chain(&["127.0.0.1", "://", "/v2/"]) {
        assert!(!answer.text().contains(secret), "{secret}: {}", answer.text());
    }
}

async fn assert_counted(mirror: &Mirror, cause: &str) {
    let labels = [("upstream", UPSTREAM), ("cause", cause)];
    assert!(mirror.metric("forebay_upstream_errors_total", &labels).await >= 1.0, "{}", mirror.metrics().await);
    // A request is counted when its response has been dropped.
    let counted = async || mirror.metric("forebay_requests_total", &[("outcome", "error")]).await >= 1.0;
    forebay_test_support::until::until("the failure is counted", counted).await;
}

#[tokio::test]
async fn a_connection_that_fails_is_told_by_its_cause() {
    let (clear, unknown) = (FakeRegistry::start().await, TestCa::new());
    let tls = FakeRegistry::start_tls(unknown.server(&["127.0.0.1"])).await;
    let (_held, closed) = closed();
    for (url, cause) in [
        // A label that is too long: no resolver is asked.
        (format!("http://{}.test", "n".repeat(70)), "dns"),
        (closed, "refused"),
        // A CA that forebay does not trust, and no TLS at all.
        (tls.url().to_string(), "tls"),
        (clear.url().to_string().replace("http://", "https://"), "tls"),
        // TLS where clear HTTP is expected.
        (tls.url().to_string().replace("https://", "http://"), "not_a_registry"),
    ] {
        let mirror = mirror_at(&url, "").await;
        let digest = FakeRegistry::start().await.add_blob("team/app", "elsewhere");
        for path in [manifest(1), path(&digest), "/v2/team/app/tags/list".to_owned()] {
            let port = url.rsplit(':').next().unwrap().trim_end_matches('/');
            assert_outage(&mirror.get(&path).await, 502, cause, &[&url, port, "certificate", "nnnn"]);
            assert_eq!(mirror.head(&path).await.status, 502, "{cause} {path}");
        }
        assert_counted(&mirror, cause).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_told_by_its_cause() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    for (fault, status, cause) in [
        (Fault::status(500), 502, "status"),
        (Fault::status(503), 502, "status"),
        (Fault::too_many("9"), 429, "status"),
        (Fault::html(), 502, "not_a_registry"),
        (Fault::page(403), 502, "not_a_registry"),
        (Fault::Disconnect, 502, "refused"),
        (Fault::Corrupt { at: 2 }, 502, "not_a_registry"),
    ] {
        let mirror = Mirror::of(&registry).await;
        registry.heal();
        registry.fault(When::any(), fault.clone());
        for path in [manifest(&image.manifest), path(&image.layers[0])] {
            assert_outage(&mirror.get(&path).await, status, cause, &["html", "nginx"]);
        }
        assert_counted(&mirror, cause).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_counted_and_resumed() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = blob::add(&registry, 1000, 1);
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: 500 });
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    assert_eq!(mirror.metric("forebay_upstream_errors_total", &[("cause", "refused")]).await, 1.0);
    assert_eq!(mirror.metric("forebay_upstream_errors_total", &[]).await, 1.0);
    assert_eq!(mirror.metric("forebay_upstream_up", &[]).await, 1.0);
}

#[tokio::test]
async fn a_push_that_the_upstream_cannot_answer_is_counted() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    let mut failed = 0.0;
    for (fault, status) in [(Fault::status(500), 500), (Fault::too_many("9"), 429), (Fault::status(403), 403)] {
        registry.heal();
        registry.fault(When::uploads(), fault);
        let answer = mirror.request(http::Method::POST, "/v2/team/app/blobs/uploads/", &[]).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        failed += f64::from(u8::from(status != 403));
        assert_eq!(mirror.metric("forebay_upstream_errors_total", &[("cause", "status")]).await, failed);
    }
    assert_eq!(mirror.metric("forebay_upstream_errors_total", &[]).await, failed);
    mirror.until_metric("forebay_requests_total", &[("operation", "push"), ("outcome", "error")], failed).await;
}

#[tokio::test]
async fn a_refusal_of_a_blob_is_no_failed_download() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, _) = blob::add(&registry, 100, 1);
    registry.fault(When::blobs(), Fault::status(404));
    for _ in 0..2 {
        let answer = mirror.get(&path(&digest)).await;
        assert_eq!((answer.status, &told(&answer)["detail"]), (404, &Value::Null));
    }
    mirror.until_metric("forebay_fills_total", &[("result", "refused")], 2.0).await;
    assert_eq!(mirror.metric("forebay_fills_total", &[("result", "upstream_failed")]).await, 0.0);
    assert_eq!(mirror.metric("forebay_upstream_errors_total", &[]).await, 0.0);
    assert_eq!(mirror.metric("forebay_requests_total", &[("outcome", "error")]).await, 0.0);
}

/// By token and by Basic, for each operation: the client's own login is never at fault.
#[tokio::test]
async fn own_credentials_that_are_refused_are_told_to_be_forebays() {
    let directory = TempDir::new().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, "wrong").unwrap();
    let keys = format!("username = \"robot\"\npassword_file = {password:?}\n");
    let users = vec![("robot".to_owned(), "right".to_owned())];
    let bearer = forebay_test_support::fake_registry::Bearer { anonymous: false, users, ..Default::default() };
    let basic = Auth::Basic { username: "robot".to_owned(), password: "right".to_owned() };
    for auth in [basic, Auth::Bearer(bearer)] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        registry.require(auth.clone());
        let mirror = mirror_at(registry.url().as_str(), &keys).await;
        for path in [manifest(1), manifest(&image.manifest), path(&image.layers[0]), "/v2/team/app/tags/list".into()] {
            let answer = mirror.get(&path).await;
            assert_outage(&answer, 403, "credentials", &["robot", "wrong"]);
            assert_eq!((&*answer.error_code(), answer.header("www-authenticate")), ("UNAVAILABLE", None), "{auth:?}");
            assert!(answer.text().contains("the credentials of this mirror, which are not yours"), "{auth:?}");
            let head = mirror.head(&path).await;
            assert_eq!((head.status, head.header("www-authenticate")), (403, None), "{auth:?} {path}");
            // A mirror in front serves what is stale after a 502, and not after a refusal.
            let behind = mirror.get_with(&path, &[("via", "1.1 forebay-0000beef")]).await;
            assert_outage(&behind, 502, "credentials", &["robot", "wrong"]);
        }
        assert_counted(&mirror, "credentials").await;
        assert_eq!(mirror.metric("forebay_upstream_credentials_ok", &[("upstream", UPSTREAM)]).await, 0.0);
        assert!(mirror.metrics().await.contains("forebay_upstream_credentials_ok{"), "it is known");
    }
}

#[tokio::test]
async fn what_is_cached_and_too_old_is_told() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let old = |config: &mut forebay::config::Config| {
        config.cache.tag_ttl = std::time::Duration::ZERO;
        config.cache.stale_if_error = std::time::Duration::ZERO;
    };
    let mirror = Mirror::build(&registry).config(old).start().await;
    assert_eq!(mirror.get(&manifest(1)).await.status, 200);
    registry.fault(When::any(), Fault::status(500));
    let answer = mirror.get(&manifest(1)).await;
    assert_eq!((answer.status, &told(&answer)["detail"]["stale"]), (502, &Value::Bool(true)));
    assert!(answer.text().contains("older than stale_if_error allows"), "{}", answer.text());
    let other = mirror.get(&manifest(2)).await;
    assert_eq!(told(&other)["detail"]["stale"], false);
}

#[tokio::test]
async fn a_password_file_that_is_gone_is_told_as_such() {
    let registry = FakeRegistry::start().await;
    let directory = TempDir::new().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, "right").unwrap();
    registry.require(Auth::Basic { username: "robot".to_owned(), password: "right".to_owned() });
    let mirror =
        mirror_at(registry.url().as_str(), &format!("username = \"robot\"\npassword_file = {password:?}\n")).await;
    std::fs::remove_file(&password).unwrap();
    let answer = mirror.get(&manifest(1)).await;
    assert_outage(&answer, 502, "credentials", &["password", "robot"]);
    assert!(answer.text().contains("cannot be read (credentials)"), "{}", answer.text());
}

/// The series are there from the start, so that an increase is seen.
#[tokio::test]
async fn each_cause_and_reason_has_a_series_at_the_start() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let metrics = mirror.metrics().await;
    for cause in ["dns", "refused", "timeout", "tls", "credentials", "not_a_registry", "status"] {
        let line = format!("forebay_upstream_errors_total{{cause=\"{cause}\",upstream=\"{UPSTREAM}\"}} 0");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    for line in [
        "forebay_auth_failures_total{reason=\"wrong\"} 0",
        "forebay_tls_handshake_failures_total{reason=\"certificate\"} 0",
        "forebay_unconfigured_upstream_requests_total 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
