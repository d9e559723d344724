//! Rules in front of docker-registry: what skopeo gets of a tag that moves, and what it shows of a refusal.

use std::fs;

use serde_json::Value;

use forebay_test_support::real::{
    forebay::Forebay,
    image::{Format, Image},
    podman::Podman,
    registry::Registry,
};

const WEEK: u64 = 7 * 24 * 60 * 60;

/// Makes a forebay that does not run believe that its last checks were a week ago.
fn a_week_ago(forebay: &Forebay) {
    let file = forebay.cache().with_file_name("state").join("first-seen");
    let text = fs::read_to_string(&file).expect("forebay has seen tags");
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).expect("each line is JSON");
        for class in line["seen"].as_array_mut().expect("a tag has classes") {
            for key in ["since", "checked"] {
                class[key] = (class[key].as_u64().expect("a time") - WEEK).into();
            }
        }
        format!("{line}\n")
    });
    fs::write(&file, lines.collect::<String>()).expect("the file can be written");
}

/// The digest of a reference, as skopeo tells it.
async fn inspect(user: &Podman, forebay: &Forebay, reference: &str) -> String {
    let source = format!("docker://127.0.0.1:{}/team/app{reference}", forebay.port);
    let told = user.skopeo(&["inspect", "--tls-verify=false", &source]).await.ok();
    let told: Value = serde_json::from_slice(&told).expect("skopeo tells JSON");
    told["Digest"].as_str().expect("a digest").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_gets_a_moved_tag_once_it_is_old_enough() {
    let registry = Registry::open().await;
    let images = [50, 51].map(|seed| Image::new(Format::Oci, seed, &[1_000]));
    let [old, new] = images.each_ref().map(|image| image.manifest.blob.digest.clone());
    registry.pusher().image("team/app", "1", &images[0]).await;
    registry.pusher().image("team/app", "evil", &images[0]).await;
    let config = format!(
        "[cache]\ntag_ttl = 0\n[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\n\
         default = true\nlibrary = true\n[[rule]]\nmatch = \"*:evil\"\ndeny = true\n\
         [[rule]]\nmatch = \"*\"\nminimum_age = \"7d\"\nminimum_age_first = \"allow\"\n",
        registry.url()
    );
    let mut forebay = Forebay::start(&config, &[]).await;
    let user = Podman::new("");
    assert_eq!(inspect(&user, &forebay, ":1").await, old);
    registry.pusher().image("team/app", "1", &images[1]).await;
    assert_eq!(inspect(&user, &forebay, ":1").await, old);
    forebay.kill();
    forebay.revive().await;
    assert_eq!(inspect(&user, &forebay, ":1").await, old, "a kill loses nothing");
    assert_eq!(inspect(&user, &forebay, &format!("@{new}")).await, new);
    forebay.kill();
    a_week_ago(&forebay);
    forebay.revive().await;
    assert_eq!(inspect(&user, &forebay, ":1").await, new);

    let source = format!("docker://127.0.0.1:{}/team/app:evil", forebay.port);
    let refused = user.skopeo(&["inspect", "--tls-verify=false", &source]).await;
    let said = refused.failed();
    assert!(said.contains("a rule of this mirror denies this"), "{said}");
}
