//! A Docker daemon pulls from a second registry by a name that begins with forebay's: `forebay.test:PORT/second.example/…`.

use serde_json::json;
use tempfile::TempDir;

use forebay_test_support::real::{
    certificate::Authority,
    docker::Docker,
    forebay::Forebay,
    image::{Format, Image},
    registry::Registry,
    turn::Turn,
};

/// Docker trusts every name of 127.0.0.0/8 without TLS; an address outside of it that leads to this machine as well
/// shows that the daemon's own settings decide.
const HOSTS: &str = "0.0.0.0 forebay.test";

/// A registry that wants a password and has a private authority, with one image in it.
async fn second_registry(image: &Image) -> Registry {
    let registry = Registry::with_password("robot$mirror", "s3cret:with colon").await;
    registry.pusher().image("team/app", "1", image).await;
    registry
}

fn config(registry: &Registry) -> String {
    format!(
        r#"
        [[upstream]]
        name = "second.example"
        urls = ["{}"]
        ca = "ca.crt"
        username = "robot$mirror"
        password_file = "password"
        "#,
        registry.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_pulls_a_second_registry_as_insecure() {
    let _turn = Turn::of_the_engines().await;
    let image = Image::new(Format::Docker, 10, &[200_000, 5_000]);
    let registry = second_registry(&image).await;
    let files = [("ca.crt", registry.authority_pem()), ("password", "s3cret:with colon".to_owned())];
    let files = files.each_ref().map(|(name, content)| (*name, content.as_str()));
    let forebay = Forebay::start(&config(&registry), &files).await;
    let reference = format!("forebay.test:{}/second.example/team/app:1", forebay.port);

    let strict = Docker::start(json!({}), &[HOSTS], &[]).await;
    let said = strict.try_pull(&reference).await.failed();
    assert!(said.contains("HTTP response to HTTPS client"), "without the setting the daemon wants TLS: {said}");
    drop(strict);

    let insecure = json!({ "insecure-registries": [format!("forebay.test:{}", forebay.port)] });
    let docker = Docker::start(insecure, &[HOSTS], &[]).await;
    docker.pull_and_remove(&reference, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_pulls_a_second_registry_over_tls_with_its_ca() {
    let _turn = Turn::of_the_engines().await;
    let image = Image::new(Format::Oci, 11, &[200_000, 5_000]);
    let registry = second_registry(&image).await;
    let keys = TempDir::new().expect("a folder can be made");
    let authority = Authority::new();
    let identity = authority.issue(keys.path(), &["forebay.test"]);
    let tls = format!("[server.tls]\ncertificate = {:?}\nkey = {:?}\n", identity.certificate, identity.key);
    let files = [("ca.crt", registry.authority_pem()), ("password", "s3cret:with colon\n".to_owned())];
    let files = files.each_ref().map(|(name, content)| (*name, content.as_str()));
    let forebay = Forebay::start(&(tls + &config(&registry)), &files).await;
    let name = format!("forebay.test:{}", forebay.port);
    let reference = format!("{name}/second.example/team/app:1");

    let stranger = Docker::start(json!({}), &[HOSTS], &[]).await;
    let said = stranger.try_pull(&reference).await.failed();
    assert!(said.contains("x509"), "without ca.crt the daemon refuses the certificate: {said}");
    drop(stranger);

    let docker = Docker::start(json!({}), &[HOSTS], &[(&name, &authority.pem())]).await;
    docker.pull_and_remove(&reference, &image).await;
}
