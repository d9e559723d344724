//! A new configuration is taken over while serving: all of it, or nothing.

use std::fs;

use forebay::config::{Config, Overrides};
use rustix::process::Signal;

use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror, program::Program, until::until};
use forebay_test_support::{
    manifest::manifest,
    users::{basic, configuration, with_users, write_users},
};

fn upstream(name: &str, registry: &FakeRegistry) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\n", registry.url())
}

/// What a file with this text would be read as.
fn config(mirror: &Mirror, text: &str) -> Config {
    let parsed = Config::parse(text, &mirror.cache_dir().join("forebay.toml"), Overrides::default()).unwrap();
    Config { access: parsed.access, upstreams: parsed.upstreams, ..mirror.config().clone() }
}

async fn reloads(mirror: &Mirror, result: &str) -> f64 {
    mirror.metric("forebay_reloads_total", &[("what", "config"), ("result", result)]).await
}

#[tokio::test]
async fn upstreams_come_and_go() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = second.add_image("team/app", "1", &[b"of the second"]);
    first.add_image("team/app", "1", &[b"of the first"]);
    let mirror = Mirror::parse(&upstream("first.example", &first)).start().await;
    let asked = |name: &str| format!("/v2/{name}/team/app/manifests/1");
    assert_eq!(mirror.get(&format!("{}?ns=second.example", manifest(1))).await.status, 404);
    mirror
        .app()
        .reload(config(&mirror, &(upstream("first.example", &first) + &upstream("second.example", &second))))
        .unwrap();
    assert_eq!(mirror.get(&asked("second.example")).await.body, image.manifest_bytes);
    assert_eq!(mirror.get(&asked("first.example")).await.status, 200);
    mirror.app().reload(config(&mirror, &upstream("second.example", &second))).unwrap();
    first.forget_requests();
    // Cached or not: what is not configured is not served.
    let gone = mirror.get(&format!("{}?ns=first.example", manifest(1))).await;
    assert_eq!((gone.status, &*gone.error_code()), (404, "NAME_UNKNOWN"));
    assert!(first.requests().is_empty());
    assert_eq!(mirror.get(&asked("second.example")).await.header("cache-status"), Some("forebay; hit"));
    assert_eq!((reloads(&mirror, "ok").await, reloads(&mirror, "failed").await), (2.0, 0.0));
}

/// `htpasswd` sends no signal when it has changed the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_and_go_with_their_file() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let mirror = Mirror::parse(&configuration(&registry, &users, "none")).start().await;
    let status = async |user: &str, password: &str| {
        mirror.get_with("/v2/", &[("authorization", &basic(user, password))]).await.status
    };
    assert_eq!((status("ann", "secret").await, status("bob", "other").await), (200, 401));
    write_users(&users, &[("bob", "other")]);
    until("bob may pull", async || status("bob", "other").await == 200).await;
    assert_eq!(status("ann", "secret").await, 401);
    fs::write(users.path().join("htpasswd"), "nonsense").unwrap();
    mirror.until_metric("forebay_reloads_total", &[("what", "htpasswd"), ("result", "failed")], 1.0).await;
    assert_eq!(status("bob", "other").await, 200);
    fs::remove_file(users.path().join("htpasswd")).unwrap();
    mirror.until_metric("forebay_reloads_total", &[("what", "htpasswd"), ("result", "failed")], 2.0).await;
    assert_eq!(status("bob", "other").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_and_go() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let text = configuration(&registry, &users, "none");
    let mirror = Mirror::parse(&text).start().await;
    let status = async |user: &str, password: &str| {
        mirror.get_with("/v2/", &[("authorization", &basic(user, password))]).await.status
    };
    assert_eq!((status("ann", "secret").await, status("bob", "other").await), (200, 401));
    write_users(&users, &[("bob", "other")]);
    mirror.app().reload(config(&mirror, &text)).unwrap();
    assert_eq!((status("ann", "secret").await, status("bob", "other").await), (401, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_thing_wrong_changes_nothing() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    registry.add_image("team/app", "1", &[b"layer"]);
    let text = configuration(&registry, &users, "none");
    let mirror = Mirror::parse(&text).start().await;
    let other = config(&mirror, &upstream("other.example", &registry));

    // New upstreams are good, new users are not.
    let mut half = other.clone();
    half.access = mirror.config().access.clone();
    fs::write(users.path().join("htpasswd"), "eve:plain\n").unwrap();
    assert!(mirror.app().reload(half).is_err());
    // New users are good, new upstreams are not.
    write_users(&users, &[("eve", "evil")]);
    let mut half = config(&mirror, &text);
    half.upstreams[0].ca = Some("/nowhere/ca.crt".into());
    assert!(mirror.app().reload(half).is_err());

    assert_eq!((reloads(&mirror, "ok").await, reloads(&mirror, "failed").await), (0.0, 2.0));
    let ann = basic("ann", "secret");
    assert_eq!(mirror.get_with(&manifest(1), &[("authorization", &ann)]).await.status, 200);
    assert_eq!(mirror.get_with("/v2/?ns=other.example", &[("authorization", &ann)]).await.status, 404);
    assert_eq!(mirror.get_with("/v2/", &[("authorization", &basic("eve", "evil"))]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_reloads_the_file_and_a_bad_file_is_counted() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    first.add_image("team/app", "1", &[b"layer"]);
    second.add_image("team/app", "1", &[b"layer"]);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("forebay.toml"), upstream("first.example", &first)).unwrap();
    let program = Program::serve(directory, "info").await;
    let write = |text: &str| fs::write(program.directory().join("forebay.toml"), text).unwrap();
    let counted = async |result: &str, times: u32| {
        let line = format!("forebay_reloads_total{{result=\"{result}\",what=\"config\"}} {times}\n");
        until(&line, async || program.metrics().await.contains(&line)).await;
    };
    let path = "/v2/team/app/manifests/1?ns=";
    assert_eq!(program.get(&format!("{path}second.example")).await.0, 404);

    write("[server]\nnonsense = 1\n");
    program.signal(Signal::HUP);
    counted("failed", 1).await;
    fs::remove_file(program.directory().join("forebay.toml")).unwrap();
    program.signal(Signal::HUP);
    counted("failed", 2).await;
    assert_eq!(program.get(&format!("{path}first.example")).await.0, 200, "the old one stays");

    write(&(upstream("first.example", &first) + &upstream("second.example", &second)));
    program.signal(Signal::HUP);
    counted("ok", 1).await;
    assert_eq!(program.get(&format!("{path}second.example")).await.0, 200);
    let log = program.end().await;
    assert!(log.contains("reload failed") && log.contains("server.nonsense"), "{log}");
}
