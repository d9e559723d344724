//! The control API on the admin listener: which clients it serves, and what it tells them.

use forebay_test_support::{
    control,
    fake_registry::{FakeRegistry, Fault, When},
    mirror::{Answer, Mirror},
    test_server::client,
    until::{soon, until},
    wire,
};
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const NEW_TOKEN: &str = "fedcba9876543210fedcba9876543210";

/// A GET of a resource with these header lines.
async fn get(mirror: &Mirror, resource: &str, host: &str, lines: &str) -> Answer {
    let request = format!("GET /api/v1/{resource} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n");
    wire::send(mirror.app().admin_addr(), &request).await
}

async fn document(mirror: &Mirror, resource: &str) -> Value {
    let url = format!("http://{}/api/v1/{resource}", mirror.app().admin_addr());
    let text = client().get(url).send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_this_machine_reads_and_no_page_of_others() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (host, lines, status) in [
        ("localhost", "", 200),
        ("127.0.0.1:5001", "Origin: http://127.0.0.1:5001\r\n", 200),
        ("127.0.0.1:5001", "Sec-Fetch-Site: same-origin\r\n", 200),
        // Where no token is configured, one changes nothing.
        ("localhost", "Authorization: Bearer 0123456789abcdef\r\n", 200),
        // A proxy of this machine has clients elsewhere.
        ("localhost", "X-Forwarded-For: 192.0.2.1\r\n", 403),
        ("localhost", "Via: 1.1 proxy\r\n", 403),
        ("localhost", "X-Forwarded-Proto: https\r\n", 403),
        ("localhost", "Origin: http://evil.example\r\n", 403),
        ("localhost", "Origin: null\r\n", 403),
        ("localhost", "Sec-Fetch-Site: cross-site\r\n", 403),
        // A name that its owner has resolved to this machine.
        ("evil.example", "", 421),
        ("evil.example", "Origin: http://evil.example\r\n", 421),
    ] {
        let answer = get(&mirror, "status", host, lines).await;
        assert_eq!(answer.status, status, "{host} {lines}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    for (path, status) in [("status?x=1", 400), ("status/", 404), ("", 404), ("config", 200), ("upstreams", 200)] {
        assert_eq!(get(&mirror, path, "localhost", "").await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_token_only_its_owner_is_answered() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    mirror.restart_with_token(TOKEN).await;
    for (host, lines, status) in [
        ("localhost", String::new(), 401),
        ("localhost", "Authorization: Bearer 0123456789abcdef\r\n".to_owned(), 401),
        ("localhost", "Authorization: Basic MDEyOjM0NQ==\r\n".to_owned(), 401),
        ("localhost", format!("Authorization: Bearer {TOKEN}\r\n"), 200),
        ("localhost", format!("Authorization: Bearer {TOKEN}\r\nX-Forwarded-For: 192.0.2.1\r\n"), 200),
        ("forebay.example", format!("Authorization: Bearer {TOKEN}\r\n"), 200),
        ("forebay.example", "Authorization: Bearer 0123456789abcdef\r\n".to_owned(), 421),
        ("localhost", format!("Authorization: Bearer {TOKEN}\r\nOrigin: http://evil.example\r\n"), 403),
    ] {
        let answer = get(&mirror, "upstreams", host, &lines).await;
        assert_eq!(answer.status, status, "{lines}: {answer:?}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, (status == 401).then_some("Bearer realm=\"forebay\""), "{lines}");
    }
    // What is no API needs none.
    let health = wire::send(mirror.app().admin_addr(), "GET /readyz HTTP/1.0\r\n\r\n").await;
    assert_eq!(health.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_counts_and_a_reload_takes_it_away() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let file = mirror.restart_with_token(TOKEN).await;
    let status = async |token: &str| {
        get(&mirror, "status", "localhost", &format!("Authorization: Bearer {token}\r\n")).await.status
    };
    assert_eq!((status(TOKEN).await, status(NEW_TOKEN).await), (200, 401));
    std::fs::write(&file, NEW_TOKEN).unwrap();
    until("the new token is right", async || status(NEW_TOKEN).await == 200).await;
    assert_eq!(status(TOKEN).await, 401);
    let mut config = mirror.config().clone();
    config.admin.token_file = None;
    mirror.app().reload(config).unwrap();
    // As without a token from the start: this machine reads, and changes nothing.
    assert_eq!(get(&mirror, "status", "localhost", "").await.status, 200);
    let change = format!(
        "POST /api/v1/upstreams/fake.example/test HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {NEW_TOKEN}\r\n\r\n"
    );
    assert_eq!(wire::send(mirror.app().admin_addr(), &change).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_follow_leave_when_the_token_changes() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let file = mirror.restart_with_token(TOKEN).await;
    let follow = async |token: &str| {
        let url = format!("http://{}/api/v1/events", mirror.app().admin_addr());
        let response = client().get(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response
    };
    let mut first = follow(TOKEN).await;
    mirror.get("/v2/").await;
    let told = soon("an event", first.chunk()).await.unwrap().unwrap();
    assert!(told.starts_with(b"event: request\n"), "{told:?}");
    // The same configuration once more changes nothing.
    mirror.app().reload(mirror.config().clone()).unwrap();
    mirror.get("/v2/").await;
    assert!(soon("another event", first.chunk()).await.unwrap().is_some());
    std::fs::write(&file, NEW_TOKEN).unwrap();
    soon("the end of the stream", first.bytes()).await.unwrap();

    let second = follow(NEW_TOKEN).await;
    let mut config = mirror.config().clone();
    config.admin.token_file = None;
    mirror.app().reload(config).unwrap();
    soon("the end of the second stream", second.bytes()).await.unwrap();

    let local = follow(NEW_TOKEN).await;
    mirror.app().reload(mirror.config().clone()).unwrap();
    soon("the end of the stream without a token", local.bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_private_images_in_rules_are_not_told() {
    let registry = FakeRegistry::start().await;
    let url = registry.url();
    let text = format!(
        "[[upstream]]\nname = \"docker.io\"\nurls = [\"{url}\"]\n\
         [[upstream]]\nname = \"team.lan\"\nurls = [\"{url}\"]\naccess = \"client\"\n\
         [[upstream.rule]]\nmatch = \"team.lan/app/secret:*\"\ntag_ttl = \"1h\"\n\
         [[rule]]\nmatch = \"docker.io/library/*\"\ntag_ttl = \"1h\"\n\
         [[rule]]\nmatch = \"*/secret:1\"\ntag_ttl = \"1h\"\n"
    );
    let mirror = Mirror::parse(&text).start().await;
    let told = document(&mirror, "config").await;
    assert!(!told.to_string().contains("secret"), "{told}");
    assert_eq!(told["not_shown"], serde_json::json!(["upstream[1].rule[0].match", "rule[1].match"]));
    assert_eq!(told["config"]["rule"][0]["match"], "docker.io/library/*");
    assert_eq!(told["config"]["rule"][1]["tag_ttl"], "1h");
    let whole = control::get(&mirror, "config").await;
    assert_eq!(whole["config"]["rule"][1]["match"], "*/secret:1");
    assert_eq!(whole["config"]["upstream"][1]["rule"][0]["match"], "team.lan/app/secret:*");
    assert_eq!(whole["not_shown"], serde_json::json!([]));
    // The same after a reload.
    mirror.app().reload(mirror.config().clone()).unwrap();
    assert!(!document(&mirror, "config").await.to_string().contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_file_that_cannot_be_used_is_refused() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let mut config = mirror.config().clone();
    config.admin.token_file = Some("/nowhere/admin.token".into());
    let error = mirror.app().reload(config).unwrap_err();
    assert!(error.is_configuration() && error.to_string().contains("admin.token_file"), "{error}");
    assert_eq!(document(&mirror, "status").await["config_reloaded"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_asks_the_upstream_and_needs_a_token() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let test = async |mirror: &Mirror, name: &str, lines: &str| {
        let line = format!("POST /api/v1/upstreams/{name}/test HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        wire::send(mirror.app().admin_addr(), &format!("{line}{lines}\r\n")).await
    };
    assert_eq!(test(&mirror, "fake.example", "").await.status, 403);
    assert_eq!(registry.count(|_| true), 0);

    mirror.restart_with_token(TOKEN).await;
    let told = async |mirror: &Mirror, name: &str| {
        let url = format!("http://{}/api/v1/upstreams/{name}/test", mirror.app().admin_addr());
        let response = client().post(url).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        serde_json::from_str::<Value>(text.strip_prefix("event: done\ndata: ").unwrap()).unwrap()
    };
    let good = told(&mirror, "FAKE.example").await;
    assert_eq!((&good["upstream"], &good["result"]), (&"fake.example".into(), &"ok".into()));
    registry.fault(When::any(), Fault::status(500));
    let bad = told(&mirror, "fake.example").await;
    assert_eq!((&bad["result"], &bad["cause"]), (&"failed".into(), &"status".into()), "{bad}");
    let unknown = test(&mirror, "other.example", &format!("Authorization: Bearer {TOKEN}\r\n")).await;
    assert!(unknown.status == 404 && unknown.text().contains("there are fake.example"), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_fails_is_told_until_it_is_back() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let first = document(&mirror, "status").await;
    assert_eq!((&first["state"], &first["upstreams"][0]["state"]), (&"ready".into(), &"unknown".into()));
    assert_eq!(first["attention"], serde_json::json!([]));
    assert!(first["cache"]["max_bytes"].as_u64().unwrap() > 0);

    mirror.get("/v2/team/app/tags/list").await;
    let answered = document(&mirror, "upstreams").await;
    assert_eq!(answered["upstreams"][0]["state"], "ok");
    assert!(answered["upstreams"][0]["latency"]["median_seconds"].as_f64().unwrap() >= 0.0);

    registry.fault(When::any(), Fault::status(500));
    mirror.get("/v2/team/other/tags/list").await;
    let down = document(&mirror, "status").await;
    assert_eq!(down["upstreams"][0]["state"], "down");
    assert_eq!(down["upstreams"][0]["last_failure"]["cause"], "status");
    let attention = down["attention"][0].as_str().unwrap();
    assert!(attention.starts_with("fake.example answered no request since 20"), "{attention}");
    // A reload forgets nothing.
    mirror.app().reload(mirror.config().clone()).unwrap();
    assert_eq!(document(&mirror, "upstreams").await["upstreams"][0]["state"], "down");

    registry.heal();
    until("the upstream is back", async || {
        mirror.get("/v2/team/third/tags/list").await;
        document(&mirror, "upstreams").await["upstreams"][0]["state"] == "ok"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_http2_has_few_requests_at_a_time() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let mut client = tokio::net::TcpStream::connect(mirror.app().admin_addr()).await.unwrap();
    // The preface, and an empty SETTINGS frame.
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let mut settings = vec![0; usize::from(head[2])];
    client.read_exact(&mut settings).await.unwrap();
    // SETTINGS_MAX_CONCURRENT_STREAMS.
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 4]), "{settings:?}");
}
