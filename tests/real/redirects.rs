//! Clients that forebay sends to a real object store for blobs: engines pull there, and nobody gets there what is not theirs.

mod engines;
mod expired;
mod private;

use reqwest::{StatusCode, header, redirect::Policy};
use serde_json::Value;
use url::Url;

use forebay_test_support::{
    real::{
        download::download,
        forebay::Forebay,
        image::Blob,
        registry::Registry,
        seaweedfs::{self, SeaweedFs},
        store_proxy::{Mood, StoreProxy},
    },
    until::until,
};

const SIZE: usize = 3_000_000;

/// `[store]` with a store at this port, which clients of these networks reach by another name of this machine.
fn section(port: u16, clients: &str) -> String {
    let redirects = format!("redirect_clients = [{clients:?}]\nredirect_endpoint = \"http://localhost:{port}\"\n");
    SeaweedFs::section(port) + &redirects
}

/// A forebay before this registry, whose clients of these networks are sent to the store at this port.
async fn node(registry: &Registry, port: u16, clients: &str) -> Forebay {
    let upstream = format!(
        "[[upstream]]\nname = \"docker.io\"\ndefault = true\nredirect = true\nurls = [\"{}\"]\n",
        registry.url()
    );
    Forebay::start(&format!("{upstream}{}", section(port, clients)), &seaweedfs::keys()).await
}

/// A client that follows no redirect.
fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().expect("a client can be made")
}

/// A client that follows redirects.
fn follower() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client can be made")
}

/// Where a response leads.
fn location(response: &reqwest::Response) -> Url {
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT, "{response:?}");
    let location = response.headers()[header::LOCATION].to_str().expect("a URL is text");
    location.parse().expect("a location is a URL")
}

/// Pulls a blob for the first time, and waits until it is in the store.
async fn upload(forebay: &Forebay, store: &SeaweedFs, pool: &str, repository: &str, blob: &Blob) {
    let pulled = download(&forebay.blob_url(repository, blob)).await;
    assert!(pulled.is_whole(&blob.digest), "{pulled:?}\n{}", forebay.log());
    let name = format!("{pool}blobs/sha256/{}/{}", &blob.hex()[..2], blob.hex());
    until("the blob is in the store", async || store.has(&name).await).await;
    until("forebay knows", async || forebay.metric("forebay_store_upload_queue", &[]).await == 0.0).await;
}

async fn redirects(forebay: &Forebay) -> f64 {
    forebay.metric("forebay_redirects_total", &[]).await
}

/// The lines of the access log about GETs of a blob.
fn gets_of(forebay: &Forebay, blob: &Blob) -> Vec<Value> {
    let lines = forebay.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_get = |line: &Value| {
        line["message"] == "request"
            && line["method"] == "GET"
            && line["path"].as_str().is_some_and(|path| path.ends_with(&blob.digest))
    };
    lines.map(fields).filter(is_get).collect()
}

/// The fields of a line, wherever they stand in it.
fn fields(line: Value) -> Value {
    if line["fields"].is_object() { line["fields"].clone() } else { line }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_sent_to_the_store_and_back_if_it_comes_again() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let (blob, small) = (Blob::random(500, SIZE), Blob::random(501, 900_000));
    let forebay = node(&registry, store.port, "127.0.0.0/8").await;
    for blob in [&blob, &small] {
        registry.store("library/app", blob);
        upload(&forebay, &store, "", "library/app", blob).await;
    }
    let url = forebay.blob_url("library/app", &blob);

    let head = client().head(&url).send().await.expect("forebay answers");
    assert_eq!((head.status(), head.headers()[header::CONTENT_LENGTH].to_str().unwrap()), (StatusCode::OK, "3000000"));
    let first = client().get(&url).send().await.expect("forebay answers");
    let there = location(&first);
    assert_eq!(there.host_str(), Some("localhost"), "{there}");
    assert!(there.query_pairs().any(|pair| pair == ("X-Amz-Expires".into(), "1200".into())), "{there}");
    assert_eq!(first.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(first.headers()["docker-content-digest"], *blob.digest);
    let content = client().get(there).send().await.expect("the store answers");
    assert_eq!(content.bytes().await.expect("it is whole"), blob.bytes);

    // It could not reach the store, as far as forebay can tell.
    let again = client().get(&url).send().await.expect("forebay answers");
    assert_eq!((again.status(), again.bytes().await.expect("it is whole")), (StatusCode::OK, blob.bytes.clone()));
    location(&client().get(&url).send().await.expect("forebay answers"));
    assert_eq!(forebay.metric("forebay_redirect_returns_total", &[]).await, 1.0);

    // A range goes along; several of them, and small blobs, are served here.
    let range = follower().get(&url).header(header::RANGE, "bytes=7-9").send().await.expect("the store answers");
    assert_eq!((range.status(), &range.bytes().await.unwrap()[..]), (StatusCode::PARTIAL_CONTENT, &blob.bytes[7..10]));
    for (url, range) in [(&url, "bytes=0-1,7-9"), (&forebay.blob_url("library/app", &small), "bytes=0-")] {
        let served = client().get(url).header(header::RANGE, range).send().await.expect("forebay answers");
        assert_eq!(served.status(), StatusCode::PARTIAL_CONTENT);
    }
    let beyond = client().get(&url).header(header::RANGE, "bytes=3000000-").send().await.expect("forebay answers");
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    // This one comes back: the next would be sent there again.
    let back = client().get(&url).send().await.expect("forebay answers");
    assert_eq!(back.status(), StatusCode::OK);
    let forwarded = client().get(&url).header("x-forwarded-for", "127.0.0.1").send().await.expect("forebay answers");
    assert_eq!(forwarded.status(), StatusCode::OK);

    assert_eq!(redirects(&forebay).await, 3.0);
    assert_eq!(forebay.metric("forebay_redirected_bytes_total", &[]).await, 2.0 * SIZE as f64 + 3.0);
    registry.assert_one_get_of(&blob).await;
    let told = forebay.operate(&["explain", "library/app:1"]).await.failed();
    assert!(told.contains("blobs over 1 MiB from http://localhost:"), "{told}");
    assert!(!forebay.log().contains("X-Amz-Signature"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_url_is_refused_by_the_store() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let (blob, other) = (Blob::random(510, SIZE), Blob::random(511, SIZE));
    let forebay = node(&registry, store.port, "127.0.0.0/8").await;
    for blob in [&blob, &other] {
        registry.store("library/app", blob);
        upload(&forebay, &store, "", "library/app", blob).await;
    }
    let first = client().get(forebay.blob_url("library/app", &blob)).send().await.expect("forebay answers");
    let there = location(&first);
    let with = |name: &str, value: &str| {
        let pairs: Vec<(String, String)> = there
            .query_pairs()
            .map(|(key, old)| (key.to_string(), if key == name { value.to_owned() } else { old.into_owned() }))
            .collect();
        let mut url = there.clone();
        url.query_pairs_mut().clear().extend_pairs(pairs);
        url
    };
    let of = |path: &str, query: Option<&str>| {
        let mut url = there.clone();
        url.set_path(path);
        url.set_query(query);
        url
    };
    let path = there.path().replace(blob.hex(), other.hex()).replace(&blob.hex()[..2], &other.hex()[..2]);
    for (url, what) in [
        (with("X-Amz-Signature", &"0".repeat(64)), "another signature"),
        (with("X-Amz-Expires", "604800"), "a longer time"),
        (with("X-Amz-Date", "20200101T000000Z"), "another time"),
        (of(&path, there.query()), "another blob"),
        (of(there.path(), None), "no signature"),
    ] {
        let refused = client().get(url).send().await.expect("the store answers");
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{what}");
    }
    let deleted = client().delete(there.clone()).send().await.expect("the store answers");
    assert_eq!(deleted.status(), StatusCode::FORBIDDEN, "the URL is for a GET alone");
    assert_eq!(client().get(there).send().await.expect("the store answers").status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_outside_of_the_networks_get_bytes() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let blob = Blob::random(520, SIZE);
    registry.store("library/app", &blob);
    let forebay = node(&registry, store.port, "10.0.0.0/8").await;
    upload(&forebay, &store, "", "library/app", &blob).await;
    let served = client().get(forebay.blob_url("library/app", &blob)).send().await.expect("forebay answers");
    assert_eq!((served.status(), served.bytes().await.expect("it is whole")), (StatusCode::OK, blob.bytes.clone()));
    assert_eq!(redirects(&forebay).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_slow_or_down_clients_get_bytes() {
    let (registry, mut store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    let blobs: Vec<Blob> = (530..534).map(|seed| Blob::random(seed, SIZE)).collect();
    let mut forebay = node(&registry, proxy.port, "127.0.0.0/8").await;
    for blob in &blobs {
        registry.store("library/app", blob);
        upload(&forebay, &store, "", "library/app", blob).await;
    }
    let status = async |forebay: &Forebay, blob: &Blob| {
        let served = client().get(forebay.blob_url("library/app", blob)).send().await.expect("forebay answers");
        served.status()
    };
    // After a start it knows of no object.
    forebay.kill();
    forebay.revive().await;
    proxy.set(Mood::Late(std::time::Duration::from_secs(3)));
    assert_eq!(status(&forebay, &blobs[0]).await, StatusCode::OK);
    proxy.set(Mood::Well);
    until("the store is asked again", async || status(&forebay, &blobs[1]).await == StatusCode::TEMPORARY_REDIRECT)
        .await;
    store.kill("");
    // What was seen counts for a few seconds at most, and a client that comes back is served in any case.
    for _ in 0..2 {
        let served = status(&forebay, &blobs[2]).await;
        assert!(matches!(served, StatusCode::OK | StatusCode::TEMPORARY_REDIRECT), "{served}");
    }
    until("forebay sees that the store is down", async || {
        status(&forebay, &blobs[3]).await == StatusCode::OK && status(&forebay, &blobs[3]).await == StatusCode::OK
    })
    .await;
    for blob in &blobs {
        let served = client().get(forebay.blob_url("library/app", blob)).send().await.expect("forebay answers");
        assert_eq!(served.bytes().await.expect("it is whole"), blob.bytes);
        registry.assert_one_get_of(blob).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_got_wrong_bytes_there_gets_right_ones_here() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let blob = Blob::random(540, SIZE);
    registry.store("library/app", &blob);
    let forebay = node(&registry, store.port, "127.0.0.0/8").await;
    upload(&forebay, &store, "", "library/app", &blob).await;
    let mut wrong = blob.bytes.to_vec();
    wrong[SIZE / 2] ^= 1;
    store.put(&format!("blobs/sha256/{}/{}", &blob.hex()[..2], blob.hex()), &wrong).await;
    let url = forebay.blob_url("library/app", &blob);
    let get = async || follower().get(&url).send().await.expect("an answer").bytes().await.expect("it is whole");
    assert_eq!(get().await, wrong, "the client verifies what the store sends");
    assert_eq!(get().await, blob.bytes);
    // It came back: forebay reads the object itself, and nobody is sent there any more.
    until("it is found", async || forebay.metric("forebay_store_wrong_objects_total", &[]).await == 1.0).await;
    for _ in 0..3 {
        assert_eq!(get().await, blob.bytes);
    }
}
