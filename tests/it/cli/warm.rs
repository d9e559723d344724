//! `forebay warm`: names from everywhere, what is printed, and the exit codes.

use std::{fs, process::Stdio};

use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    until::soon,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::running::ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_images_of_a_compose_file_are_fetched() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer of 1"]);
    registry.add_image("team/db", "2", &[b"layer of 2"]);
    let mirror = Mirror::of(&registry).await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let compose = "services:\n  app:\n    image: team/app:${FOREBAY_TEST_NO_SUCH:-1}\n  own:\n    build: .\n";
    let compose = file("compose.yaml", compose);
    let list = file("images.txt", "# the database\nteam/db:2\n");

    let (code, printed, remarks) = ask(&mirror, &["warm", "-f", &compose, "-f", &list]).await;
    assert_eq!(code, Some(0), "{remarks}");
    let mut lines: Vec<&str> = printed.lines().collect();
    let sums = lines.pop().unwrap();
    assert!(sums.starts_with("2 fetched, 0 cached, 0 failed: "), "{printed}");
    assert!(lines.iter().any(|line| line.starts_with("fetched  fake.example/team/app:1  ")), "{printed}");
    assert!(lines.iter().any(|line| line.starts_with("fetched  fake.example/team/db:2  ")), "{printed}");
    assert!(remarks.contains("compose.yaml: service own names no image of its own: it is left out"), "{remarks}");

    let (code, printed, _) = ask(&mirror, &["warm", "--json", "team/app:1", "--platform", "all"]).await;
    let events: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, &events.last().unwrap()["event"]), (Some(0), &"done".into()));
    assert_eq!(events.last().unwrap()["cached"], 1, "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_tells_failures_from_wrong_usage() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list");
    let path = path.to_str().unwrap();

    let (code, printed, error) = ask(&mirror, &["warm", "team/app:1", "team/app:2"]).await;
    assert_eq!((code, &*error), (Some(1), "forebay: 1 image failed\n"), "{printed}");
    assert!(printed.contains("failed   fake.example/team/app:2  "), "{printed}");

    fs::write(path, "services:\n  web:\n    image: node:${FOREBAY_TEST_NO_SUCH}\n").unwrap();
    let (code, _, error) = ask(&mirror, &["warm", "-f", path]).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("list: service web: the variable FOREBAY_TEST_NO_SUCH is not set"), "{error}");
    fs::write(path, "team/app:1 team/app:2\n").unwrap();
    let (code, _, error) = ask(&mirror, &["warm", "-f", path]).await;
    assert!(code == Some(2) && error.contains("line 1: "), "{error}");
    for (arguments, code) in [
        (&["warm"][..], Some(2)),
        (&["warm", "team/app:1", "--platform", "x86"], Some(2)),
        (&["warm", "team/app:1", "--limit", "-1"], Some(2)),
        (&["warm", "team/app:1", "--pin", "soon"], Some(2)),
        (&["warm", "Bad Name"], Some(2)),
        (&["warm", "team/app:*"], Some(2)),
        (&["warm", "team/app:*", "team/app:2"], Some(1)),
        (&["warm", "-f", "/no/such/file"], Some(2)),
    ] {
        let (exit, _, error) = ask(&mirror, arguments).await;
        assert_eq!(exit, code, "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_command_ends_its_downloads() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("a.tar");
    let kept = "interrupted: the run ends, and with it each download that no client reads; what has come stays, and the next \
        run goes on from there";
    for (arguments, expected) in [
        (&["warm", "fake.example/team/app:1"][..], kept),
        (&["cache", "export", "-o", archive.to_str().unwrap(), "fake.example/team/app:1"], "interrupted"),
    ] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[&[7; 1 << 20]]);
        let mirror = Mirror::of(&registry).await;
        let gate = Gate::new();
        registry.fault(When::blob(&image.layers[0]), Fault::HoldBody { at: 1 << 19, gate: gate.clone() });
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(arguments).arg("--control").arg(mirror.config().admin.socket.as_ref().unwrap()).kill_on_drop(true);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        mirror.until_metric("forebay_fills_in_flight", &[], 1.0).await;
        kill_process(Pid::from_raw(command.id().unwrap().cast_signed()).unwrap(), Signal::INT).unwrap();
        let output = soon("the end of the command", command.wait_with_output()).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*error), (Some(1), &*format!("forebay: {expected}\n")));
        // The registry would send more.
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        gate.open();
    }
}
