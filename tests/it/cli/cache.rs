//! `forebay cache …` against a mirror.

use std::{io::Read as _, process::Stdio};

use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror, until::until};
use tokio::task::spawn_blocking;

use super::{
    directory, forebay, run,
    running::{ask, json},
    terminal,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_pinned_listed_and_unpinned() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (code, text, error) = ask(&mirror, &["cache", "pin", "node:*", "fake.example/*", "--for", "30d"]).await;
    let warning = "warning: no upstream is named docker.io: nothing comes from there\n";
    assert_eq!((code, &*error), (Some(0), warning));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("docker.io/library/node:*: pinned until 20"), "{text}");
    assert!(lines[1].ends_with("Z; nothing of it is in the cache yet"), "{text}");
    let (code, text, _) = ask(&mirror, &["cache", "pin"]).await;
    let pins: Vec<&str> = text.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!((code, &pins[..3]), (Some(0), &["PIN", "docker.io/library/node:*", "fake.example/*"][..]), "{text}");
    let (code, text, _) = ask(&mirror, &["cache", "unpin", "node:*", "--json"]).await;
    assert_eq!(code, Some(0));
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["match"], "docker.io/library/node:*");

    let (code, _, error) = ask(&mirror, &["cache", "unpin", "node:*"]).await;
    assert_eq!(
        (code, &*error),
        (Some(1), "forebay: there is no pin \"docker.io/library/node:*\"; forebay cache pin lists them\n")
    );
    let (code, _, error) = ask(&mirror, &["cache", "pin", "docker.io/Up?"]).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.starts_with("forebay: match: has '?' in it"), "{error}");
}

#[test]
fn changes_want_their_arguments() {
    let directory = directory("");
    for arguments in [
        &["cache", "unpin"][..],
        &["cache", "pin", "--for", "30d"],
        &["cache", "pin", "node", "--for", "0s"],
        &["cache", "pin", "node", "--for", "banana"],
        &["cache", "rm", "--yes"],
        &["cache", "rm", "--yes", "--older-than", "banana"],
    ] {
        assert_eq!(run(&directory, arguments).0, Some(2), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_removed_refreshed_and_verified() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    let (code, text, error) = ask(&mirror, &["cache", "verify", "fake.example/*"]).await;
    assert!(code == Some(0) && text.starts_with("1 object, "), "{text}{error}");
    let (code, text, error) = ask(&mirror, &["cache", "refresh", "fake.example/team/app:1"]).await;
    assert!(code == Some(0) && text.starts_with("fake.example/team/app:1: still sha256:"), "{text}{error}");
    let (code, text, error) = ask(&mirror, &["cache", "refresh", "fake.example/team/app:2"]).await;
    assert_eq!((code, &*error), (Some(1), "forebay: 1 of 1 tag could not be refreshed\n"), "{text}");

    // There is no terminal to ask at.
    let (code, text, error) = ask(&mirror, &["cache", "rm", "fake.example/*"]).await;
    assert!(code == Some(2) && text.is_empty() && error.contains("say --yes"), "{text}{error}");
    let (code, text, error) = ask(&mirror, &["cache", "rm", "fake.example/*", "--dry-run"]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert!(text.starts_with("fake.example/team/app:1\n1 image, ") && text.ends_with(" would be removed\n"), "{text}");
    // It is too young.
    for arguments in [&["--older-than", "30d"][..], &["--upstream", "docker.io", "--older-than", "0s"]] {
        let (code, text, error) = ask(&mirror, &[&["cache", "rm", "--yes"], arguments].concat()).await;
        assert_eq!((code, &*text, &*error), (Some(0), "", "there are no such images to remove\n"), "{arguments:?}");
    }
    let (code, text, error) = ask(&mirror, &["cache", "rm", "--upstream", "fake.example", "--yes"]).await;
    assert!(code == Some(0) && text.ends_with(" removed\n"), "{text}{error}");
    let (code, text, error) = ask(&mirror, &["cache", "rm", "fake.example/*", "--yes"]).await;
    assert_eq!((code, &*text, &*error), (Some(0), "", "nothing matches fake.example/*\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_terminal_pinned_images_alone_fail_a_removal() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    let (code, _, error) = ask(&mirror, &["cache", "pin", "fake.example/*"]).await;
    assert_eq!(code, Some(0), "{error}");
    // It asks nothing: there is nothing to remove.
    let (_person, program) = terminal();
    let directory = directory("");
    let mut command = forebay(&directory);
    command.args(["cache", "rm", "fake.example/*", "--control"]).arg(mirror.config().admin.socket.as_ref().unwrap());
    command.stdin(Stdio::from(program));
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*error), (Some(1), "forebay: 1 image is pinned and stays; unpin it first\n"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "fake.example/team/app:1  pinned, stays\n");
    let (code, _, error) = ask(&mirror, &["cache", "rm", "fake.example/*", "--dry-run"]).await;
    assert_eq!((code, &*error), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_that_matches_nothing_is_told_with_a_hint() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (code, text, error) = ask(&mirror, &["cache", "ls"]).await;
    assert_eq!((code, text.lines().count(), &*error), (Some(0), 1, "no image is in the cache yet\n"));
    for (command, code, problem) in [
        ("ls", 0, ""),
        ("refresh", 1, "forebay: there is no such tag to refresh\n"),
        ("verify", 1, "forebay: there is nothing of that to verify\n"),
    ] {
        let (found, _, error) = ask(&mirror, &["cache", command, "team/*"]).await;
        let hint = "nothing matches team/*; no upstream is named team\n";
        assert_eq!((found, error), (Some(code), format!("{hint}{problem}")), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_how_far_a_verification_is() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    let (mut person, program) = terminal();
    let directory = directory("");
    let mut command = forebay(&directory);
    command.args(["cache", "verify", "--control"]).arg(mirror.config().admin.socket.as_ref().unwrap());
    // The terminal is that of standard error alone, as with `| tee`.
    command.stderr(Stdio::from(program));
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    // What was written stays in the terminal until it is read.
    while let Ok(len @ 1..) = person.read(&mut piece) {
        seen.extend_from_slice(&piece[..len]);
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.contains("  0 %  0 B of ") && seen.contains(" verified") && seen.ends_with("\r\u{1b}[K"), "{seen:?}");
    assert!(String::from_utf8(output.stdout).unwrap().ends_with(": 0 damaged\n"));
}

/// The lines of `forebay cache ls` with these arguments, once all images are read.
async fn list(mirror: &Mirror, arguments: &[&str]) -> Vec<String> {
    until("all is read", async || {
        let (code, text, error) = ask(mirror, &[&["cache", "ls"], arguments].concat()).await;
        assert_eq!((code, &*error), (Some(0), ""));
        let is_read = !text.contains("still reading") && !text.contains("being read");
        is_read.then(|| text.lines().map(str::to_owned).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_listed_shown_and_summed_up() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let text = format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    );
    let mirror = Mirror::parse(&text).config(|config| config.cache.prefetch = 0).start().await;
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    // The socket tells of images of clients, too.
    let lines = list(&mirror, &["fake.example/team/*"]).await;
    assert!(lines[0].starts_with("IMAGE "), "{lines:?}");
    assert!(lines[1].starts_with("fake.example/team/app:1 ") && lines[1].ends_with("  manifest only"), "{lines:?}");
    mirror.get(&format!("/v2/team/app/blobs/{}", image.config)).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let lines = list(&mirror, &[]).await;
    assert!(lines[1].contains("  amd64 ") && lines[1].ends_with("  partial"), "{lines:?}");
    let (_, document, _) = ask(&mirror, &["cache", "ls", "--json", "--sort", "size", "--limit", "1"]).await;
    let document = json(&document);
    assert_eq!((&document["images"][0]["access"], &document["next"]), (&"client".into(), &serde_json::Value::Null));
    let (code, text, _) = ask(&mirror, &["cache", "show", "fake.example/team/app:1"]).await;
    assert!(code == Some(0) && text.contains("\nlayer "), "{text}");
    let (code, text, _) = ask(&mirror, &["cache", "du"]).await;
    assert!(code == Some(0) && text.contains("\nfake.example  "), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_image_is_wrong_usage_and_an_unknown_one_fails() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (arguments, code, expected) in [
        (&["cache", "show", "alpine"][..], 1, "there is no image docker.io/library/alpine:latest in the cache"),
        (&["cache", "show", "a b"], 2, "\"docker.io/library/a b:latest\" is no name of an image"),
        (&["cache", "ls", "a b"], 2, "which no name has"),
        (&["cache", "ls", "--limit", "0"], 2, "0"),
        (&["cache", "ls", "--sort", "age"], 2, "name"),
    ] {
        let (found, text, error) = ask(&mirror, arguments).await;
        assert_eq!((found, &*text), (Some(code), ""), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_images_are_in_the_order_that_is_wanted() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for tag in ["1", "2", "3"] {
        registry.add_image("team/app", tag, &[b"layer"]);
    }
    for tag in ["2", "3", "3", "1"] {
        mirror.get(&format!("/v2/team/app/manifests/{tag}")).await;
    }
    let tags = |lines: Vec<String>| -> String {
        let tags = lines.iter().skip(1).filter_map(|line| line.strip_prefix("fake.example/team/app:")?.chars().next());
        tags.collect()
    };
    assert_eq!(tags(list(&mirror, &["--sort", "pulls"]).await), "312");
    assert_eq!(tags(list(&mirror, &["--sort", "pulls", "--limit", "2"]).await), "31");
    assert_eq!(tags(list(&mirror, &["--sort", "name"]).await), "123");
}
