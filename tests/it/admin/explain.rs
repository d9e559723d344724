//! `POST explain`: each step of a pull, what it tells, and what it leaves alone.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::ask::{done, events, post_with};
use forebay_test_support::{
    blob,
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Server, When},
    manifest::{asked, manifest},
    mirror::{Builder, Mirror, UPSTREAM},
    test_ca::TestCa,
};

const JSON: &str = "Content-Type: application/json\r\n";
const PASSWORD: &str = "hunter2-of-the-bot";

/// The steps of an explanation by their names (of several the last one), and its end.
async fn explain(mirror: &Mirror, image: &str) -> (serde_json::Map<String, Value>, Value) {
    let (status, body) = post_with(mirror, "explain", JSON, &json!({ "image": image }).to_string()).await;
    assert_eq!(status, 200, "{body}");
    for secret in [PASSWORD, "Bearer ", "Basic ", "token-"] {
        assert!(!body.contains(secret), "{secret}: {body}");
    }
    let mut told = events(&body);
    let (name, end) = told.pop().unwrap();
    assert_eq!((&*name, &end["image"]), ("done", &json!(image)), "{body}");
    assert!(told.iter().all(|(name, _)| name == "progress"), "{body}");
    (told.into_iter().map(|(_, data)| (data["step"].as_str().unwrap().to_owned(), data)).collect(), end)
}

/// A mirror that has an account at the registry.
fn with_account(registry: &FakeRegistry) -> Builder {
    Mirror::build(registry).config(|config| {
        let path = config.cache.directory.with_file_name("bot.password");
        std::fs::write(&path, PASSWORD).unwrap();
        config.upstreams[0].credential =
            forebay::upstream::CredentialSource::Password { username: "ci-bot".into(), password_file: path };
    })
}

fn bearer(anonymous: bool) -> Auth {
    let users = vec![("ci-bot".to_owned(), PASSWORD.to_owned())];
    Auth::Bearer(Bearer { users, anonymous, ..Bearer::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_explained_and_nothing_is_cached_for_it() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    registry.require(bearer(false));
    let mirror = with_account(&registry).start().await;
    let (steps, end) = explain(&mirror, "team/app:1").await;
    let route = json!({
        "step": "route", "upstream": UPSTREAM, "repository": "team/app", "reference": "1", "by": "default",
        "access": "shared", "credentials": "own", "user": "ci-bot", "paused_since": null, "problem": null,
        "redirects": null, "credentials_from": mirror.config().cache.directory.with_file_name("bot.password"),
    });
    assert_eq!(steps["route"], route);
    assert_eq!((&steps["rules"]["matching"], &steps["rules"]["denied_by"]), (&json!([]), &Value::Null));
    let connection = &steps["connection"];
    assert!(connection["connect_seconds"].is_f64() && connection["dns_seconds"].is_null(), "{connection}");
    assert_eq!((&connection["tls_seconds"], &connection["problem"]), (&Value::Null, &Value::Null));
    let token = &steps["token"];
    assert_eq!((&token["kind"], &token["scope"]), (&json!("token"), &json!("repository:team/app:pull")), "{token}");
    assert_eq!((&token["anonymous"], &token["cached"]), (&json!(false), &json!(false)), "{token}");
    let head = &steps["head"];
    assert_eq!((&head["status"], &head["digest"]), (&json!(200), &json!(image.manifest.as_str())), "{head}");
    assert_eq!((&steps["cache"]["digest"], &steps["cache"]["manifest"]), (&Value::Null, &Value::Null));
    assert_eq!(end["pull"], "succeeds", "{end}");
    // A HEAD, and no GET of anything.
    assert_eq!((asked(&registry, Method::GET), registry.count(|seen| seen.path.contains("/blobs/"))), (0, 0));
    assert!(blob::is_empty(&mirror.cache_dir()));

    mirror.get(&manifest(1)).await;
    mirror.get(&blob::path(&image.config)).await;
    mirror.get(&blob::path(&image.layers[0])).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "blob")], 2.0).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "tag")], 1.0).await;
    let (steps, end) = explain(&mirror, "fake.example/team/app:1").await;
    assert_eq!((&steps["route"]["by"], &steps["token"]["cached"]), (&json!("name"), &json!(true)));
    let cache = &steps["cache"];
    assert_eq!((&cache["digest"], &cache["manifest"]), (&json!(image.manifest.as_str()), &json!("memory")), "{cache}");
    assert_eq!((&cache["blobs"], &cache["complete"]), (&json!({ "cached": 2, "all": 2 }), &json!(true)), "{cache}");
    assert_eq!(
        (&end["pull"], &end["meaning"]),
        (&json!("succeeds"), &json!("the upstream has it, and all of it is cached"))
    );
    let told = steps["requests"]["requests"].as_array().unwrap();
    let pulled = (&told[0]["method"], &told[0]["status"], &told[0]["image"]);
    assert_eq!((told.len(), pulled), (1, (&json!("GET"), &json!(200), &json!("fake.example/team/app:1"))));
    let by_digest = explain(&mirror, &format!("team/app@{}", image.manifest)).await;
    assert_eq!((&by_digest.0["cache"]["tag"], &by_digest.0["head"]["status"]), (&Value::Null, &json!(200)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_from_disk_stays_there() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "tag")], 1.0).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "manifest")], 1.0).await;
    mirror.restart().await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "manifest")], 1.0).await;
    for _ in 0..2 {
        let (steps, _) = explain(&mirror, "team/app:1").await;
        let cache = &steps["cache"];
        assert_eq!(
            (&cache["manifest"], &cache["digest"]),
            (&json!("disk"), &json!(image.manifest.as_str())),
            "{cache}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_fail_is_told_by_its_step() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    registry.require(bearer(true));
    let mirror = with_account(&registry).start().await;
    let (steps, end) = explain(&mirror, "team/app:2").await;
    assert_eq!((&steps["head"]["status"], &end["pull"]), (&json!(404), &json!("fails")));
    let meaning =
        "the account ci-bot does not see it, or there is none. Same with: docker pull fake.example/team/app:2";
    assert_eq!(end["meaning"], meaning);

    registry.fault(When::manifests(), Fault::status(500));
    let (steps, end) = explain(&mirror, "team/app:1").await;
    assert_eq!((&steps["head"]["cause"], &end["pull"]), (&json!("status"), &json!("fails")), "{steps:?}");
    assert_eq!(end["meaning"], "nothing is cached, and fake.example cannot answer (status)");
    registry.heal();

    registry.revoke_tokens();
    registry.require(Auth::Bearer(Bearer { users: vec![], anonymous: false, ..Bearer::default() }));
    let (steps, end) = explain(&mirror, "team/app:1").await;
    assert!(steps["token"]["problem"].is_string(), "{steps:?}");
    assert_eq!((&steps["token"]["cause"], &end["pull"]), (&json!("credentials"), &json!("fails")), "{steps:?}");
    assert!(end["meaning"].as_str().unwrap().contains("refuses the password of the account ci-bot"), "{end}");

    registry.take_down(Server::Api).await;
    let (steps, end) = explain(&mirror, "team/app:1").await;
    assert_eq!((&steps["connection"]["cause"], &end["pull"]), (&json!("refused"), &json!("fails")), "{steps:?}");
    assert!(!steps.contains_key("head"), "{steps:?}");
    // An operator's question is no outage.
    assert_eq!(mirror.metric("forebay_upstream_errors_total", &[("cause", "refused")]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_and_a_pause_serve_what_is_cached() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let builder = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::ZERO);
    let mirror = builder.start().await;
    mirror.get(&manifest(1)).await;
    mirror.get(&blob::path(&image.config)).await;
    mirror.get(&blob::path(&image.layers[0])).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "blob")], 2.0).await;
    registry.fault(When::any(), Fault::status(503));
    let (steps, end) = explain(&mirror, "team/app:1").await;
    assert_eq!((&steps["cache"]["tag"], &end["pull"]), (&json!("stale"), &json!("serves_stale")), "{end}");
    registry.heal();
    done(&mirror, "upstreams/fake.example/pause").await;
    registry.forget_requests();
    let (steps, end) = explain(&mirror, "team/app:1").await;
    assert!(steps["route"]["paused_since"].is_string() && !steps.contains_key("head"), "{steps:?}");
    assert_eq!(end["pull"], "serves_stale");
    assert!(end["meaning"].as_str().unwrap().contains("forebay upstream resume fake.example"), "{end}");
    assert_eq!(registry.count(|_| true), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_the_upstream_is_told() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let trusting = Mirror::build(&registry).config(|config| config.upstreams[0].ca = Some(ca.path())).start().await;
    let (steps, end) = explain(&trusting, "team/app:1").await;
    let connection = &steps["connection"];
    assert!(connection["tls_seconds"].is_f64() && connection["certificate"]["until"].is_string(), "{connection}");
    assert_eq!((&steps["head"]["status"], &end["pull"]), (&json!(200), &json!("succeeds")));

    let distrusting = Mirror::of(&registry).await;
    let (steps, end) = explain(&distrusting, "team/app:1").await;
    let connection = &steps["connection"];
    assert_eq!((&connection["cause"], &connection["tls_seconds"]), (&json!("tls"), &Value::Null), "{connection}");
    assert_eq!((&end["pull"], steps.contains_key("head")), (&json!("fails"), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_denies_is_named_and_no_upstream_is_asked() {
    let registry = FakeRegistry::start().await;
    let text = format!(
        "[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n[[rule]]\nmatch = \"*:latest\"\ndeny = true\n",
        registry.url()
    );
    let mirror = Mirror::parse(&text).start().await;
    let (steps, end) = explain(&mirror, "team/app").await;
    assert!(steps["rules"]["denied_by"].as_str().unwrap().starts_with("\"*:latest\""), "{steps:?}");
    assert!(end["pull"] == "fails" && end["meaning"].as_str().unwrap().contains("\"*:latest\""), "{end}");
    assert_eq!(registry.count(|_| true), 0);

    let (steps, end) = explain(&mirror, "other.example:5000/team/app").await;
    assert!(steps["route"]["problem"].as_str().unwrap().contains("other.example:5000"), "{steps:?}");
    assert_eq!(end["pull"], "fails");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_clients_have_their_own_accounts_they_decide() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    registry.require(bearer(false));
    let text = format!(
        "[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    );
    let mirror = Mirror::parse(&text).start().await;
    let (steps, end) = explain(&mirror, "team/app:1").await;
    let route = &steps["route"];
    assert_eq!((&route["access"], &route["credentials"]), (&json!("client"), &json!("client")), "{route}");
    assert_eq!((&route["user"], &end["pull"]), (&Value::Null, &json!("depends_on_client")), "{end}");
    assert!(registry.requests().iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_run_at_a_time_and_questions_are_checked() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let question = r#"{"image":"team/app:1"}"#;
    for (lines, body, status) in [
        ("", question.to_owned(), 415),
        ("Content-Type: text/plain\r\n", question.to_owned(), 415),
        (JSON, "{}".to_owned(), 400),
        (JSON, r#"{"image":"UPPER"}"#.to_owned(), 400),
        (JSON, r#"{"image":"team/app:1","client":"x"}"#.to_owned(), 400),
        (JSON, format!(r#"{{"image":"{}"}}"#, "x".repeat(70_000)), 413),
    ] {
        assert_eq!(post_with(&mirror, "explain", lines, &body).await.0, status, "{lines} {}", body.len());
    }
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    let both = async { tokio::join!(explain(&mirror, "team/app:1"), explain(&mirror, "team/app:1")) };
    let third = async {
        gate.reached_by(2).await;
        let refused = post_with(&mirror, "explain", JSON, question).await;
        gate.open();
        refused
    };
    let (ends, (status, body)) = tokio::join!(both, third);
    assert!(status == 429 && body.contains("2 pulls are being explained"), "{body}");
    assert_eq!((&ends.0.1["pull"], &ends.1.1["pull"]), (&json!("succeeds"), &json!("succeeds")));
}
