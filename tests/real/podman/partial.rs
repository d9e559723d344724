//! podman with partial images asks for the files of a layer that it has nowhere, by many ranges in one request.

use std::{fs, time::Duration};

use forebay_test_support::{
    real::{forebay::Forebay, image::random, podman::Podman, registry::Registry, tar},
    until::until,
};

const FILES: u64 = 100;
const SIZE: usize = 20_000;
/// What differs in the second image. Two of them stand beside each other: their ranges adjoin.
const CHANGED: [u64; 5] = [3, 40, 41, 70, 99];

fn content(version: u64, number: u64) -> Vec<u8> {
    let is_changed = version == 2 && CHANGED.contains(&number);
    random(number + if is_changed { 1000 } else { 0 }, SIZE)
}

fn name(number: u64) -> String {
    format!("data-{number:03}")
}

/// Pushes both images as podman packs them.
async fn push(registry: &Registry) {
    let podman = Podman::new("");
    let policy = podman.place("policy.json").display().to_string();
    for version in [1, 2] {
        let files: Vec<(String, Vec<u8>)> = (0..FILES).map(|n| (name(n), content(version, n))).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (&**name, &**content)).collect();
        let archive = podman.place("layer.tar").display().to_string();
        fs::write(&archive, tar::archive(&files)).expect("a layer can be written");
        let image = format!("localhost/app:{version}");
        podman.podman(&["import", "--quiet", &archive, &image]).await.ok();
        let to = format!("docker://127.0.0.1:{}/team/app:{version}", registry.port);
        let how = ["--compression-format", "zstd:chunked", "--tls-verify=false", "--signature-policy", &policy];
        let push: Vec<&str> = ["push", "--quiet"].into_iter().chain(how).chain([&*image, &*to]).collect();
        podman.podman(&push).await.ok();
    }
}

/// What a counter says when nothing is under way any more.
async fn at_rest(count: &impl AsyncFn() -> f64) -> f64 {
    let mut last = count().await;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = count().await;
        if now == last {
            return now;
        }
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_of_a_layer_what_it_lacks() {
    let mut registry = Registry::open().await;
    push(&registry).await;
    let config = format!("[[upstream]]\nname = \"hub.example\"\nurls = [{:?}]\ndefault = true\n", registry.url());
    let forebay = Forebay::start(&config, &[]).await;
    let sent = async || forebay.metric("forebay_sent_bytes_total", &["operation=\"blob\""]).await;
    let registries = format!("[[registry]]\nlocation = \"127.0.0.1:{}\"\ninsecure = true\n", forebay.port);
    // Cold, and out of the cache alone.
    for round in 0..2 {
        let podman = Podman::of_parts(&registries);
        let policy = podman.place("policy.json").display().to_string();
        for version in [1, 2] {
            let reference = format!("127.0.0.1:{}/team/app:{version}", forebay.port);
            let pull = ["--log-level", "debug", "pull", "--signature-policy", &policy, &reference];
            let (mut before, mut pulled) = (sent().await, podman.podman(&pull).await);
            // podman 4.3 closes a file now and then that it has yet to set the mode of, and fetches the whole layer then.
            while pulled.stderr.contains("bad file descriptor") {
                podman.podman(&["rmi", &reference]).await.ok();
                before = at_rest(&sent).await;
                pulled = podman.podman(&pull).await;
            }
            let said = pulled.stderr.clone();
            pulled.ok();
            assert!(said.contains("Retrieved partial blob"), "{round} {version}: {said}");
            assert!(!said.contains("Failed to retrieve partial blob"), "{round} {version}: {said}");
            let count = if version == 1 { FILES as usize } else { CHANGED.len() };
            let needed = (count * SIZE) as f64;
            // What was sent is counted when its answer is over.
            until("all is counted", async || (sent().await >= before + needed).then_some(())).await;
            let sent = sent().await - before;
            assert!(sent < needed + 50_000.0, "{round} {version}: {sent} bytes for {needed}");
        }
        for number in [0, 40, 41, 42, 99] {
            let files = podman.files(&name(number));
            for version in [1, 2] {
                assert!(files.contains(&content(version, number)), "{round}: file {number} of image {version}");
            }
        }
        registry.kill();
    }
}
