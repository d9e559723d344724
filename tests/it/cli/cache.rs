//! `forebay cache …` against a mirror.

use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror};

use super::{directory, run, running::ask};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_pinned_listed_and_unpinned() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (code, text, error) = ask(&mirror, &["cache", "pin", "node:*", "fake.example/*", "--for", "30d"]).await;
    assert_eq!((code, &*error), (Some(0), ""));
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
    for arguments in [&["cache", "unpin"][..], &["cache", "pin", "--for", "30d"]] {
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
    assert_eq!((code, &*error), (Some(1), "forebay: 1 of 1 tags could not be refreshed\n"), "{text}");

    // There is no terminal to ask at.
    let (code, text, error) = ask(&mirror, &["cache", "rm", "fake.example/*"]).await;
    assert!(code == Some(2) && text.is_empty() && error.contains("say --yes"), "{text}{error}");
    let (code, text, error) = ask(&mirror, &["cache", "rm", "fake.example/*", "--dry-run"]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert!(text.starts_with("fake.example/team/app:1\n1 image, ") && text.ends_with(" would be removed\n"), "{text}");
    let (code, text, error) = ask(&mirror, &["cache", "rm", "fake.example/*", "--yes"]).await;
    assert!(code == Some(0) && text.ends_with(" removed\n"), "{text}{error}");
    let (code, text, error) = ask(&mirror, &["cache", "rm", "fake.example/*", "--yes"]).await;
    assert_eq!((code, &*text, &*error), (Some(0), "", "there are no such images to remove\n"));
}
