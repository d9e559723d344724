//! Pushing through forebay, as real clients do it, to a real registry; and what it then says, next to what the registry
//! itself says.

mod chain;
mod cut;
mod dialects;
mod replay;
mod size;

use std::fs;

use serde_json::json;

use forebay_test_support::real::{
    containerd::Containerd,
    docker::Docker,
    download::client,
    forebay::Forebay,
    image::{Format, Image, Index},
    podman::Podman,
    registry::Registry,
    token_server::TokenServer,
    turn::Turn,
};

/// A forebay that passes pushes on to this registry, anonymously.
async fn open_mirror(registry: &Registry) -> Forebay {
    let upstream = format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    Forebay::start(&format!("{upstream}push = true\n"), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in_pushes_all_tags_and_another_docker_pulls_them() {
    let _turn = Turn::of_the_engines().await;
    let tokens = TokenServer::start("robot", "secret").await;
    let registry = Registry::with_tokens(&tokens).await;
    let image = Image::new(Format::Docker, 71, &[2_000_000, 30_000]);
    registry.pusher().image("team/source", "1", &image).await;
    let users = format!("ann:{}\n", bcrypt::hash("hers", 4).expect("a password can be hashed"));
    let config = format!(
        "[access]\nanonymous = \"none\"\nhtpasswd = \"htpasswd\"\n[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\n\
         default = true\nrealms = [\"127.0.0.1\"]\nusername = \"robot\"\npassword_file = \"password\"\npush = true\n",
        registry.url()
    );
    let forebay = Forebay::start(&config, &[("password", "secret"), ("htpasswd", &users)]).await;
    let host = format!("127.0.0.1:{}", forebay.port);
    let source = format!("{host}/team/source:1");
    let target = format!("{host}/team/app");

    let docker = Docker::start(json!({}), &[], &[]).await;
    docker.run(&["push", &target]).await.failed();
    docker.run(&["login", "--username", "ann", "--password", "wrong", &host]).await.failed();
    docker.run(&["login", "--username", "ann", "--password", "hers", &host]).await.ok();
    docker.run(&["pull", &source]).await.ok();
    for tag in ["1", "2", "3"] {
        docker.run(&["tag", &source, &format!("{target}:{tag}")]).await.ok();
    }
    docker.run(&["push", "--all-tags", &target]).await.ok();
    for question in tokens.asked() {
        assert_eq!(question.user.as_deref(), Some("robot"), "{question:?}");
    }

    let other = Docker::start(json!({}), &[], &[]).await;
    other.run(&["pull", &format!("{target}:1")]).await.failed();
    other.run(&["login", "--username", "ann", "--password", "hers", &host]).await.ok();
    for tag in ["1", "2", "3"] {
        other.pull_and_remove(&format!("{target}:{tag}"), &image).await;
    }
    other.run(&["logout", &host]).await.ok();
    other.run(&["pull", &format!("{target}:1")]).await.failed();
    assert!(forebay.metric("forebay_requests_total", &["operation=\"push\"", "outcome=\"bypass\""]).await > 0.0);
    forebay.assert_stored_blobs_are_right();
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_an_index_lists_tags_and_deletes() {
    let registry = Registry::open().await;
    let multi = Index::new(Format::Oci, 73, &[200_000, 1_000]);
    registry.pusher().index("team/source", "1", &multi).await;
    let forebay = open_mirror(&registry).await;
    let user = Podman::new("");
    let name = |repository: &str| format!("docker://127.0.0.1:{}/{repository}", forebay.port);
    let clear = ["--src-tls-verify=false", "--dest-tls-verify=false"];

    for tag in ["1", "2"] {
        let target = name(&format!("team/app:{tag}"));
        user.skopeo(&["copy", "--all", clear[0], clear[1], &name("team/source:1"), &target]).await.ok();
    }
    let listed = user.skopeo(&["list-tags", "--tls-verify=false", &name("team/app")]).await.ok();
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("a list of tags");
    let mut tags: Vec<&str> = listed["Tags"].as_array().into_iter().flatten().filter_map(|tag| tag.as_str()).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2"]);
    let folder = user.place("all");
    let to = format!("dir:{}", folder.display());
    user.skopeo(&["copy", "--all", clear[0], &name("team/app:2"), &to]).await.ok();
    assert_eq!(fs::read(folder.join("manifest.json")).expect("an index"), multi.index.blob.bytes);
    for blob in multi.images.iter().flat_map(|image| image.layers.iter().chain([&image.config])) {
        assert_eq!(fs::read(folder.join(blob.hex())).expect("the blob was copied"), blob.bytes);
    }

    user.skopeo(&["delete", "--tls-verify=false", &name("team/app:1")]).await.ok();
    for tag in ["1", "2"] {
        let gone = user.skopeo(&["inspect", "--raw", "--tls-verify=false", &name(&format!("team/app:{tag}"))]).await;
        assert!(gone.failed().contains("manifest unknown"), "both were the same manifest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pushes_what_it_has_pulled() {
    let registry = Registry::open().await;
    let image = Image::new(Format::Oci, 74, &[300_000, 1_000]);
    registry.pusher().image("team/source", "1", &image).await;
    let forebay = open_mirror(&registry).await;
    let registries = format!("[[registry]]\nlocation = \"127.0.0.1:{}\"\ninsecure = true\n", forebay.port);
    let user = Podman::new(&registries);
    let name = |repository: &str| format!("127.0.0.1:{}/{repository}", forebay.port);
    user.pull(&name("team/source:1")).await.ok();
    let policy = user.place("policy.json").display().to_string();
    let (source, target) = (name("team/source:1"), name("team/app:1"));
    user.podman(&["push", "--signature-policy", &policy, &source, &target]).await.ok();
    user.podman(&["rmi", "--all", "--force"]).await.ok();
    user.pull(&target).await.ok();
}

/// containerd asks for each manifest by its digest whether it is there, and leaves it out then.
#[tokio::test(flavor = "multi_thread")]
async fn containerd_pushes_an_index() {
    let _turn = Turn::of_the_engines().await;
    let registry = Registry::open().await;
    let multi = Index::new(Format::Oci, 78, &[200_000, 1_000]);
    registry.pusher().index("team/source", "1", &multi).await;
    let forebay = open_mirror(&registry).await;
    let containerd = Containerd::start().await;
    let name = |repository: &str| format!("127.0.0.1:{}/{repository}:1", forebay.port);
    let (source, target) = (name("team/source"), name("team/app"));
    containerd.run(&["content", "fetch", "--plain-http", "--all-platforms", &source]).await.ok();
    // Cached here under another repository, all of it.
    for image in &multi.images {
        let path = format!("/v2/team/source/manifests/{}", image.manifest.blob.digest);
        let got = client().get(forebay.url(&path)).header("accept", image.manifest.media_type).send().await;
        assert_eq!(got.expect("forebay answers").status(), 200);
    }
    containerd.run(&["images", "push", "--plain-http", &target, &source]).await.ok();
    let got = client().get(forebay.url("/v2/team/app/manifests/1")).header("accept", multi.index.media_type);
    let bytes = got.send().await.expect("forebay answers").bytes().await.expect("the whole index");
    assert_eq!(bytes, multi.index.blob.bytes);
    for image in &multi.images {
        let there = registry.url() + &format!("/v2/team/app/manifests/{}", image.manifest.blob.digest);
        let asked = client().get(there).header("accept", image.manifest.media_type).send().await;
        assert_eq!(asked.expect("the registry answers").status(), 200);
    }
}
