//! A day of an operator, with the commands alone: dockerd, containerd and podman pull meanwhile.

use std::{fs, os::unix::fs::FileExt as _};

use serde_json::{Value, json};

use forebay_test_support::{
    real::{
        containerd::Containerd,
        docker::Docker,
        download::client,
        forebay::Forebay,
        image::{Blob, Format, Image, Index},
        podman::Podman,
        registry::Registry,
        turn::Turn,
    },
    until::until,
};

const MIB: usize = 1024 * 1024;

/// Two registries, and a cache that holds little more than what is pulled from them.
fn config(hub: &str, other: &str) -> String {
    format!(
        r#"
        [cache]
        max_size = "64 MiB"
        min_free = "1 MiB"
        tag_ttl = "1h"
        [[upstream]]
        name = "docker.io"
        urls = ["{hub}"]
        default = true
        library = true
        [[upstream]]
        name = "second.example"
        urls = ["{other}"]
        "#
    )
}

fn hosts_toml(url: &str) -> String {
    format!("[host.{url:?}]\ncapabilities = [\"pull\", \"resolve\"]\n")
}

fn registries_conf(port: u16) -> String {
    format!(
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:{port}\"\ninsecure = true\n"
    )
}

/// The images that `cache ls` tells of.
async fn images(forebay: &Forebay) -> Vec<Value> {
    forebay.told(&["cache", "ls"]).await["images"].as_array().expect("a list of images").clone()
}

/// What `cache ls` tells of this one; `None` if that is not in the cache.
async fn image(forebay: &Forebay, name: &str) -> Option<Value> {
    images(forebay).await.into_iter().find(|image| image["name"] == name)
}

/// Waits until the inventory has this of the image: it is told after the clients were.
async fn until_image(forebay: &Forebay, name: &str, what: impl Fn(&Value) -> bool) -> Value {
    until(name, async || image(forebay, name).await.filter(|image| what(image))).await
}

fn is_complete(image: &Value) -> bool {
    image["complete"] == true
}

const APP: &str = "docker.io/library/app:1";
const WEB: &str = "docker.io/library/web:1";
const TOOL: &str = "second.example/team/tool:1";

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_warms_looks_removes_pins_and_carries_away() {
    let _turn = Turn::of_the_engines().await;
    let (hub, other) = (Registry::open().await, Registry::open().await);
    let app = Index::new(Format::Oci, 400, &[3 * MIB, 40_000]);
    let web = Image::new(Format::Docker, 402, &[2 * MIB]);
    let tool = Image::new(Format::Oci, 404, &[MIB, 700]);
    hub.pusher().index("library/app", "1", &app).await;
    hub.pusher().image("library/web", "1", &web).await;
    other.pusher().image("team/tool", "1", &tool).await;
    let compose = "services:\n  web:\n    image: app:1\n  tool:\n    image: second.example/team/tool:1\n";
    let mut forebay = Forebay::start(&config(&hub.url(), &other.url()), &[("compose.yaml", compose)]).await;

    the_page_names_this_very_host(&forebay).await;

    // Warm: the images are here before a client asks, and each byte was asked for once.
    let warmed = forebay.operate(&["warm", "-f", "compose.yaml"]).await;
    let said = String::from_utf8(warmed.ok()).expect("text");
    assert!(said.contains("app:1") && said.contains(TOOL), "{said}");
    assert!(forebay.operate(&["warm", "no-such-image:1"]).await.failed().contains("no-such-image"));
    for name in [APP, TOOL] {
        until_image(&forebay, name, is_complete).await;
    }

    // Pull: three engines; what was warmed is a hit.
    let docker = Docker::start(json!({ "registry-mirrors": [forebay.url("")] }), &[], &[]).await;
    docker.pull_and_remove("app:1", &app.images[0]).await;
    let containerd = Containerd::start().await;
    containerd.configure("_default", &hosts_toml(&forebay.url("")));
    containerd.try_pull(TOOL).await.ok();
    let podman = Podman::new(&registries_conf(forebay.port));
    podman.pull("docker.io/library/web:1").await.ok();
    for layer in &app.images[0].layers {
        hub.assert_one_get_of(layer).await;
    }
    for layer in &tool.layers {
        other.assert_one_get_of(layer).await;
    }
    assert_eq!(hub.gets_of(&app.images[1].layers[0]), 0, "no other platform was asked for");

    looks(&forebay).await;

    // Remove: it is gone, and comes back by a pull alone.
    let asked = forebay.operate(&["cache", "rm", "web:1"]).await.failed();
    assert!(asked.contains("--yes"), "without a terminal nothing is removed: {asked}");
    assert!(image(&forebay, WEB).await.is_some());
    forebay.operate(&["cache", "rm", "web:1", "--yes"]).await.ok();
    assert_eq!(image(&forebay, WEB).await, None);
    Podman::new(&registries_conf(forebay.port)).pull("docker.io/library/web:1").await.ok();
    until("the layer was asked for again", async || hub.gets_of(&web.layers[0]) == 2).await;

    // Pin, and fill the disk: the pinned image stays.
    forebay.operate(&["cache", "pin", "app:1"]).await.ok();
    until_image(&forebay, APP, |image| image["pinned"] != false).await;
    fill_the_disk(&hub, &forebay).await;
    assert!(is_complete(&until_image(&forebay, APP, |_| true).await), "a pinned image is not evicted");
    assert!(image(&forebay, WEB).await.is_none_or(|web| !is_complete(&web)), "what is not pinned made room");

    a_flipped_byte_is_found(&hub, &mut forebay, &app).await;

    // A restart: pins and the inventory are there.
    let before = image(&forebay, APP).await.expect("it is here");
    assert!(forebay.terminate().await.success());
    forebay.revive().await;
    let after = until_image(&forebay, APP, is_complete).await;
    for key in ["name", "digest", "size", "pulls", "pinned"] {
        assert_eq!(after[key], before[key], "{key}");
    }

    carries_to_another_network(&forebay, &app, &tool).await;
}

async fn the_page_names_this_very_host(forebay: &Forebay) {
    let page = client().get(forebay.url("/")).header("accept", "text/html").send().await.expect("a page");
    assert_eq!(page.status(), 200);
    let page = page.text().await.expect("text");
    assert!(page.contains(&format!("127.0.0.1:{}", forebay.port)), "{page}");
    let snippet = client().get(forebay.url("/setup/docker")).send().await.expect("a snippet").text().await;
    let snippet = snippet.expect("text");
    assert!(snippet.contains("registry-mirrors"), "{snippet}");
}

/// What an operator is told of the pulls before.
async fn looks(forebay: &Forebay) {
    let app = until_image(forebay, APP, |image| image["pulls"] == 1).await;
    assert!(is_complete(&app) && app["last_use"].is_string(), "{app}");
    until_image(forebay, TOOL, |image| image["pulls"] == 1).await;
    until_image(forebay, WEB, |image| image["pulls"] == 1 && is_complete(image)).await;
    let shown = forebay.told(&["cache", "show", "app:1"]).await;
    assert_eq!(shown["digest"], app["digest"], "{shown}");
    let status = forebay.told(&["status"]).await;
    assert_eq!(status["upstreams"].as_array().map(Vec::len), Some(2), "{status}");
    let table = String::from_utf8(forebay.operate(&["cache", "du"]).await.ok()).expect("text");
    assert!(table.contains("second.example"), "{table}");
    let log = String::from_utf8(forebay.operate(&["log"]).await.ok()).expect("text");
    assert!(["app:1", "tool:1", "web:1"].iter().all(|name| log.contains(name)), "{log}");
    let explained = String::from_utf8(forebay.operate(&["explain", "app:1"]).await.ok()).expect("text");
    assert!(explained.contains("docker.io") && explained.contains("HEAD"), "{explained}");
}

/// More than the cache holds, one blob after another.
async fn fill_the_disk(hub: &Registry, forebay: &Forebay) {
    for seed in 410..420 {
        let blob = Blob::random(seed, 8 * MIB);
        hub.store("library/filler", &blob);
        let answer = client().get(forebay.blob_url("library/filler", &blob)).send().await.expect("an answer");
        assert_eq!(answer.bytes().await.expect("a body").len(), 8 * MIB);
    }
}

/// A byte on the disk changes; `cache verify` finds it, and the next pull brings the right one.
async fn a_flipped_byte_is_found(hub: &Registry, forebay: &mut Forebay, app: &Index) {
    let layer = &app.images[0].layers[0];
    let (path, _) = forebay.stored_blobs().into_iter().find(|(_, name)| *name == layer.digest).expect("it is pinned");
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("root may write");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1000).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], 1000).expect("a byte");
    let said = forebay.operate(&["cache", "verify", "app:1"]).await.failed();
    assert!(said.contains(&layer.digest[..19]) && said.contains("app:1"), "{said}");
    let gets = hub.gets_of(layer);
    let answer = client().get(forebay.blob_url("library/app", layer)).send().await.expect("an answer");
    assert_eq!(answer.bytes().await.expect("a body"), layer.bytes);
    until("the right bytes were asked for", async || hub.gets_of(layer) == gets + 1).await;
    until_image(forebay, APP, is_complete).await;
    forebay.operate(&["cache", "verify", "app:1"]).await.ok();
}

/// `export`, read by skopeo, and `import` where there is no registry: dockerd pulls there.
async fn carries_to_another_network(forebay: &Forebay, app: &Index, tool: &Image) {
    let bundle = forebay.cache().with_file_name("bundle.tar");
    let bundle = bundle.to_str().expect("a path of ours is UTF-8");
    forebay.operate(&["cache", "export", "-o", bundle, "app:1", TOOL, "--platform", "linux/amd64"]).await.ok();
    let inspected = Podman::new("").skopeo(&["inspect", &format!("oci-archive:{bundle}:{TOOL}")]).await.ok();
    let inspected: Value = serde_json::from_slice(&inspected).expect("skopeo tells JSON");
    assert_eq!(inspected["Digest"], tool.manifest.blob.digest.as_str());

    // Port 9 of this machine: nothing listens there.
    let mut island = Forebay::start(&config("http://127.0.0.1:9", "http://127.0.0.1:9"), &[]).await;
    island.operate(&["cache", "import", bundle, "--yes"]).await.ok();
    let docker = Docker::start(json!({ "registry-mirrors": [island.url("")] }), &[], &[]).await;
    docker.pull_and_remove("app:1", &app.images[0]).await;
    island.kill();
    island.revive().await;
    docker.pull_and_remove("app:1", &app.images[0]).await;
    let imported = until_image(&island, TOOL, is_complete).await;
    assert_eq!(imported["digest"], tool.manifest.blob.digest.as_str());
}
