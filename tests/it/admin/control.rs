//! The control socket of the real mirror.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use forebay::{
    app::{App, Error, Inherited},
    config::{self, Config, Loaded, Overrides, Variables},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror, until::soon};

/// The status and the body of an answer.
pub(super) async fn ask(socket: &Path, method: &str, path: &str) -> (String, String) {
    let mut client = UnixStream::connect(socket).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", client.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

async fn configuration(socket: &Path) -> Value {
    let (status, body) = ask(socket, "GET", "/api/v1/config").await;
    assert_eq!(status, "200");
    serde_json::from_str(&body).unwrap()
}

fn socket_of(mirror: &Mirror) -> &Path {
    mirror.config().admin.socket.as_deref().unwrap()
}

/// The mirror's configuration as a file with this text beside it would change it.
fn loaded(mirror: &Mirror, text: &str) -> Loaded {
    let path = mirror.cache_dir().with_file_name("forebay.toml");
    let read = config::compose(Some(&path), text, &Variables::default(), Overrides::default()).unwrap();
    let cache = forebay_cache(mirror.config(), &read.config);
    Loaded { config: cache, ..read }
}

/// What runs, with the times and the memory of the cache of another configuration.
fn forebay_cache(running: &Config, other: &Config) -> Config {
    let mut config = running.clone();
    (config.cache.tag_ttl, config.cache.manifest_memory) = (other.cache.tag_ttl, other.cache.manifest_memory);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_the_configuration_and_the_last_reload() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let socket = socket_of(&mirror);
    let first = configuration(socket).await;
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(first["listening"], serde_json::json!([mirror.address().to_string()]));
    assert_eq!(first["admin"], mirror.app().admin_addr().to_string());
    assert_eq!(first["config"]["upstream"][0]["name"], "fake.example");
    assert_eq!(first["config"]["cache"]["tag_ttl"], "1m");
    assert_eq!(first["origins"]["cache.tag_ttl"]["from"], "default");
    assert!(first["reloaded"].is_null() && first["started"].is_string());

    let text = "\n[cache]\ntag_ttl = \"5m\"\nmanifest_memory = \"1 MiB\"\n";
    mirror.app().reload(loaded(&mirror, text)).unwrap();
    let second = configuration(socket).await;
    assert!(second["reloaded"].is_string());
    assert_eq!(second["config"]["cache"]["tag_ttl"], "5m");
    assert_eq!(second["config"]["cache"]["manifest_memory"], "64 MiB", "what runs, not what the file says");
    assert_eq!(second["origins"]["cache.manifest_memory"]["from"], "default", "where the running value comes from");
    let origin = &second["origins"]["cache.tag_ttl"];
    assert_eq!((&origin["from"], &origin["line"]), (&"file".into(), &3.into()));
    assert!(origin["file"].as_str().unwrap().ends_with("forebay.toml"));

    // A reload that fails changes nothing.
    let mut bad = loaded(&mirror, "[cache]\ntag_ttl = \"9m\"\n");
    bad.config.access.htpasswd = Some("/nowhere/htpasswd".into());
    assert!(mirror.app().reload(bad).is_err());
    assert_eq!(configuration(socket).await, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_for_its_user_and_goes_with_the_mirror() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let socket = socket_of(&mirror).to_owned();
    let metadata = fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o777, 0o600);
    for (method, path, expected) in [
        ("POST", "/api/v1/config", "405"),
        ("GET", "/api/v1/nothing", "404"),
        ("GET", "/metrics", "404"),
        ("GET", "/v2/", "404"),
    ] {
        let (status, body) = ask(&socket, method, path).await;
        assert_eq!(status, expected, "{method} {path}");
        assert!(serde_json::from_str::<Value>(&body).unwrap()["error"].is_string(), "{body}");
    }
    mirror.drain().await;
    assert!(!socket.exists());
    mirror.start().await;
    assert!(socket.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let socket = socket_of(&mirror).to_owned();
    let mut second = mirror.config().clone();
    second.cache.directory = mirror.cache_dir().with_file_name("other-cache");
    let refused = App::start(second, Inherited::default()).await;
    let Err(error @ Error::Control(_)) = refused else { panic!("the socket of another forebay was taken") };
    assert!(!error.is_configuration());
    configuration(&socket).await;
    mirror.drain().await;
    // As a kill leaves it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    mirror.start().await;
    configuration(&socket).await;
}
