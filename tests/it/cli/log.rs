//! `forebay log` of the real program.

use std::io::{BufRead as _, BufReader};

use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
    until::until,
};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{
    running::{ask, json},
    *,
};

/// What `forebay log` prints once it has so many lines.
async fn lines(mirror: &Mirror, arguments: &[&str], count: usize) -> Vec<String> {
    until(&format!("{count} lines of {arguments:?}"), async || {
        let (code, text, error) = ask(mirror, arguments).await;
        assert_eq!((code, &*error), (Some(0), ""), "{arguments:?}");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() == count).then_some(lines)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_a_line_that_is_opened_by_its_id() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    assert!(lines(&mirror, &["log"], 1).await[0].starts_with("TIME  CLIENT  IMAGE  OUTCOME"));
    mirror.get("/v2/team/app/manifests/1").await;
    mirror.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await;
    registry.fault(When::any(), Fault::status(500));
    mirror.get("/v2/team/other/manifests/2").await;

    let list = lines(&mirror, &["log"], 3).await;
    assert!(list[1].contains("  fake.example/team/app:1    miss     -   "), "{list:?}");
    let failed = "  fake.example/team/other:2  error    upstream_unavailable (status)  ";
    assert!(list[2].contains(failed), "the newest comes last: {list:?}");
    let document = json(&lines(&mirror, &["log", "--json"], 1).await[0]);
    assert_eq!((document["pulls"].as_array().unwrap().len(), &document["next"]), (2, &Value::Null));
    let pulls = json(&lines(&mirror, &["log", "--image", "fake.example/team/app:1", "--json"], 1).await[0]);
    let pull = &pulls["pulls"][0];
    assert_eq!((&pull["image"], &pull["requests"]), (&"fake.example/team/app:1".into(), &2.into()));

    // The pull, an empty line, the head, and two requests in their order.
    let id = pull["id"].as_str().unwrap();
    let opened = lines(&mirror, &["log", id], 6).await;
    assert!(opened[4].contains("  GET manifest  fake.example/team/app:1 "), "{opened:?}");
    assert!(opened[5].contains("  GET blob      fake.example/team/app@sha256:"), "{opened:?}");
    let documents = lines(&mirror, &["log", id, "--json"], 1).await;
    let requests = json(&documents[0]);
    let blob = &requests["requests"][0];
    assert_eq!((&blob["operation"], &blob["pull"]), (&"blob".into(), &id.into()));
    // The request of a pull opens the pull.
    assert_eq!(lines(&mirror, &["log", blob["id"].as_str().unwrap(), "--json"], 1).await, documents);
    // Below a request that failed is its cause.
    let errors = json(&lines(&mirror, &["log", "--errors", "--slow", "0s", "--json"], 1).await[0]);
    let failed = errors["pulls"][0]["id"].as_str().unwrap();
    assert!(lines(&mirror, &["log", failed], 6).await[5].starts_with(&format!("{failed}: ")));

    let (code, text, error) = ask(&mirror, &["log", "ffffffff-1"]).await;
    assert_eq!((code, &*text), (Some(1), ""));
    assert!(
        error.starts_with("forebay: forebay knows no request ffffffff-1: it remembers the latest 10000"),
        "{error}"
    );
    for arguments in [&["log", "--image", "docker.io?"][..], &["log", "--slow", "5"], &["log", "x"]] {
        let (code, text, error) = ask(&mirror, arguments).await;
        assert_eq!((code, &*text), (Some(2), ""), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_requests_are_printed_as_they_end() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let mut mirror = Mirror::of(&registry).await;
    let socket = mirror.config().admin.socket.clone().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut following = forebay(&directory);
    following.args(["log", "-f", "--json", "--control"]).arg(socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut following = following.spawn().unwrap();
    let mut printed = BufReader::new(following.stdout.take().unwrap());
    // It prints nothing before it follows: requests go on until it does.
    let reading = spawn_blocking(move || {
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        (line, printed)
    });
    until("a line", async || {
        mirror.get("/v2/team/app/manifests/1").await;
        reading.is_finished()
    })
    .await;
    // The reader stays until the mirror has ended.
    let (line, _printed) = reading.await.unwrap();
    assert_eq!(json(&line)["image"], "fake.example/team/app:1");
    mirror.drain().await;
    let ended = spawn_blocking(move || following.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(ended.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_leaves_ends_what_follows() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let socket = mirror.config().admin.socket.clone().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut following = forebay(&directory).args(["log", "-f", "--control"]).arg(socket).spawn().unwrap();
    let ended = spawn_blocking(move || {
        let mut head = String::new();
        BufReader::new(following.stdout.take().unwrap()).read_line(&mut head).unwrap();
        // No request comes that it could print.
        (head, following.wait().unwrap().code())
    });
    let (head, code) = ended.await.unwrap();
    assert!(head.starts_with("TIME ") && code == Some(0), "{head}{code:?}");
}
