//! The commands that ask the running forebay.

use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
};
use tokio::task::spawn_blocking;

use super::*;

/// What a command prints that asks this mirror.
pub(super) async fn ask(mirror: &Mirror, arguments: &[&str]) -> (Option<i32>, String, String) {
    let socket = mirror.config().admin.socket.as_deref().unwrap().to_str().unwrap().to_owned();
    run_beside(&[arguments, &["--control", &socket]].concat()).await
}

/// What a command prints, while the mirror goes on.
async fn run_beside(arguments: &[&str]) -> (Option<i32>, String, String) {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&tempfile::tempdir().unwrap(), &arguments)
    })
    .await
    .unwrap()
}

pub(super) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_fails_when_a_person_should_look() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (code, page, error) = ask(&mirror, &["status"]).await;
    assert_eq!((code, &*error), (Some(0), ""), "{page}");
    assert!(page.starts_with(&format!("forebay {}  ready  up ", env!("CARGO_PKG_VERSION"))), "{page}");
    assert!(page.contains("\nfake.example  not asked yet  anonymous "), "{page}");
    assert_eq!(ask(&mirror, &["status", "--ready"]).await, (Some(0), "ready\n".to_owned(), String::new()));

    registry.fault(When::any(), Fault::status(500));
    mirror.get("/v2/team/app/tags/list").await;
    let (code, page, error) = ask(&mirror, &["status"]).await;
    assert_eq!((code, &*error), (Some(1), "forebay: a person should look at this\n"));
    let last = page.lines().last().unwrap();
    assert!(
        last.starts_with("! fake.example answered no request since 20") && last.ends_with(" asks it now"),
        "{page}"
    );
    let (code, page, _) = ask(&mirror, &["status", "--json"]).await;
    assert_eq!((code, &json(&page)["upstreams"][0]["state"]), (Some(1), &"down".into()));

    mirror.app().announce_drain();
    let (code, text, error) = ask(&mirror, &["status", "--ready", "--json"]).await;
    assert_eq!((code, json(&text)), (Some(1), serde_json::json!({ "state": "draining", "ready": false })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_are_listed_and_tested() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (code, list, _) = ask(&mirror, &["upstream", "ls"]).await;
    let words: Vec<Vec<&str>> = list.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
    assert_eq!((code, &words[1][..3]), (Some(0), &["fake.example", "not asked yet", "anonymous"][..]), "{list}");

    let (code, text, error) = ask(&mirror, &["upstream", "test"]).await;
    assert!(code == Some(0) && text.starts_with("fake.example: ok, "), "{text}{error}");
    registry.fault(When::any(), Fault::status(500));
    let (code, text, error) = ask(&mirror, &["upstream", "test", "fake.example", "--json"]).await;
    assert_eq!((code, &*error), (Some(1), "forebay: 1 of 1 upstream failed\n"));
    assert_eq!(json(&text)["cause"], "status");
    let (code, text, error) = ask(&mirror, &["upstream", "test", "other.example"]).await;
    assert_eq!((code, &*text), (Some(1), ""));
    assert_eq!(error, "forebay: there is no upstream \"other.example\"; there are fake.example\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_paused_and_resumed() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (code, text, error) = ask(&mirror, &["upstream", "pause", "fake.example"]).await;
    assert!(code == Some(0) && text.starts_with("fake.example: paused since 20"), "{text}{error}");
    let (_, list, _) = ask(&mirror, &["upstream", "ls"]).await;
    assert!(list.contains("fake.example  PAUSED "), "{list}");
    let (code, text, _) = ask(&mirror, &["upstream", "resume", "fake.example"]).await;
    let expected = "fake.example: resumed; for up to 5 s more, tags are served as they are cached\n";
    assert_eq!((code, &*text), (Some(0), expected));
    let (_, text, _) = ask(&mirror, &["upstream", "resume", "fake.example"]).await;
    assert_eq!(text, "fake.example: was not paused\n");
    let (code, text, _) = ask(&mirror, &["upstream", "resume", "fake.example", "--json"]).await;
    let expected = serde_json::json!({ "upstream": "fake.example", "paused_since": null, "was_paused": false });
    assert_eq!((code, json(&text)), (Some(0), expected));
    let (code, _, error) = ask(&mirror, &["upstream", "pause", "other.example"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(error, "forebay: there is no upstream \"other.example\"; there are fake.example\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_would_fail_is_explained_with_exit_code_1() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let (code, text, error) = ask(&mirror, &["explain", "team/app:1"]).await;
    assert_eq!((code, &*error), (Some(0), ""), "{text}");
    let steps: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(steps, ["route", "rules", "connect", "HEAD", "cache", "requests", "succeeds:"], "{text}");
    let (code, text, error) = ask(&mirror, &["explain", "team/app:2", "--json"]).await;
    assert_eq!((code, &*error), (Some(1), "forebay: a pull of team/app:2 would fail\n"));
    assert_eq!(json(text.lines().last().unwrap())["pull"], "fails");
    let (code, text, error) = ask(&mirror, &["explain", "UPPER"]).await;
    assert!(code == Some(2) && text.is_empty() && error.contains("repository"), "{error}");
}

#[test]
fn without_a_running_forebay_the_places_are_named() {
    let directory = directory("");
    for arguments in [&["status"][..], &["status", "--ready"], &["upstream", "ls"], &["explain", "node"]] {
        let (code, stdout, stderr) = run(&directory, &[arguments, &["--control", "none.sock"]].concat());
        assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
        assert_eq!(
            stderr,
            "forebay: no forebay runs here: nothing listens on none.sock; start it (forebay serve, or systemctl start \
             forebay), or name the one that runs by its --config FILE, or by --control PATH or URL\n"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_mistakes_tells_where_forebay_is() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let socket = mirror.config().admin.socket.clone().unwrap();
    let of_admin = format!("[admin]\nsocket = \"{}\"\n", socket.display());
    // A key that this user cannot read, and what a reload refuses.
    let secret = "[[upstream]]\nname = \"a.example\"\nusername = \"me\"\npassword_file = \"/none\"\nnonsense = 1\n";
    for (rest, code, expected) in [
        (secret, 0, ""),
        ("[cache]\nmax_size = 50 GiB\n", 0, "warning: forebay.toml:4:"),
        ("socket = 7\n", 2, "forebay: forebay.toml:3:"),
    ] {
        let directory = directory(&format!("{of_admin}{rest}"));
        let status = move || run(&directory, &["status", "--config", "forebay.toml"]);
        let (found, page, error) = spawn_blocking(status).await.unwrap();
        assert_eq!(found, Some(code), "{rest}{page}{error}");
        assert!(error.starts_with(expected) && error.is_empty() == expected.is_empty(), "{rest}{error}");
    }
}

#[test]
fn a_broken_default_file_leaves_the_default_places() {
    let directory = directory("");
    fs::create_dir(directory.path().join("etc")).unwrap();
    fs::write(directory.path().join("etc/forebay.toml"), "[admin]\nsocket = 7\n").unwrap();
    let (code, _, error) = run(&directory, &["status"]);
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!((code, lines.len()), (Some(1), 2), "{error}");
    assert!(lines[0].starts_with("warning: ") && lines[0].contains("forebay.toml:2:"), "{error}");
    let state = directory.path().join("state/control.sock");
    assert!(lines[1].contains("nothing listens on") && lines[1].contains(state.to_str().unwrap()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_is_asked_with_a_token() {
    let registry = FakeRegistry::start().await;
    let directory = directory("");
    let token = directory.path().join("token");
    fs::write(&token, "0123456789abcdef\n").unwrap();
    let open = Mirror::of(&registry).await;
    let url = format!("http://{}", open.app().admin_addr());
    let (code, page, error) = run_beside(&["status", "--control", &url]).await;
    assert_eq!((code, &*error), (Some(0), ""), "{page}");
    let (code, _, error) = run_beside(&["upstream", "test", "--control", &url]).await;
    assert!(code == Some(1) && error.contains("set admin.token_file"), "{error}");

    let file = token.clone();
    let closed = Mirror::build(&registry).config(|config| config.admin.token_file = Some(file)).start().await;
    let url = format!("http://{}", closed.app().admin_addr());
    let (code, _, error) = run_beside(&["status", "--control", &url]).await;
    assert!(code == Some(1) && error.contains("--token-file FILE names its file"), "{error}");
    // A probe needs no token.
    let ready = run_beside(&["status", "--ready", "--control", &url]).await;
    assert_eq!(ready, (Some(0), "ready\n".to_owned(), String::new()));
    let file = token.to_str().unwrap();
    let (code, text, error) = run_beside(&["upstream", "test", "--control", &url, "--token-file", file]).await;
    assert!(code == Some(0) && text.starts_with("fake.example: ok, "), "{text}{error}");
    for arguments in [&["upstream", "test", "--control", &url][..], &["config", "check"]] {
        let mut by_variable = forebay(&directory);
        by_variable.args(arguments).env("FOREBAY_TOKEN_FILE", &token);
        let output = spawn_blocking(move || by_variable.output().unwrap()).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !error.contains("TOKEN_FILE"), "{error}");
    }

    let socket = closed.config().admin.socket.clone().unwrap();
    for (place, file, expected) in [
        (&*url, "none", "cannot read none"),
        ("https://127.0.0.1:1", file, "the admin listener speaks clear HTTP"),
        (socket.to_str().unwrap(), file, "--token-file is for an admin listener"),
    ] {
        let (code, _, error) = run_beside(&["status", "--control", place, "--token-file", file]).await;
        assert!(code == Some(2) && error.contains(expected), "{error}");
    }
    // Its registry is no admin listener.
    let (code, _, error) = run_beside(&["status", "--control", &closed.url()]).await;
    assert!(code == Some(1) && error.contains("as of another program"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_leaves_ends_the_tests_of_upstreams() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    registry.fault(When::any(), Fault::status(500));
    let socket = mirror.config().admin.socket.clone().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut testing = forebay(&directory);
    testing.args(["upstream", "test", "--control"]).arg(socket);
    let code = spawn_blocking(move || {
        let mut process = testing.spawn().unwrap();
        drop(process.stdout.take());
        process.wait().unwrap().code()
    });
    assert_eq!(code.await.unwrap(), Some(0));
}
