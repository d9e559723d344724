//! `POST warm` and `[[warm]]`: what is requested for it, what comes of each image, and what stops it.

use std::time::Duration;

use forebay::{
    oci::Digest,
    warm::{Config, Platforms, Schedule},
};
use forebay_test_support::{
    blob::add,
    control::get,
    fake_registry::{FakeRegistry, Fault, Gate, Image, Server, When},
    manifest::{OCI_INDEX, OCI_MANIFEST, manifest},
    mirror::Mirror,
    test_server::client,
    until::{soon, until},
};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::ask::{events, post_with};

const JSON: &str = "Content-Type: application/json\r\n";
/// As containerd accepts.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

/// The images and the end of a run.
async fn warm(mirror: &Mirror, request: Value) -> (Vec<Value>, Value) {
    let (status, body) = post_with(mirror, "warm", JSON, &request.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let mut told = events(&body);
    let (name, done) = told.pop().unwrap();
    assert_eq!(name, "done", "{body}");
    let images = told.into_iter().filter(|(name, _)| name == "image").map(|(_, data)| data).collect();
    (images, done)
}

/// The sums of a run: fetched, cached, failed.
fn sums(done: &Value) -> [u64; 3] {
    ["fetched", "cached", "failed"].map(|name| done[name].as_u64().unwrap())
}

/// What a run said of an image.
fn outcome<'a>(images: &'a [Value], name: &str) -> (&'a str, &'a str) {
    let image = images.iter().find(|image| image["image"] == name).unwrap_or_else(|| panic!("{name}: {images:?}"));
    (image["outcome"].as_str().unwrap(), image["failure"].as_str().unwrap_or_default())
}

/// The requests that the registry received, as method and the end of the path.
fn requests(registry: &FakeRegistry) -> Vec<String> {
    let text = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    registry.requests().iter().map(|request| format!("{} {}", request.method, text(&request.path))).collect()
}

/// An index of three platforms with the tag `1` of `team/app`: its digest, and the images.
fn add_index(registry: &FakeRegistry) -> (Digest, Vec<Image>) {
    let platforms = ["amd64", "arm64", "s390x"];
    let images: Vec<Image> = platforms
        .iter()
        .map(|name| registry.add_image("team/app", name, &[b"a layer of all", format!("of {name}").as_bytes()]))
        .collect();
    let children = images.iter().zip(platforms).map(|(image, architecture)| {
        json!({
            "mediaType": OCI_MANIFEST, "digest": image.manifest.as_str(), "size": image.manifest_bytes.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    });
    let children: Vec<Value> = children.collect();
    let content = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children }).to_string();
    let digest = registry.add_manifest("team/app", OCI_INDEX, content);
    registry.tag("team/app", "1", &digest);
    (digest, images)
}

/// Begins a run whose client reads what comes up to an event that has this text.
async fn begin(mirror: &Mirror, request: &Value, until_text: &str) -> UnixStream {
    let mut client = UnixStream::connect(mirror.config().admin.socket.as_deref().unwrap()).await.unwrap();
    let body = request.to_string();
    let head = format!("POST /api/v1/warm HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: {}\r\n\r\n", body.len());
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while !text.contains(until_text) {
        let len = soon("an event", client.read(&mut piece)).await.unwrap();
        assert!(len > 0, "{text}");
        text += &String::from_utf8_lossy(&piece[..len]);
    }
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wanted_platforms_are_fetched_and_nothing_else() {
    let registry = FakeRegistry::start().await;
    let (index, images) = add_index(&registry);
    let mut mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    let arm64 = json!({ "images": ["team/app:1", "team/app:1"], "platforms": ["linux/arm64"] });
    let (told, done) = warm(&mirror, arm64.clone()).await;
    assert_eq!((outcome(&told, "fake.example/team/app:1").0, sums(&done)), ("fetched", [1, 0, 0]), "{told:?}");
    assert_eq!(told[0]["digest"], index.as_str());
    assert!(told[0]["bytes"] == told[0]["fetched_bytes"] && told[0]["bytes"].as_u64().unwrap() > 0);
    let mut expected = vec!["HEAD 1".to_owned(), format!("GET {index}"), format!("GET {}", images[1].manifest)];
    expected.extend(images[1].layers.iter().chain([&images[1].config]).map(|blob| format!("GET {blob}")));
    let mut asked = requests(&registry);
    assert_eq!(asked[..3], expected[..3]);
    asked.sort();
    expected.sort();
    assert_eq!(asked, expected);

    // What is complete costs the HEAD of the tag.
    registry.forget_requests();
    let (told, done) = warm(&mirror, arm64).await;
    assert_eq!((outcome(&told, "fake.example/team/app:1").0, sums(&done)), ("cached", [0, 1, 0]));
    assert_eq!((requests(&registry), &done["fetched_bytes"]), (vec!["HEAD 1".to_owned()], &json!(0)));

    // Another platform shares a layer.
    registry.forget_requests();
    warm(&mirror, json!({ "images": ["team/app:1"], "platforms": ["linux/amd64"] })).await;
    assert_eq!(registry.count(|request| request.is_blob_get(&images[0].layers[0])), 0);
    assert_eq!(registry.count(|request| request.is_blob_get(&images[0].layers[1])), 1);

    // A client pulls it without the registry, also after a restart.
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    mirror.restart().await;
    registry.take_down(Server::Api).await;
    let pulled = mirror.get_with(&manifest("1"), &[("accept", ACCEPT)]).await;
    assert_eq!((pulled.status, pulled.header("docker-content-digest")), (200, Some(index.as_str())));
    for blob in images[1].layers.iter().chain([&images[1].config]) {
        assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{blob}")).await.status, 200);
    }
    let (told, _) = warm(&mirror, json!({ "images": ["team/app:1"], "platforms": ["linux/arm64"] })).await;
    assert!(told[0]["outcome"] == "cached" && told[0]["problem"].is_string(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_platforms_or_a_missing_one() {
    let registry = FakeRegistry::start().await;
    let (_, images) = add_index(&registry);
    let mirror = Mirror::of(&registry).await;
    let (told, _) = warm(&mirror, json!({ "images": ["team/app:1"], "platforms": ["linux/riscv64"] })).await;
    assert_eq!(outcome(&told, "fake.example/team/app:1"), ("failed", "no_platform"));
    let problem = "it has no linux/riscv64; there are linux/amd64, linux/arm64, linux/s390x";
    assert_eq!(told[0]["problem"], problem);
    // The one that is there is fetched.
    let both = json!({ "images": ["team/app:1"], "platforms": ["linux/s390x", "linux/riscv64"] });
    let (told, done) = warm(&mirror, both).await;
    assert_eq!((outcome(&told, "fake.example/team/app:1").1, sums(&done)), ("no_platform", [0, 0, 1]));
    assert_eq!(registry.count(|request| request.is_blob_get(&images[2].layers[1])), 1);
    let (_, done) = warm(&mirror, json!({ "images": ["team/app:1"], "platforms": ["all"] })).await;
    assert_eq!(sums(&done), [1, 0, 0]);
    for image in &images {
        assert_eq!(registry.count(|request| request.is_blob_get(&image.layers[1])), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_pulls_is_not_exceeded() {
    let registry = FakeRegistry::start().await;
    for tag in ["1", "2", "3"] {
        registry.add_image("team/app", tag, &[format!("layer of {tag}").as_bytes()]);
    }
    let url = registry.url();
    let text = format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{url}\"]\n[cache]\ntag_ttl = \"0s\"\n");
    let mirror = Mirror::parse(&text).start().await;
    let request = |limit: u32| json!({ "images": ["team/app:1", "team/app:2", "team/app:3"], "limit": limit });
    let (told, done) = warm(&mirror, request(2)).await;
    assert_eq!((sums(&done), &done["pulls"]), ([2, 0, 1], &json!(2)), "{told:?}");
    assert_eq!(outcome(&told, "docker.io/team/app:3"), ("failed", "pull_limit"));
    let pulls = || registry.count(|request| request.method == Method::GET && request.path.contains("/manifests/"));
    assert_eq!(pulls(), 2);
    let (_, done) = warm(&mirror, request(2)).await;
    assert_eq!((sums(&done), &done["pulls"], pulls()), ([1, 2, 0], &json!(1), 3));

    // A tag that has moved is not fetched beyond the limit either.
    let moved = registry.add_image("team/app", "new", &[b"new layer"]);
    registry.tag("team/app", "1", &moved.manifest);
    let (told, done) = warm(&mirror, request(0)).await;
    assert_eq!((sums(&done), pulls()), ([0, 2, 1], 3));
    assert_eq!(outcome(&told, "docker.io/team/app:1"), ("failed", "pull_limit"));
    let (_, done) = warm(&mirror, request(1)).await;
    assert_eq!((sums(&done), &done["pulls"], pulls()), ([1, 2, 0], &json!(1), 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_image_that_fails_does_not_stop_the_others() {
    let registry = FakeRegistry::start().await;
    let [good, bad] = ["1", "bad"].map(|tag| registry.add_image("team/app", tag, &[format!("of {tag}").as_bytes()]));
    registry.fault(When::blob(&bad.layers[0]), Fault::Corrupt { at: 0 });
    let rule = "[[rule]]\nmatch = \"*:denied\"\ndeny = true\n";
    let upstream = format!("[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    let mirror = Mirror::parse(&format!("{upstream}{rule}")).start().await;
    let images = ["team/app:none", "nvcr.io/a/b", "Bad name", "team/app:denied", "team/app:bad", "team/app:1"];
    let (told, done) = warm(&mirror, json!({ "images": images })).await;
    assert_eq!(sums(&done), [1, 0, 5]);
    for (image, expected) in [
        ("fake.example/team/app:none", ("failed", "manifest_unknown")),
        ("nvcr.io/a/b", ("failed", "unconfigured_upstream")),
        ("Bad name", ("failed", "invalid_name")),
        ("fake.example/team/app:denied", ("failed", "denied_by_rule")),
        ("fake.example/team/app:bad", ("failed", "digest_mismatch")),
        ("fake.example/team/app:1", ("fetched", "")),
    ] {
        assert_eq!(outcome(&told, image), expected, "{told:?}");
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&good.layers[0])), 1);
    assert_eq!(registry.count(|request| request.path.ends_with("denied")), 0);
    assert_eq!(mirror.metric("forebay_warm_images_total", &[("result", "failed")]).await, 5.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_cut_is_resumed_by_the_next() {
    let registry = FakeRegistry::start().await;
    let (layer, _) = add(&registry, 4 << 20, 1);
    let config = registry.add_blob("team/app", "{}");
    let descriptor =
        |digest: &Digest, size: usize| json!({ "mediaType": "a/b", "digest": digest.as_str(), "size": size });
    let document =
        json!({ "schemaVersion": 2, "config": descriptor(&config, 2), "layers": [descriptor(&layer, 4 << 20)] });
    let image = registry.add_manifest("team/app", OCI_MANIFEST, document.to_string());
    registry.tag("team/app", "1", &image);
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::blob(&layer), Fault::HoldBody { at: 3 << 20, gate: gate.clone() });
    let request = json!({ "images": ["team/app:1"] });
    let client = begin(&mirror, &request, "\"bytes\":3145").await;
    drop(client);
    // The run has given its download up, though the registry still sends.
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    registry.heal();
    gate.open();
    registry.forget_requests();
    let (told, done) = warm(&mirror, request).await;
    assert_eq!((outcome(&told, "fake.example/team/app:1").0, sums(&done)), ("fetched", [1, 0, 0]));
    let ranges: Vec<String> =
        registry.requests().iter().filter_map(|request| Some(request.header("range")?.to_owned())).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|range| !range.starts_with("bytes=0-")), "{ranges:?}");
    assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{layer}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_is_refused_before_it_is_fetched() {
    let registry = FakeRegistry::start().await;
    let [small, large] = [100_000, 900_000].map(|len| vec![7; len]);
    registry.add_image("team/app", "small", &[&small]);
    registry.add_image("team/app", "large", &[&large, &small]);
    let third = registry.add_image("team/app", "third", &[&[8; 300_000]]);
    let mirror = Mirror::build(&registry).max_size(1 << 20).start().await;
    let (_, done) = warm(&mirror, json!({ "images": ["team/app:small"] })).await;
    assert_eq!(sums(&done), [1, 0, 0]);
    let all = json!({ "images": ["team/app:small", "team/app:large", "team/app:third"] });
    let (told, done) = warm(&mirror, all).await;
    assert_eq!(sums(&done), [0, 1, 2], "{told:?}");
    assert_eq!(outcome(&told, "fake.example/team/app:third"), ("failed", "no_room"));
    assert!(done["problem"].as_str().unwrap().contains("and cache.max_size is 1.0 MiB"), "{done}");
    assert_eq!(registry.count(|request| request.is_blob_get(&third.layers[0])), 0);
    // Another image makes room for one that fits.
    let (_, done) = warm(&mirror, json!({ "images": ["team/app:third"] })).await;
    assert_eq!((sums(&done), &done["problem"]), ([1, 0, 0], &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_clients_are_not_fetched_by_forebay() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let url = registry.url();
    let text =
        format!("[[upstream]]\nname = \"private.example\"\nurls = [\"{url}\"]\ndefault = true\naccess = \"client\"\n");
    let mirror = Mirror::parse(&text).start().await;
    let (told, _) = warm(&mirror, json!({ "images": ["team/app:1"] })).await;
    assert_eq!(outcome(&told, "private.example/team/app:1"), ("failed", "client_credentials"));
    assert_eq!(registry.count(|_| true), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_at_a_time_and_bounded_requests() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    let request = json!({ "images": ["team/app:1"] });
    let clients = [begin(&mirror, &request, "resolving").await, begin(&mirror, &request, "resolving").await];
    let (status, body) = post_with(&mirror, "warm", JSON, &request.to_string()).await;
    assert_eq!((status, body.contains("2 warms are running")), (429, true), "{body}");
    drop(clients);
    gate.open();
    registry.heal();
    // The places are free once forebay has noticed that the clients have left.
    until("a place is free", async || post_with(&mirror, "warm", JSON, &request.to_string()).await.0 == 200).await;
    for (body, status) in [
        (json!({}).to_string(), 400),
        (json!({ "images": [] }).to_string(), 400),
        (json!({ "images": ["a"], "platforms": ["?"] }).to_string(), 400),
        ("[".repeat(10_000), 400),
    ] {
        assert_eq!(post_with(&mirror, "warm", JSON, &body).await.0, status, "{}", body.len());
    }
    assert_eq!(post_with(&mirror, "warm", "", &request.to_string()).await.0, 415);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_the_configuration_run_by_themselves() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let job = |name: &str| Config {
        images: vec![name.to_owned()],
        // The first run comes within six seconds.
        schedule: Schedule::Every(Duration::from_secs(60)),
        platforms: Platforms::default(),
        pin: None,
    };
    let jobs = vec![job("team/app:1"), job("team/app:none")];
    let mirror = Mirror::build(&registry).config(|config| config.warm = jobs).start().await;
    let status = async || -> Value {
        let url = format!("http://{}/api/v1/status", mirror.app().admin_addr());
        serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap()
    };
    let told = until("both jobs have run", async || {
        let told = status().await;
        (0..2).all(|job| told["warm"][job]["last"].is_object()).then_some(told)
    })
    .await;
    assert_eq!((&told["warm"][0]["last"]["fetched"], &told["warm"][0]["schedule"]), (&json!(1), &json!("every 1m")));
    let failures = &told["warm"][1]["last"]["failures"];
    assert_eq!(failures[0]["image"], "fake.example/team/app:none");
    let sentence = told["attention"][0].as_str().unwrap();
    assert!(
        sentence.starts_with("1 image of [[warm]] (every 1m) could not be fetched, as fake.example/"),
        "{sentence}"
    );
    let page = client().get(format!("http://{}/page/now", mirror.app().admin_addr())).send().await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("<li>1 image of [[warm]]") && !page.contains("no person has to look"), "{page}");
    assert_eq!(registry.count(|request| request.is_blob_get(&image.layers[0])), 1);
    // A reload without the jobs ends them.
    let mut config = mirror.config().clone();
    config.warm.clear();
    mirror.app().reload(config).unwrap();
    assert_eq!(status().await["warm"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_is_pinned_if_pins_have_room() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "small", &[&[1; 100_000]]);
    let large = registry.add_image("team/app", "large", &[&[2; 740_000]]);
    let mirror = Mirror::build(&registry).max_size(1 << 20).start().await;
    let pins = async || {
        let told = get(&mirror, "pins").await;
        let pins = told["pins"].as_array().unwrap().iter();
        pins.map(|pin| (pin["match"].as_str().unwrap().to_owned(), pin["until"].clone())).collect::<Vec<_>>()
    };
    let (_, done) = warm(&mirror, json!({ "images": ["team/app:small"], "pin": "30d" })).await;
    assert_eq!(sums(&done), [1, 0, 0]);
    let first = pins().await;
    assert!(first.len() == 1 && first[0].0 == "fake.example/team/app:small" && first[0].1.is_string(), "{first:?}");
    // A shorter pin shortens none.
    warm(&mirror, json!({ "images": ["team/app:small"], "pin": "1h" })).await;
    assert_eq!(pins().await, first);
    // Both together are refused with the sum, before anything is downloaded.
    let (told, done) = warm(&mirror, json!({ "images": ["team/app:small", "team/app:large"], "pin": "90d" })).await;
    for image in ["fake.example/team/app:small", "fake.example/team/app:large"] {
        assert_eq!(outcome(&told, image), ("failed", "not_pinned"), "{told:?}");
    }
    assert!(told[0]["problem"].as_str().unwrap().contains("pins may keep 819.2 KiB"), "{told:?}");
    assert!(
        done["problem"].as_str().unwrap().contains("pins may keep 819.2 KiB") && sums(&done) == [0, 0, 2],
        "{done}"
    );
    assert_eq!(registry.count(|request| request.is_blob_get(&large.layers[0])), 0);
    assert_eq!(pins().await, first);
    // Without a pin it has room.
    assert_eq!(sums(&warm(&mirror, json!({ "images": ["team/app:large"] })).await.1), [1, 0, 0]);
}
