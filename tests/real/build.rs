//! BuildKit, as it is in dockerd, with a cache in the registry.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use forebay_test_support::real::{
    docker::Docker,
    forebay::Forebay,
    image::{Format, Image},
    registry::Registry,
    turn::Turn,
};

#[tokio::test(flavor = "multi_thread")]
async fn docker_builds_with_what_another_docker_built() {
    let _turn = Turn::of_the_engines().await;
    let registry = Registry::open().await;
    registry.pusher().image("team/base", "1", &Image::new(Format::Docker, 95, &[100_000])).await;
    let upstream = format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    let forebay = Forebay::start(&format!("{upstream}push = true\n"), &[]).await;
    let host = format!("127.0.0.1:{}", forebay.port);
    let image = format!("{host}/team/built:1");
    let folder = TempDir::with_prefix("forebay-build-").expect("a folder can be made");
    let file = format!("FROM {host}/team/base:1\nCOPY content /content\nCOPY content /again\n");
    fs::write(folder.path().join("Dockerfile"), file).expect("a file can be written");
    fs::write(folder.path().join("content"), "of the build").expect("a file can be written");
    let context = folder.path().display().to_string();
    let build = ["build", "--progress", "plain", "--tag", &image];

    let docker = Docker::start(json!({}), &[], &[]).await;
    let inline = ["--build-arg", "BUILDKIT_INLINE_CACHE=1", &context];
    docker.run(&[&build[..], &inline[..]].concat()).await.ok();
    docker.run(&["push", &image]).await.ok();

    let other = Docker::start(json!({}), &[], &[]).await;
    let built = other.run(&[&build[..], &["--cache-from", &image, &context]].concat()).await;
    let said = built.stderr.clone();
    built.ok();
    assert_eq!(said.matches("CACHED").count(), 2, "{said}");
}
