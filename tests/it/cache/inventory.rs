//! The inventory of images: what pulls leave in it, and how much of each image is here.

use forebay_test_support::{
    fake_registry::{FakeRegistry, Image, Server},
    layout::TwoPlatforms,
    manifest::{OCI_MANIFEST, manifest},
    mirror::Mirror,
    test_server::client,
    until::until,
};
use serde_json::{Value, json};

/// What the admin listener answers.
async fn ask(mirror: &Mirror, path: &str) -> Value {
    let url = format!("http://{}/api/v1/{path}", mirror.app().admin_addr());
    serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap()
}

/// The only image, once all is read and `what` is so.
async fn image_when(mirror: &Mirror, what: impl Fn(&Value) -> bool) -> Value {
    until("the inventory has it", async || {
        let answer = ask(mirror, "images").await;
        let images = answer["images"].as_array().unwrap();
        (answer["reading"] == false && images.len() == 1 && what(&images[0])).then(|| images[0].clone())
    })
    .await
}

async fn get_blobs(mirror: &Mirror, image: &Image) {
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{blob}")).await.status, 200);
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_of_docker_is_one_image_also_after_a_restart() {
    let TwoPlatforms { registry, digest, amd64, .. } = TwoPlatforms::new().await;
    let mut mirror = Mirror::of(&registry).await;
    assert_eq!(ask(&mirror, "images").await["images"], json!([]));
    for _ in 0..2 {
        mirror.get(&manifest("1")).await;
        mirror.get(&manifest(&amd64.manifest)).await;
        get_blobs(&mirror, &amd64).await;
    }
    let platform = |name: &str, here: bool| json!({ "platform": name, "here": here, "complete": here });
    let image = image_when(&mirror, |image| image["complete"] == true).await;
    assert_eq!(image["name"], "fake.example/team/app:1");
    assert_eq!((&image["repository"], &image["reference"]), (&"team/app".into(), &"1".into()));
    assert_eq!(image["digest"], digest.as_str());
    // The index, a manifest, a configuration and two layers, a block each.
    assert_eq!((&image["size"], &image["shared"]), (&json!(5 * 4096), &json!(0)));
    assert_eq!(image["blob_bytes"], 3 * 4096);
    assert_eq!(image["platforms"], json!([platform("linux/amd64", true), platform("linux/arm64", false)]));
    assert_eq!(image["pulls"], 2);
    assert!(image["last_use"].is_string() && image["confirmed"].is_string());

    registry.take_down(Server::Api).await;
    mirror.restart().await;
    assert_eq!(image_when(&mirror, |image| image["size"].is_u64()).await, image);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_of_containerd_is_one_of_the_tag() {
    let TwoPlatforms { registry, digest, amd64, arm64 } = TwoPlatforms::new().await;
    let mirror = Mirror::of(&registry).await;
    mirror.head(&manifest("1")).await;
    mirror.get(&manifest(&digest)).await;
    mirror.get(&manifest(&amd64.manifest)).await;
    let image = image_when(&mirror, |image| image["platforms"][0]["here"] == true).await;
    assert_eq!((&image["name"], &image["pulls"]), (&"fake.example/team/app:1".into(), &1.into()));
    assert_eq!(image["complete"], false);
    get_blobs(&mirror, &amd64).await;
    image_when(&mirror, |image| image["complete"] == true).await;
    // The manifest of another platform, and not its layers.
    mirror.get(&manifest(&arm64.manifest)).await;
    let image = image_when(&mirror, |image| image["platforms"][1]["here"] == true).await;
    assert_eq!((&image["complete"], &image["platforms"][1]["complete"]), (&false.into(), &false.into()));
    assert_eq!(image["pulls"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_by_digest_is_a_name_of_its_own_and_is_kept() {
    let TwoPlatforms { registry, digest, amd64, .. } = TwoPlatforms::new().await;
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(&digest)).await;
    mirror.get(&manifest(&amd64.manifest)).await;
    let name = format!("fake.example/team/app@{digest}");
    let image = image_when(&mirror, |image| image["platforms"][0]["here"] == true).await;
    assert_eq!((&image["name"], &image["pulls"], &image["confirmed"]), (&json!(name), &1.into(), &Value::Null));
    mirror.restart().await;
    assert_eq!(image_when(&mirror, |image| image["platforms"][0]["here"] == true).await, image);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moved_is_what_it_names_now() {
    let TwoPlatforms { registry, digest, amd64, .. } = TwoPlatforms::new().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Default::default()).start().await;
    mirror.get(&manifest("1")).await;
    image_when(&mirror, |image| image["digest"] == digest.as_str()).await;
    registry.tag("team/app", "1", &amd64.manifest);
    mirror.get(&manifest("1")).await;
    let image = image_when(&mirror, |image| image["digest"] == amd64.manifest.as_str()).await;
    assert_eq!(image["pulls"], 2);
    // Its configuration says the platform, once it is here.
    get_blobs(&mirror, &amd64).await;
    let image = image_when(&mirror, |image| image["complete"] == true).await;
    assert_eq!(image["platforms"][0]["platform"], "linux/amd64");
    registry.untag("team/app", "1");
    assert_eq!(mirror.get(&manifest("1")).await.status, 404);
    assert_eq!(ask(&mirror, "images").await["images"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_evicted_is_not_here() {
    let registry = FakeRegistry::start().await;
    let (large, small) = (vec![1; 600 * 1024], vec![2; 600 * 1024]);
    let first = registry.add_image("team/app", "first", &[&large]);
    let second = registry.add_image("team/app", "second", &[&small]);
    let mirror = Mirror::build(&registry).max_size(1 << 20).start().await;
    for (tag, image) in [("first", &first), ("second", &second)] {
        mirror.get(&manifest(tag)).await;
        get_blobs(&mirror, image).await;
    }
    let images = until("one layer is evicted", async || {
        let answer = ask(&mirror, "images?sort=size").await;
        let images = answer["images"].as_array().unwrap().clone();
        let is_so = answer["reading"] == false && images[0]["complete"] == true && images[1]["complete"] == false;
        is_so.then_some(images)
    })
    .await;
    assert_eq!(images[0]["name"], "fake.example/team/app:second");
    assert!(images[1]["size"].as_u64().unwrap() < 64 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_found_shown_and_summed_up() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (repository, tag) in [("team/app", "1"), ("team/app", "2"), ("team/other", "1")] {
        let image = registry.add_image(repository, tag, &[b"a layer of all", tag.as_bytes()]);
        mirror.get(&format!("/v2/{repository}/manifests/{tag}")).await;
        for blob in image.layers.iter().chain([&image.config]) {
            mirror.get(&format!("/v2/{repository}/blobs/{blob}")).await;
        }
    }
    let settled = async |path: &str| {
        until("all is read", async || {
            let answer = ask(&mirror, path).await;
            (answer["reading"] == false && mirror.metric("forebay_fills_in_flight", &[]).await == 0.0).then_some(answer)
        })
        .await
    };
    let names = |answer: &Value| -> Vec<String> {
        let images = answer["images"].as_array().unwrap().iter();
        images.map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    };
    let found = settled("images?match=*%2Fapp:*&sort=pulls").await;
    assert_eq!(names(&found), ["fake.example/team/app:1", "fake.example/team/app:2"]);
    let first = settled("images?sort=pulls&limit=2").await;
    let next = first["next"].as_str().unwrap();
    let rest = ask(&mirror, &format!("images?sort=pulls&limit=2&after={next}")).await;
    assert_eq!((names(&rest), &rest["next"]), (vec!["fake.example/team/other:1".to_owned()], &Value::Null));
    let by_name = ask(&mirror, "images?sort=name&limit=1").await;
    assert_eq!(by_name["next"], "0,shared,fake.example/team/app:1");

    let details = ask(&mirror, "images/fake.example/team/app:1").await;
    assert_eq!(details["media_type"], OCI_MANIFEST);
    let layers = details["manifests"][0]["layers"].as_array().unwrap();
    assert_eq!((&layers[0]["shares"], &layers[0]["here"]), (&2.into(), &true.into()));
    assert_eq!(layers[1]["shared_with"], json!(["fake.example/team/other:1"]));
    assert_eq!((&details["manifests"][0]["platform"], &details["size"]), (&"linux/amd64".into(), &json!(4 * 4096)));
    let missing = ask(&mirror, "images/fake.example/team/none:1").await;
    assert_eq!(missing["error"], "there is no image fake.example/team/none:1 in the cache");
    let wrong = ask(&mirror, "images/fake.example/team%20app").await;
    assert!(wrong["error"].as_str().unwrap().contains("is no name of an image"), "{wrong}");

    let usage = settled("du").await;
    let number = |key: &str| usage[key].as_u64().unwrap();
    // Three manifests and configurations, and three layers.
    assert_eq!(usage["upstreams"], json!([{ "upstream": "fake.example", "bytes": 9 * 4096 }]));
    assert_eq!((number("no_image"), number("tags")), (0, 3 * 4096));
    let parts = ["several_upstreams", "not_shown", "no_image", "tags", "partial", "overhead", "in_flight"];
    assert_eq!(number("total"), 9 * 4096 + parts.map(number).iter().sum::<u64>());
    assert_eq!(number("total") as f64, mirror.metric("forebay_cache_bytes", &[]).await);
    assert_eq!(usage["repositories"][0], json!({ "name": "fake.example/team/app", "bytes": 7 * 4096 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_clients_are_not_told_without_a_token() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let text = format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    );
    let mirror = Mirror::parse(&text).start().await;
    assert_eq!(mirror.get(&manifest("1")).await.status, 200);
    // Without a token, a client of the admin listener is told nothing of them.
    assert_eq!(ask(&mirror, "images").await["images"], json!([]));
    assert!(ask(&mirror, "images/fake.example/team/app:1").await["error"].is_string());
    let usage = ask(&mirror, "du").await;
    assert_eq!((&usage["upstreams"], &usage["repositories"]), (&json!([]), &json!([])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_image_is_gone_at_once() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    mirror.get(&manifest("1")).await;
    image_when(&mirror, |image| image["pulls"] == 1).await;
    assert_eq!(mirror.request(http::Method::DELETE, &manifest(&image.manifest), &[]).await.status, 202);
    assert_eq!(ask(&mirror, "images").await["images"], json!([]));
}
